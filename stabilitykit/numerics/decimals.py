"""At which decimal two lists of numbers part, and by how many ULP: tables of counts."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stabilitykit.numerics.bits import FORMATS, is_nan, ulp_distance
from stabilitykit.numerics.rounding import Floats

DECIMALS = range(1, 16)


def apart_at(a: Tensor, b: Tensor) -> dict[str, int]:
    """Return `decimal_q` for q = 1 .. 15: how many pairs differ after rounding to q decimals.

    Python rounds the exact value correctly. Every q is counted: two numbers may agree at one decimal and differ at
    two, agree at three and differ at four. Pairs with a NaN or an infinity are left out. O(n), 15 roundings a pair.
    """
    left, right = _numbers(a, b)
    pairs = [(x, y) for x, y in zip(left.tolist(), right.tolist(), strict=True) if x != y]
    return {f"decimal_{q}": sum(round(x, q) != round(y, q) for x, y in pairs) for q in DECIMALS}


def by_decade(a: Tensor, b: Tensor) -> dict[str, int]:
    """Return how many pairs differ by how much, |a - b| in float64, one bin a decade and the bins added up.

    `decade_0` counts 1 and more, `decade_k` from 10^-k to less than 10^-(k-1) for k = 1 .. 15, `decade_below` what is
    smaller and not 0; `above_k` is everything from 10^-k on, the sum of the bins up to k. Bounds are the float64 next
    to the power of ten. Pairs with a NaN or an infinity are left out. O(n).
    """
    left, right = _numbers(a, b)
    gaps = np.abs(left - right)
    bounds = [1.0, *(float(f"1e-{k}") for k in DECIMALS)]
    above = [int((gaps >= bound).sum()) for bound in bounds]
    bins = np.diff([0, *above, int((gaps > 0).sum())]).tolist()
    names = [*(f"decade_{k}" for k in range(len(bounds))), "decade_below"]
    return dict(zip(names, bins, strict=True)) | {f"above_{k}": above[k] for k in DECIMALS}


def by_ulp(a: Tensor, b: Tensor) -> dict[str, int]:
    """Return `ulp_2^k` for each k that the dtype has: how many pairs are 2^k ULP apart and less than 2^(k+1).

    One dtype; pairs with a NaN are left out. O(n).
    """
    numbers = ~(is_nan(a) | is_nan(b))
    steps = ulp_distance(a[numbers], b[numbers])
    width = FORMATS[a.dtype].width
    return {f"ulp_2^{k}": int(((steps >> k) == 1).sum()) for k in range(width)}


def _numbers(a: Tensor, b: Tensor) -> tuple[Floats, Floats]:
    """Return the pairs in which both are finite, in float64."""
    left, right = (one.detach().cpu().double().numpy().reshape(-1) for one in (a, b))
    kept = np.isfinite(left) & np.isfinite(right)
    return left[kept], right[kept]
