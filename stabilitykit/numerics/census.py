"""All elements of a tensor counted by their leading bits: exact statistics in a few passes, and no sorted copy.

The leading bits of a float (sign, exponent, 8 significant digits or more) order it. From how many elements begin with
each pattern follow counts, histograms, and between which elements a percentile lies; only elements of the few patterns
in question are then looked at. In 16 bits the pattern is the number itself, and one pass is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.rounding import Floats

Counts = NDArray[np.int64]

CHUNK = 2**18
"""Elements looked at together: they stay in a processor's cache."""
BINS = 64
"""Bins of a histogram on each side of zero, with one more for what lies beyond."""
_INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}
_INTEGERS[torch.bfloat16] = torch.int16
_LEADING = {torch.float64: 20, torch.float32: 16, torch.float16: 16, torch.bfloat16: 16}


@dataclass(frozen=True, eq=False)
class Census:
    """How often each pattern of leading bits occurs in `values`, a flat tensor of one of the four float dtypes."""

    values: Tensor
    counts: Counts

    @classmethod
    def of(cls, tensor: Tensor) -> Census:
        """Count a tensor of any shape; UnsupportedError for another dtype. One pass, a few MB beside the tensor."""
        values = tensor.detach().reshape(-1)
        if values.dtype not in _INTEGERS:
            raise UnsupportedError(f"{name_of(values.dtype)} numbers are not counted; widen them to float32")
        counts = torch.zeros(2 ** _LEADING[values.dtype], dtype=torch.int64)
        for part in torch.split(values, CHUNK):
            counts += torch.bincount(_keys(part), minlength=len(counts))
        return cls(values, counts.numpy())

    @cached_property
    def half(self) -> int:
        """Patterns of one sign: those of negative numbers follow."""
        return len(self.counts) // 2

    @cached_property
    def floors(self) -> Floats:
        """The least magnitude of each pattern, (half,), ascending; infinity and NaN last."""
        dtype = self.values.dtype
        shift = torch.finfo(dtype).bits - _LEADING[dtype]
        patterns = torch.arange(self.half, dtype=torch.int64) << shift
        floors: Floats = patterns.to(_INTEGERS[dtype]).view(dtype).double().numpy()
        return floors

    @cached_property
    def magnitudes(self) -> Counts:
        """Elements of each magnitude's pattern, whatever their sign."""
        both: Counts = self.counts[: self.half] + self.counts[self.half :]
        return both

    @property
    def exact(self) -> bool:
        """Whether a pattern is a number: in 16 bits."""
        return _LEADING[self.values.dtype] == torch.finfo(self.values.dtype).bits

    @cached_property
    def not_finite(self) -> int:
        """Elements that are infinite or NaN."""
        return int(self.magnitudes[~np.isfinite(self.floors)].sum())

    @cached_property
    def zeros(self) -> int:
        """Elements that are +0 or -0."""
        self._look([0, self.half])
        return sum(int((self._seen[key] == 0).sum()) for key in (0, self.half))

    def signs(self) -> tuple[int, int]:
        """Return how many finite elements are above and below 0."""
        self._look([0, self.half])
        sides = (self.counts[: self.half], self.counts[self.half :])
        zeros = [int((self._seen[key] == 0).sum()) for key in (0, self.half)]
        above, below = (int(side.sum()) - zero for side, zero in zip(sides, zeros, strict=True))
        return above, below

    def prepare(self, percents: Sequence[float], bounds: Sequence[float]) -> None:
        """Look at all elements that these percentiles, these bounds and the median need, in one pass."""
        magnitudes = [*map(self._place, self._ranks(percents)), *self._bounding(bounds)]
        signed = [self._signed_place(rank) for rank in self._middle()]
        self._look([0, self.half, *magnitudes, *(key + self.half for key in magnitudes), *signed])

    def at_least(self, bounds: Sequence[float]) -> list[int]:
        """Return how many elements have at least the magnitude of each bound, which is positive and finite."""
        above = np.concatenate([np.cumsum(self.magnitudes[::-1])[::-1], [0]])
        places = self._bounding(bounds)
        return [
            int(above[place + 1]) + int((self._members(place) >= bound).sum())
            for place, bound in zip(places, bounds, strict=True)
        ]

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Return percentiles of the magnitudes, interpolated linearly."""
        starts = np.cumsum(self.magnitudes) - self.magnitudes
        at: dict[int, float] = {}
        for rank in self._ranks(percents):
            place = self._place(rank)
            at[rank] = float(self._members(place)[rank - int(starts[place])])
        positions = [percent / 100 * (self.values.numel() - 1) for percent in percents]
        return [_between(at[math.floor(p)], at[math.ceil(p)], p - math.floor(p)) for p in positions]

    def median(self) -> float:
        """Return the median of the elements with their sign; of an even number the mean of the two in the middle."""
        starts = np.cumsum(self._ordered) - self._ordered
        found = []
        for rank in self._middle():
            key = self._signed_place(rank)
            self._look([key])
            found.append(float(self._seen[key][rank - int(starts[self._position(key)])]))
        return sum(found) / len(found)

    def histogram(self) -> tuple[float, Counts]:
        """Return a width w, a power of two near an eighth of the root mean square, and (2 BINS + 2) counts.

        Bin BINS + 1 + j counts the elements from j w up to (j + 1) w; below zero, by magnitude, bin BINS - j those from
        -(j + 1) w up to -j w. The first and last have all beyond. A width of nan for zeros alone. No pass.
        """
        occurs = np.isfinite(self.floors) & (self.magnitudes > 0)
        floors, counts = self.floors[occurs], self.magnitudes[occurs]
        largest = float(floors.max(initial=0))
        if not largest:
            return math.nan, np.zeros(2 * BINS + 2, dtype=np.int64)
        rms = largest * math.sqrt(float((counts * (floors / largest) ** 2).sum()) / float(counts.sum()))
        width = 2.0 ** round(math.log2(rms / 8))
        places = np.minimum(np.floor(floors / width), BINS).astype(np.int64)
        sides = [
            np.bincount(places, weights=side[occurs], minlength=BINS + 1).astype(np.int64)
            for side in (self.counts[: self.half], self.counts[self.half :])
        ]
        return width, np.concatenate([sides[1][::-1], sides[0]])

    @cached_property
    def _seen(self) -> dict[int, Floats]:
        """The elements of the patterns looked at so far, ascending."""
        return {}

    @cached_property
    def _ordered(self) -> Counts:
        """Counts from the most negative pattern to the most positive."""
        return np.concatenate([self.counts[self.half :][::-1], self.counts[: self.half]])

    def _position(self, key: int) -> int:
        return self.half - 1 - (key - self.half) if key >= self.half else self.half + key

    def _signed_place(self, rank: int) -> int:
        position = int(np.searchsorted(np.cumsum(self._ordered), rank, side="right"))
        return position - self.half if position >= self.half else 2 * self.half - 1 - position

    def _middle(self) -> list[int]:
        total = self.values.numel()
        return sorted({(total - 1) // 2, total // 2})

    def _ranks(self, percents: Sequence[float]) -> list[int]:
        positions = [percent / 100 * (self.values.numel() - 1) for percent in percents]
        return sorted({rank for p in positions for rank in (math.floor(p), math.ceil(p))})

    def _place(self, rank: int) -> int:
        return int(np.searchsorted(np.cumsum(self.magnitudes), rank, side="right"))

    def _bounding(self, bounds: Sequence[float]) -> list[int]:
        finite = self.floors[np.isfinite(self.floors)]
        return [int(np.searchsorted(finite, bound, side="right")) - 1 for bound in bounds]

    def _members(self, place: int) -> Floats:
        """Return the magnitudes of the elements of one pattern, ascending."""
        if self.exact:
            return np.broadcast_to(self.floors[place], int(self.magnitudes[place]))
        self._look([place, place + self.half])
        return np.sort(np.abs(np.concatenate([self._seen[place], self._seen[place + self.half]])))

    def _look(self, keys: Sequence[int]) -> None:
        """Gather the elements of patterns not seen yet: from the counts where a pattern is a number, else in a pass."""
        missing = sorted({key for key in keys if key not in self._seen})
        if self.exact:
            for key in missing:
                sign = -1.0 if key >= self.half else 1.0
                self._seen[key] = np.broadcast_to(sign * self.floors[key % self.half], int(self.counts[key]))
        elif missing and not self.counts[missing].any():
            self._seen.update(dict.fromkeys(missing, np.empty(0)))
        elif missing:
            wanted = torch.zeros(len(self.counts), dtype=torch.bool)
            wanted[missing] = True
            picked = torch.cat([part[wanted[_keys(part)]] for part in torch.split(self.values, CHUNK)])
            found, of = picked.double().numpy(), _keys(picked).numpy()
            for key in missing:
                self._seen[key] = np.sort(found[of == key])


def _keys(part: Tensor) -> Tensor:
    """Return the leading bits of each element as a number from 0; the sign is the first of them."""
    bits, leading = torch.finfo(part.dtype).bits, _LEADING[part.dtype]
    integers = part.view(_INTEGERS[part.dtype])
    wide = integers.to(torch.int32) if bits == leading else integers >> (bits - leading)
    return wide.bitwise_and(2**leading - 1)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
