"""Symmetric grids of small integers, as quantisation uses them, on which a tensor is rounded but stays in floats."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["tensor", "row"]


def steps(bits: int) -> int:
    """Return the steps on each side of zero of a symmetric grid: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1)) - 1


def on_grid(x: Tensor, bits: int = 8, per: Scale = "tensor") -> Tensor:
    """Return x rounded to the nearest of 2^bits - 1 equally spaced numbers, in its dtype.

    The outermost are -+max |x|, taken over the whole tensor, or with per="row" over each row of the last axis. A tensor
    or row of zeros stays, one with nan or infinity is all nan. Computed in float32 at least; ties go to the even step.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    largest = wide.abs().amax(dim=-1, keepdim=True) if per == "row" else wide.abs().max()
    scale = torch.where(largest == 0, 1.0, largest) / steps(bits)
    return (torch.round(wide / scale) * scale).to(x.dtype)
