"""How far a state is from the planes on which two tokens tie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.last_states import largest
from stabilitykit.numerics.rounding import Floats
from stabilitykit.subjects.readout import NormAndHead

Ids = NDArray[np.int64]

_ROWS = 8192
"""Rows of the head that are held in float64 at a time."""
_SAME = 1e-13
"""Squared distance of two rows, over their squared lengths, below which rounding cannot tell them apart."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Of N states: the two first tokens, their margin z1 - z2 and the distance (z1 - z2) / |w1 - w2| to their plane.

    `nearest` is the token whose plane with the first is nearest of all, at `nearest_distance`.
    """

    first: Ids
    second: Ids
    margin: Floats
    distance: Floats
    nearest: Ids
    nearest_distance: Floats


def planes(tool: NormAndHead, states: Tensor, logits: Tensor) -> Planes:
    """Return the planes of states (N, H) that the head read, their order taken from its logits (N, V).

    One pass over the head in float64, N V d products twice; the margins of the two first and of the nearest are summed
    exactly. A row that equals the first token's has no plane with it.
    """
    pairs = [largest(row, 2) for row in logits]
    first, second = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    nearest = _nearest(tool, states, first)
    to_second, to_nearest = (
        [_distance(tool, *one) for one in zip(states, first.tolist(), others.tolist(), strict=True)]
        for others in (second, nearest)
    )
    margin, distance = (np.array(values) for values in zip(*to_second, strict=True))
    return Planes(first, second, margin, distance, nearest, np.array([apart for _, apart in to_nearest]))


def _nearest(tool: NormAndHead, states: Tensor, first: Ids) -> Ids:
    """Return for each state the token other than its first whose plane with the first is nearest, (N,)."""
    H = states.double()
    W1, bias1 = tool.rows(first.tolist())
    z1 = (W1 * H).sum(1) + bias1
    own = W1.square().sum(1)
    best, where = torch.full((len(H),), torch.inf, dtype=torch.float64), torch.zeros(len(H), dtype=torch.int64)
    bias = tool.bias
    for start in range(0, len(tool.weight), _ROWS):
        W = tool.weight[start : start + _ROWS].double().cpu()
        lengths = W.square().sum(1)[:, None] + own
        apart = lengths - 2 * W @ W1.T
        distance = (z1 - W @ H.T - bias[start : start + _ROWS, None]) / apart.clamp(min=0).sqrt()
        least, place = torch.where(apart > _SAME * lengths, distance, torch.inf).min(dim=0)
        where = torch.where(least < best, place + start, where)
        best = torch.minimum(least, best)
    return np.asarray(where.numpy())


def _distance(tool: NormAndHead, state: Tensor, first: int, second: int) -> tuple[float, float]:
    """Return the exact margin of two tokens and the distance of a state to their plane; inf for one that has none."""
    ahead, _ = tool.preference(state, first, second)
    W, _ = tool.rows((first, second))
    apart = float(torch.linalg.vector_norm(W[0] - W[1]))
    return ahead, ahead / apart if apart else np.inf
