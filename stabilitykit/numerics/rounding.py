"""Rounding to a tensor dtype in numpy: torch's own results without torch's overhead on a few hundred numbers.

A lattice search evaluates x(s) some ten times on small arrays; a torch call costs more there than the arithmetic.
The tests compare both functions with torch's conversion on every 8-bit and 16-bit pattern and its midpoints.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.numerics.bits import from_total_order, total_order

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


def round_to_keys(values: Floats, dtype: torch.dtype) -> Keys:
    """Return the total-order keys of `values` rounded to `dtype` as `Tensor.to` rounds float64, elementwise.

    Whatever is narrower than float32 is rounded twice, through float32, because torch does. Finite values only. O(n).
    """
    if dtype.itemsize == 1:
        # torch alone knows what its own version makes of overflow: 448 or a NaN in float8_e4m3fn.
        return np.asarray(total_order(torch.from_numpy(values).to(dtype)).numpy())
    if dtype == torch.float64:
        return _reflect(values.view(np.int64), 0x7FFF_FFFF_FFFF_FFFF)
    single = values.astype(np.float32)
    if dtype == torch.float32:
        return _reflect(single.view(np.int32), 0x7FFF_FFFF).astype(np.int64)
    if dtype == torch.float16:
        return _reflect(single.astype(np.float16).view(np.int16), 0x7FFF).astype(np.int64)
    bits = single.view(np.int32).astype(np.int64)
    # Round to nearest even by integer addition; the carry runs into the exponent, as it should.
    return _reflect((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FFF)


def keys_to_values(keys: Keys, dtype: torch.dtype) -> Floats:
    """Return the float64 values of total-order keys of `dtype`, exact, elementwise. O(n)."""
    if dtype.itemsize == 1:
        return np.asarray(from_total_order(torch.from_numpy(keys), dtype).double().numpy())
    if dtype == torch.float64:
        return _reflect(keys, 0x7FFF_FFFF_FFFF_FFFF).view(np.float64)
    if dtype == torch.float32:
        return _reflect(keys, 0x7FFF_FFFF).astype(np.int32).view(np.float32).astype(np.float64)
    bits = _reflect(keys, 0x7FFF)
    if dtype == torch.float16:
        return bits.astype(np.int16).view(np.float16).astype(np.float64)
    return (bits << 16).astype(np.int32).view(np.float32).astype(np.float64)


def round_once(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 `x` rounded once to `dtype`, to nearest even: the best that `dtype` can hold.

    `Tensor.to` rounds what is narrower than float32 twice. Here the first of the two rounds to odd (toward zero, the
    last bit set where anything was lost), which leaves the second one free to be the only one (Boldo & Melquiond 2008).
    Any shape; infinities and NaN stay. Overflow ends as torch ends it. O(n).
    """
    if dtype.itemsize >= 4:
        return x.to(dtype)
    single = x.float()
    too_far, lost = single.double().abs() > x.abs(), (single.double() != x) & ~x.isnan()
    odd = (single.view(torch.int32) - too_far.int()) | lost.int()
    return odd.view(torch.float32).to(dtype)


def half_unit(values: Floats, dtype: torch.dtype) -> Floats | float:
    """Half a unit in the last place of the rounding that precedes the last one; float64 has none before it.

    float32 is rounded from float64; all that is narrower from float32, through which torch converts it.
    """
    if dtype == torch.float64:
        return 0.0
    bits = 53 if dtype == torch.float32 else 24
    return np.where(values == 0, 0.0, np.ldexp(0.5, np.frexp(values)[1] - bits))


def _reflect(bits: NDArray[np.signedinteger], mask: int) -> NDArray[np.signedinteger]:
    """Map two's-complement patterns to total order and back: negative patterns reverse their magnitude."""
    return np.where(bits < 0, bits ^ bits.dtype.type(mask), bits)
