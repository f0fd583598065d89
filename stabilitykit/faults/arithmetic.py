"""Other arithmetic for the same formula: split and narrow products, one rounding in place of two, one ULP off."""

from __future__ import annotations

import torch
from torch import Tensor

from stabilitykit.numerics.bits import nudge
from stabilitykit.numerics.rounding import round_once

_TF32_DROPPED = 13  # of float32's 23 mantissa bits
_PARTS = 8


def split_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b, (m, k) and (k, n), as the sum of two products over half of k each."""
    middle = a.shape[-1] // 2
    return torch.mm(a[:, :middle], b[:middle]) + torch.mm(a[:, middle:], b[middle:])


def tf32(x: Tensor) -> Tensor:
    """Return float32 numbers without their last 13 bits, as tensor cores read them: rounded toward zero."""
    bits = x.contiguous().view(torch.int32)
    return ((bits >> _TF32_DROPPED) << _TF32_DROPPED).view(torch.float32)


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b with the sum over k kept in bfloat16: rounded to it after each eighth of k."""
    size = -(-a.shape[-1] // _PARTS)
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.bfloat16, device=a.device)
    for start in range(0, a.shape[-1], size):
        part = torch.mm(a[:, start : start + size], b[start : start + size])
        total = (total.to(a.dtype) + part).bfloat16()
    return total.to(a.dtype)


def fused_multiply_add(a: Tensor, b: Tensor | float, c: Tensor) -> Tensor:
    """Return a b + c rounded once to the dtype of c: float32, bfloat16 or float16, which all broadcast.

    The product is exact in float64. The sum is rounded to odd there, which leaves the rounding to the dtype free to be
    the only one (Boldo & Melquiond 2008); what the sum lost is Knuth's error term, exact.
    """
    product = a.double() * (b.double() if isinstance(b, Tensor) else torch.tensor(b, dtype=c.dtype).double())
    product, addend = torch.broadcast_tensors(product, c.double())  # type: ignore[no-untyped-call]
    total = product + addend
    virtual = total - product
    lost = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(torch.int64)
    # Where the sum was rounded away from zero, one step back; then the last bit says that something was lost.
    away = (lost != 0) & ((lost > 0) != (total > 0))
    odd = ((bits - away.long()) | (lost != 0).long()).view(torch.float64)
    return round_once(torch.where(total.isfinite() & (total != 0), odd, total), c.dtype)


def next_up(y: Tensor) -> Tensor:
    """Return each number's next greater neighbour; infinity and what is no number stay."""
    movable = y.isfinite()
    return torch.where(movable, nudge(torch.where(movable, y, 0.0), 1), y)
