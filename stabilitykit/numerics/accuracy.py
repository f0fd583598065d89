"""How far results are from the true values: ULP, correct rounding, and what the inputs' own rounding excuses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError
from stabilitykit.numerics.bits import is_infinite, is_nan, same_bits, spacing, ulp_distance
from stabilitykit.numerics.rounding import round_once


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Results y (B, M) of one dtype against the true values t (B, M); r is t rounded once to that dtype.

    * `correct`: elements with y = r by value; `not_finite`: y is not finite and r is another number, or y is a NaN;
    * `max_ulp`, `median_ulp`: |y - r| in ULP of the dtype, the median over the elements that differ, 0 if none does;
    * `max_scaled_ulp`: the largest over rows of max |y - r| / spacing(max |r|), not inflated by values near zero;
    * `excess`: the largest over rows of max |y - t| / max(moved, spacing(max |r|) / 2), where `moved` (B,) is how far
      the true row moves when its inputs do by one ULP: an error that the inputs' rounding could cause as well is at
      most 1, and a correctly rounded row always is.

    The sizes are nan where an element is `not_finite`: a NaN keeps no limit. `worst` is the row and column of the first
    such element, else of the largest excess among the elements that differ from r, None where none does.
    """

    elements: int
    correct: int
    not_finite: int
    max_ulp: float
    median_ulp: float
    max_scaled_ulp: float
    excess: float
    worst: tuple[int, int] | None


def accuracy(y: Tensor, t: Tensor, moved: Tensor) -> Accuracy:
    """Compare y (B, M) with t (B, M) float64 and moved (B,) float64, on the CPU; see `Accuracy`.

    InvalidError where t is a NaN and y is not: such a truth decides nothing. O(B M).
    """
    r = round_once(t, y.dtype)
    _require_truth(y, r)
    broken = is_nan(y) | (is_infinite(y) & ~same_bits(y, r))
    correct = same_bits(y, r) & ~broken
    if bool(broken.any()):
        row, column = (int(i) for i in broken.nonzero()[0])
        nan = math.nan
        return Accuracy(y.numel(), int(correct.sum()), int(broken.sum()), nan, nan, nan, nan, (row, column))
    steps = ulp_distance(y, r)
    scaled = _over(gap(y.double(), r.double()), spacing(_largest(r.double()).to(y.dtype)))
    # Where the truth lies beyond the format, what it rounds to, infinite or the largest number, is the right result.
    within = torch.where(t.abs() > torch.finfo(y.dtype).max, r.double(), t)
    half = spacing(_largest(r.double()).to(y.dtype)) / 2
    excess = _over(gap(y.double(), within), torch.maximum(moved[:, None], half))
    differing = steps[steps > 0]
    return Accuracy(
        elements=y.numel(),
        correct=int((steps == 0).sum()),
        not_finite=0,
        max_ulp=float(steps.max()) if steps.numel() else 0.0,
        median_ulp=float(np.median(differing.numpy())) if differing.numel() else 0.0,
        max_scaled_ulp=float(scaled.max()) if scaled.numel() else 0.0,
        excess=float(excess.max()) if scaled.numel() else 0.0,
        worst=_worst(excess, steps),
    )


def _require_truth(y: Tensor, r: Tensor) -> None:
    lost = is_nan(r) & ~is_nan(y)
    if bool(lost.any()):
        place = lost.nonzero()[0].tolist()
        raise InvalidError(f"the reference is no number at {place} ({int(lost.sum())} in all), and the kernel has one")


def gap(y: Tensor, t: Tensor) -> Tensor:
    """|y - t| elementwise; equal infinities are 0 apart. O(n)."""
    return torch.where(y == t, 0.0, (y - t).abs())


def _largest(x: Tensor) -> Tensor:
    """The largest finite |x| of each row, (B, 1); 0 for a row without one."""
    sizes = torch.where(x.isfinite(), x.abs(), 0.0)
    return sizes.amax(dim=1, keepdim=True) if x.shape[1] else sizes.new_zeros(len(x), 1)


def _over(gaps: Tensor, unit: Tensor) -> Tensor:
    return torch.where(gaps == 0, 0.0, gaps / unit)


def _worst(excess: Tensor, steps: Tensor) -> tuple[int, int] | None:
    if not bool((steps > 0).any()):
        return None
    place = int(torch.where(steps > 0, excess, -1.0).argmax())
    return place // steps.shape[1], place % steps.shape[1]
