"""A grid of inputs in a plane: x0 + e1 h1 + e2 h2, with both directions treated alike and the centre exactly x0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.rounding import Floats

RULES = ("p64r", "p32")


def axis(low: float, high: float, n: int) -> Floats:
    """Return n equally spaced numbers from low to high, both ends exact, and 0 exact in the middle of (-s, s).

    ((n - 1 - k) low + k high) / (n - 1), which changes only its sign if the ends change places and signs: `linspace`
    adds multiples of a rounded step, and misses the middle. UsageError for n < 2 or ends in another order.
    """
    if not isinstance(n, int) or n < 2:
        raise UsageError(f"n={n!r} points make no axis; give at least 2")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"an axis from {low!r} to {high!r} has no length; give finite ends in ascending order")
    k = np.arange(n, dtype=np.float64)
    points: Floats = ((n - 1 - k) * low + k * high) / (n - 1)
    points[0], points[-1] = low, high
    return points


@dataclass(frozen=True)
class Plane:
    """The inputs x(e1, e2) = x0 + e1 h1 + e2 h2 as they are evaluated; x0, h1, h2 are (H,), on the CPU.

    Rule "p64r": (x0.double() + (e1 * h1.double() + e2 * h2.double())).to(dtype), so the two products are added first,
    the sum is rounded to the dtype once, and (h1, e1) and (h2, e2) may change places without a bit changing. On an axis
    it is the rule of `lattice.perturb`. Rule "p32", the study's: two steps, each rounded, h1's first.
    """

    x0: Tensor
    h1: Tensor
    h2: Tensor
    rule: str = "p64r"

    def __post_init__(self) -> None:
        """Refuse what spans no plane, in one sentence."""
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if self.rule == "p32" and self.x0.dtype == torch.float64:
            raise UsageError("rule 'p32' rounds a float64 input before any step; take 'p64r'")
        for direction in (self.h1, self.h2):
            if direction.shape != self.x0.shape or self.x0.dim() != 1:
                shapes = f"{tuple(direction.shape)} and {tuple(self.x0.shape)}"
                raise UsageError(f"direction and input have shapes {shapes}; both must be (H,)")
            if not direction.dtype.is_floating_point:
                raise UsageError(f"a direction is {name_of(direction.dtype)}; give floating-point numbers")
            if not bool(torch.isfinite(direction).all()):
                raise InvalidError("a direction holds a number that is not finite; nothing is measured")
            if not bool(direction.any()):
                raise UsageError("a direction is zero: it spans no plane; give at least one number that is not zero")

    def at(self, e1: Floats, e2: Floats) -> Tensor:
        """Return the inputs (K, H) at K pairs of steps. O(K H)."""
        a, b = (torch.from_numpy(np.ascontiguousarray(e, dtype=np.float64))[:, None] for e in (e1, e2))
        if self.rule == "p32":
            x = self.x0.float()
            for step, h in ((a, self.h1), (b, self.h2)):
                x = x + step.float() * h.float()
            return x.to(self.x0.dtype)
        moved = a * self.h1.double() + b * self.h2.double()
        return (self.x0.double() + moved).to(self.x0.dtype)
