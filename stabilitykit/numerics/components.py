"""How many components of a state a prediction needs, the largest taken first; and how its numbers are spread."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from stabilitykit.numerics.rounding import Floats

_AT_ONCE = 32
"""Components whose partial logits are held at a time."""


@dataclass(frozen=True, eq=False)
class Curve:
    """P(k) of one token for k = 0 .. d components, (d + 1,), as it is and `rescaled` to the full state's length."""

    plain: Floats
    rescaled: Floats
    order: Floats


@dataclass(frozen=True, slots=True)
class Needed:
    """Components needed for a share q of the full probability; the curve may fall below the line again.

    `first`: the smallest k >= 1 with P(k) >= q P(d). `stay`: the smallest k from which on that holds for good.
    `margin`: the least |P(k) - q P(d)| of all k >= 1. An error of the curve that is smaller moves neither count.
    """

    first: int
    stay: int
    margin: float


def curve(W: Tensor, bias: Tensor, h: Tensor, token: int) -> Curve:
    """Return the softmax probability of `token` from the k largest |h_j|, of equal ones the lower index first.

    W (V, d) of any dtype, bias (V,), h (d,): z(k) = bias + sum over the first k of W[:, j] h_j, in float64. The
    rescaled curve multiplies that sum by |h| over the length of the part of h that is used, which takes the effect of
    its shorter length away. O(V d) products and exponentials, O(V) memory times a block of components.
    """
    h = h.double().cpu()
    order = torch.argsort(-h.abs(), stable=True)
    lengths = h[order].square().cumsum(0).sqrt()
    scale = torch.where(lengths > 0, torch.linalg.vector_norm(h) / lengths, 1.0)
    total = torch.zeros(len(W), dtype=torch.float64)
    found = [torch.stack([_probability(bias[None].double(), token)] * 2)]
    for places in torch.split(torch.arange(len(h)), _AT_ONCE):
        kept = order[places]
        parts = W[:, kept.to(W.device)].T.double().cpu() * h[kept, None]
        sums = total + parts.cumsum(0)
        total = sums[-1].clone()
        found.append(torch.stack([_probability(sums * by + bias, token) for by in (1.0, scale[places, None])]))
    plain, rescaled = torch.cat(found, dim=1).numpy()
    return Curve(plain, rescaled, order.numpy())


def _probability(z: Tensor, token: int) -> Tensor:
    return (z[:, token] - z.logsumexp(dim=1)).exp()


def needed(curve: Floats, share: float) -> Needed:
    """Return how many components a share of the last probability of a curve (d + 1,) needs; see `Needed`. O(d)."""
    line = share * curve[-1]
    above = curve[1:] >= line
    below = np.flatnonzero(~above)
    stay = int(below[-1]) + 2 if below.size else 1
    return Needed(int(np.argmax(above)) + 1, stay, float(np.abs(curve[1:] - line).min()))


def beyond_normal(x: Floats, level: float = 0.05) -> int:
    """Return how many of x (n,) lie further from their mean than the largest of n normal numbers would.

    |x - mean| / sd above the two-sided `level` bound after Bonferroni, Phi^-1(1 - level / 2n); sd with n - 1.
    """
    if not (spread := float(x.std(ddof=1))):
        return 0
    bound = NormalDist().inv_cdf(1 - level / (2 * len(x)))
    return int((np.abs(x - x.mean()) > bound * spread).sum())


def entropy(z: Tensor) -> Tensor:
    """Return the entropy in nats, -sum p ln p of the softmax over the last axis of z (..., V), in float64."""
    logs = torch.log_softmax(z.double(), dim=-1)
    weighed: Tensor = torch.special.entr(logs.exp()).sum(-1)
    return weighed
