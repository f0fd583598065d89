"""The same numbers at other addresses: what a kernel that reads its strides rightly need not notice.

The gaps between the numbers hold NaN, so that a kernel which ignores strides shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Layout = Callable[[Tensor], Tensor]


def transposed(x: Tensor) -> Tensor:
    """Keep the last axis apart in memory and the one before it together; a vector stays as it is."""
    return x if x.dim() < 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2)


def padded(x: Tensor) -> Tensor:
    """Begin each row 3 elements later than the last one ended; a vector stays as it is."""
    if x.dim() < 2:
        return x
    room = _gaps(x, (*x.shape[:-1], x.shape[-1] + 3))[..., : x.shape[-1]]
    return room.copy_(x)


def stepped(x: Tensor) -> Tensor:
    """Leave a gap after each element."""
    return _gaps(x, (*x.shape[:-1], 2 * x.shape[-1]))[..., ::2].copy_(x) if x.dim() else x


def shifted(x: Tensor) -> Tensor:
    """Keep the numbers together, one element later than the allocator would begin: at an odd alignment."""
    return _gaps(x, (x.numel() + 1,))[1:].view(x.shape).copy_(x)


LAYOUTS: dict[str, Layout] = {"transposed": transposed, "padded": padded, "stepped": stepped, "shifted": shifted}


def _gaps(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return new memory of NaN, or of zeros where there is none."""
    gap = math.nan if x.is_floating_point() else 0
    return torch.full(shape, gap, device=x.device).to(x.dtype)
