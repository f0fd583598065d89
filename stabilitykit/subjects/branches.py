"""What a block adds to the residual stream, found by arithmetic: branches, the norms before them, and their bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SUM, _FIT = 1e-12, 1e-9
"""What two float64 computations of one sum may differ by, relative to its terms, and a norm from its formula."""

_MOST = 12
"""Children of a block up to which all their sums are tried; beyond it a block is too wide to take apart."""


@dataclass(frozen=True)
class Branch:
    """Children of a block in the order in which they follow each other; what the last one returns, times `scale`, is
    added to the residual stream."""

    modules: tuple[str, ...]
    scale: float


def branches(entered: Tensor, left: Tensor, children: Mapping[str, tuple[Tensor, Tensor]]) -> list[Branch]:
    """Return the residual branches of a block from the float64 states of one forward, [] if it is no sum of them.

    `entered` and `left` (M,) are the block's input and output, `children` what each child was given and returned, in
    the block's own order. A set of children is sought, the smallest first, whose outputs add up to left - entered times
    one scale. Each is then followed back: the child whose output is, bit for bit, what the next one is given.
    """
    names = [name for name, (_, out) in children.items() if out.shape == entered.shape][:_MOST]
    change, size = left - entered, float(entered.norm() + left.norm())
    for count in range(1, min(len(names), 4) + 1):
        for chosen in itertools.combinations(names, count):
            whole = torch.stack([children[name][1] for name in chosen]).sum(dim=0)
            terms = size + sum(float(children[name][1].norm()) for name in chosen)
            if (scale := _scale(change, whole, terms)) is not None:
                return [Branch(_followed_back(name, children), scale) for name in chosen]
    return []


def _scale(change: Tensor, whole: Tensor, size: float) -> float | None:
    """Return the factor that makes `whole` the change, 1 where 1 does; None if there is none."""
    length = float(whole @ whole)
    if not length:
        return None
    for scale in (1.0, float(whole @ change) / length):
        if scale and float((change - scale * whole).norm()) <= _SUM * size:
            return scale
    return None


def _followed_back(last: str, children: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[str, ...]:
    path = [last]
    while True:
        given = children[path[0]][0]
        sources = [
            name
            for name, (_, out) in children.items()
            if name not in path and out.shape == given.shape and torch.equal(out, given)
        ]
        if not sources:
            return tuple(path)
        path.insert(0, sources[-1])


def norm_bound(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return max |g| / rms, the most that a norm with weight g can stretch a change at x; nan if it is no such norm.

    Recognised by what it does to x (M,) and returned as y (M,), both float64: y = s g (x - c) + b with c zero or the
    mean of x, g = weight, 1 + weight or 1, b = bias or 0, and 1 / s^2 the mean square of x - c but for a small epsilon.
    The Jacobian of such a norm is s diag(g) times a contraction, so s max |g| bounds its singular values.
    """
    if any(True for _ in module.children()) or x.shape != y.shape:
        return math.nan
    weight, bias = (_vector(module, name, x) for name in ("weight", "bias"))
    gains = [torch.ones_like(x)] if weight is None else [weight, 1 + weight]
    offset = torch.zeros_like(x) if bias is None else bias
    for g, centred in itertools.product(gains, (x, x - x.mean())):
        s = _fitted(y - offset, g * centred)
        if s is not None and 0 <= 1 / s**2 / float(centred.square().mean()) - 1 + _FIT <= 0.1:
            return s * float(g.abs().max())
    return math.nan


def _vector(module: nn.Module, name: str, x: Tensor) -> Tensor | None:
    value = getattr(module, name, None)
    return value.detach().to(x) if isinstance(value, Tensor) and value.shape == x.shape else None


def _fitted(y: Tensor, basis: Tensor) -> float | None:
    """Return s > 0 with y = s basis, or None."""
    length = float(basis @ basis)
    s = float(basis @ y) / length if length else 0.0
    return s if s > 0 and float((y - s * basis).norm()) <= _FIT * float(y.norm()) else None


def heaviest(model: nn.Module, names: Sequence[str]) -> str:
    """Return the module with the most parameters: what a branch is called after."""
    return max(names, key=lambda name: sum(weight.numel() for weight in model.get_submodule(name).parameters()))
