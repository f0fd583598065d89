"""How two tensors differ: by bits, by value, in ULP and in float64 norms, with the worst place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stabilitykit.numerics.bits import (
    bits_equal,
    is_infinite,
    is_nan,
    ordered,
    paired,
    pattern,
    same_bits,
    spacing,
    ulp_distance,
)


@dataclass(frozen=True, slots=True)
class Worst:
    """The pair with the largest |left - right|; ties go to the larger ULP, then to the first index.

    `left` and `right` are exact float64 values, in the unit of the input; `left_bits` and `right_bits` their
    patterns in the input's dtype; `ulp` their distance in ULP of that dtype.
    """

    index: tuple[int, ...]
    left: float
    right: float
    left_bits: str
    right_bits: str
    ulp: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Comparison of two tensors of one dtype and shape; 0 everywhere is best and lower is better.

    Counts, in elements; `differing_bits = differing_values + signed_zeros + nan_payload` always holds:

    * `differing_bits`: patterns differ; `differing_values`: values differ, a NaN against a number included;
    * `signed_zeros`: -0 against +0; `nan_payload`: two NaNs of different bits;
    * `nan_match`: two NaNs of the same bits; `nan_mismatch`: a NaN against a number;
    * `infs`: an infinity on either side, equal or not.

    Sizes, over the pairs of numbers (no NaN on either side):

    * `max_ulp`, `median_ulp`: ULP of the dtype, over the pairs whose values differ;
    * `max_abs` = max |a - b|, `l2` = ||a - b||, in the unit of the input; infinite if an infinity differs
      or float64 overflows;
    * `max_scaled_ulp` = max_abs / spacing(max |a|), in ULP of the largest finite |a|: unlike `max_ulp` not
      inflated by values that cross zero;
    * `relative_l2` = ||a - b|| / ||a||, over the finite elements of a; infinite if a is zero and b is not.

    `worst` is the place of `max_abs` among the pairs of numbers whose bits differ, None without such a pair.
    A NaN has no size, so a gate reads `nan_mismatch` as well as a size.
    """

    elements: int
    differing_bits: int = 0
    differing_values: int = 0
    signed_zeros: int = 0
    nan_match: int = 0
    nan_mismatch: int = 0
    nan_payload: int = 0
    infs: int = 0
    max_ulp: int = 0
    median_ulp: float = 0.0
    max_scaled_ulp: float = 0.0
    max_abs: float = 0.0
    l2: float = 0.0
    relative_l2: float = 0.0
    worst: Worst | None = None

    @property
    def identical(self) -> bool:
        """Every bit agrees, NaN payloads and signs of zeros included."""
        return self.differing_bits == 0


def difference(a: Tensor, b: Tensor) -> Difference:
    """Compare b with the reference a; see `Difference` for every formula and unit.

    Any one shape and dtype of `FORMATS`; any devices and strides. Sizes are computed on the CPU in float64,
    into which every dtype fits exactly. UsageError states both dtypes or both shapes when they differ: the
    structure is the answer then, and a distance only its shadow. O(n); identical tensors stop after the bits
    and the non-finite counts.
    """
    a, b = paired(a, b)
    if bits_equal(a, b):
        nans, infs = int(is_nan(a).sum()), int(is_infinite(a).sum())
        return Difference(a.numel(), nan_match=nans, infs=infs)
    a, b = a.detach().cpu(), b.detach().cpu()
    changed = ~same_bits(a, b)
    either_nan = is_nan(a) | is_nan(b)
    return _sized(_counted(a, b, changed), a, b, changed & ~either_nan)


def _counted(a: Tensor, b: Tensor, changed: Tensor) -> Difference:
    left_nan, right_nan = is_nan(a), is_nan(b)
    both_nan = left_nan & right_nan
    values = changed & ~both_nan & (ordered(a) != ordered(b))
    return Difference(
        elements=a.numel(),
        differing_bits=int(changed.sum()),
        differing_values=int(values.sum()),
        signed_zeros=int((changed & ~both_nan & ~values).sum()),
        nan_match=int((both_nan & ~changed).sum()),
        nan_mismatch=int((left_nan ^ right_nan).sum()),
        nan_payload=int((both_nan & changed).sum()),
        infs=int((is_infinite(a) | is_infinite(b)).sum()),
    )


def _sized(counts: Difference, a: Tensor, b: Tensor, places: Tensor) -> Difference:
    """Add the sizes, from the pairs of numbers whose bits differ; `places` is their mask."""
    if not bool(places.any()):
        return counts
    left, right = a[places], b[places]
    gaps, steps = (left.double() - right.double()).abs(), ulp_distance(left, right)
    finite = a[~(is_nan(a) | is_infinite(a))].double()
    top = finite.abs().max().to(a.dtype) if finite.numel() else torch.zeros((), dtype=a.dtype)
    max_ulp, max_abs, l2 = int(steps.max()), float(gaps.max()), _norm(gaps)
    return replace(
        counts,
        max_ulp=max_ulp,
        median_ulp=float(np.median(steps[steps > 0].numpy())) if max_ulp else 0.0,
        max_scaled_ulp=max_abs / float(spacing(top)),
        max_abs=max_abs,
        l2=l2,
        relative_l2=_ratio(l2, _norm(finite)),
        worst=_worst(left, right, gaps, steps, places),
    )


def _worst(left: Tensor, right: Tensor, gaps: Tensor, steps: Tensor, places: Tensor) -> Worst:
    place = int(torch.where(gaps == gaps.max(), steps, -1).argmax())
    return Worst(
        index=tuple(places.nonzero()[place].tolist()),
        left=float(left[place]),
        right=float(right[place]),
        left_bits=pattern(left[place]),
        right_bits=pattern(right[place]),
        ulp=int(steps[place]),
    )


def _norm(x: Tensor) -> float:
    """Euclidean norm of float64 values, scaled by a power of two so that no square overflows or vanishes."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    if largest == 0.0 or math.isinf(largest):
        return largest
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return scale * float(torch.linalg.vector_norm(x / scale))


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else 0.0
