"""Between two inputs: the points of the segment as they are rounded, and a chain of single-ULP moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stabilitykit.numerics.bits import from_total_order, ordered, same_bits


def segment(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return up to `count` distinct inputs (K, H) evenly between two (H,), rounded once; none if none lies between.

    Every coordinate moves monotonically, so equal neighbours are the only repetitions. O(count H).
    """
    shares = torch.arange(1, count + 1, dtype=torch.float64, device=low.device) / (count + 1)
    points = (low.double() + shares[:, None] * (high.double() - low.double())).to(low.dtype)
    row, kept = low, []
    for point in points:
        if not bool(same_bits(point, row).all()) and not bool(same_bits(point, high).all()):
            kept.append(point)
            row = point
    return torch.stack(kept) if kept else points[:0]


@dataclass(frozen=True)
class Chain:
    """The inputs from `low` to `high` (H,), one coordinate after the other, one representable number at a time.

    Point 0 is low, point `length` is high but for signs of zeros; points t and t + 1 differ by one ULP in one
    coordinate, -0 and 0 being one number. Coordinates move in the order of `order` (H,), by default their own.
    """

    low: Tensor
    high: Tensor
    order: Tensor | None = None

    @cached_property
    def _moves(self) -> Tensor:
        return ordered(self.high) - ordered(self.low)

    @cached_property
    def _order(self) -> Tensor:
        return torch.arange(self.low.numel(), device=self.low.device) if self.order is None else self.order

    @cached_property
    def _before(self) -> Tensor:
        """ULPs moved by other coordinates before each one's turn."""
        sizes = self._moves.abs()[self._order]
        before = torch.empty_like(sizes)
        before[self._order] = sizes.cumsum(0) - sizes
        return before

    @cached_property
    def length(self) -> int:
        """Number of single-ULP moves."""
        return int(self._moves.abs().sum())

    def at(self, points: Tensor) -> Tensor:
        """Return the inputs (K, H) at whole numbers (K,) from 0 to `length`; untouched coordinates keep their bits."""
        done = (points[:, None] - self._before).clamp(min=0).minimum(self._moves.abs())
        keys = ordered(self.low) + done * self._moves.sign()
        moved = from_total_order(keys - (keys < 0).long(), self.low.dtype)
        return torch.where(done == 0, self.low, moved)

    def inside(self, low: int, high: int, count: int) -> list[int]:
        """Return up to `count` points evenly between two, both excluded."""
        width = high - low
        return sorted({low + width * k // (count + 1) for k in range(1, count + 1)} - {low, high})
