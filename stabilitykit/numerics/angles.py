"""The angle between two vectors, exact where their cosine rounds to 1 and where they point away from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Turn:
    """How far one direction is from another.

    With unit vectors u and v, in float64: `one_minus_cosine` = |u - v|^2 / 2, which does not cancel, and `degrees` =
    2 atan2(|u - v|, |u + v|), which is exact at both ends. Both are 0 for equal vectors, a zero included, and nan
    where only one is zero or an element is not finite.
    """

    one_minus_cosine: float
    degrees: float


def turn(a: Tensor, b: Tensor) -> Turn:
    """Return how far b (M,) points away from a (M,), of any dtypes and lengths. O(M) in float64."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return Turn(math.nan, math.nan)
    if torch.equal(a, b):
        return Turn(0.0, 0.0)
    u, v = _unit(a), _unit(b)
    apart, along = (float(torch.linalg.vector_norm(one)) for one in (u - v, u + v))
    return Turn(apart**2 / 2, math.degrees(2 * math.atan2(apart, along)))


def _unit(x: Tensor) -> Tensor:
    """Return x over its length, first over its largest element, whose square might not be a float64; nan for zero."""
    x = x / x.abs().max()
    unit: Tensor = x / torch.linalg.vector_norm(x)
    return unit
