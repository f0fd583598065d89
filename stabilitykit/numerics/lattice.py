"""The input lattice: at which steps s does the rounded input x(s) change, exactly, one float at a time.

The perturbed input is the *evaluated* map, to the bit (rule "p64r")

    x(s) := (x0.double() + s * d.double()).to(dtype)

with two float64 roundings, one rounding to the dtype and no fused multiply-add. Every coordinate is a composition of
monotone roundings, hence a monotone step function of s, and x(s) is constant between *breakpoints*. A breakpoint is a
pair of adjacent float64 numbers: the last s with the old input and the first with the new one. Real arithmetic
(midpoint minus x0, over d) only seeds the search: rounding to even, and float32 on the way, decide on its side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.bits import format_of, is_infinite, is_nan, total_order
from stabilitykit.numerics.perturbation import RULES, check_rule, perturb
from stabilitykit.numerics.rounding import Floats, Keys, half_unit, keys_to_values, round_to_keys
from stabilitykit.numerics.start import Start

# A coordinate with more floats than _DENSE within _NEAR of one typical step cannot be listed as far as a boundary lies.
_DENSE = 1 << 10
_NEAR = 2.0**-8
_CHUNK = 16
_BEYOND = 1e-9  # a chunk ends this share past the estimate of its last breakpoint
_PER_OCTAVE, _OCTAVES = 2, 8  # of the grid that samples dense coordinates: fine steps an octave, octaves a coarse step


class Cell(NamedTuple):
    """One distinct input on a ray: the adjacent float64 pair where it begins and the coordinate that moves.

    `coordinate` is the lowest of the coordinates that move there, or -1 for a sample of the dense coordinates,
    whose `last_same` is then the step tested before it and not adjacent.
    """

    last_same: float
    first_changed: float
    coordinate: int


@dataclass(frozen=True)
class Lattice:
    """The distinct inputs on the ray x0 + s d, s > 0, in order.

    `x0` (H,) in the model's dtype; `direction` (H,) in any float dtype, used exactly as given. UsageError for a
    zero direction or another shape, InvalidError for a non-finite one. 16 breakpoints at H = 576: about 1 ms.
    """

    x0: Tensor
    direction: Tensor
    rule: str = "p64r"

    def __post_init__(self) -> None:
        """Refuse what has no lattice, in one sentence."""
        check_rule(self.rule, self.x0.dtype)
        if self.x0.shape != self.direction.shape or self.x0.dim() != 1:
            shapes = f"{tuple(self.direction.shape)} and {tuple(self.x0.shape)}"
            raise UsageError(f"direction and input have shapes {shapes}; both must be (H,)")
        used = self.direction.to({"p32": torch.float32, "native": self.x0.dtype}.get(self.rule, torch.float64))
        for name, vector in (("direction", used), ("input", self.x0)):
            if bool((outside := is_nan(vector) | is_infinite(vector)).any()):
                where = int(outside.nonzero()[0])
                raise InvalidError(f"the {name} is {vector[where].item()} at coordinate {where}; give finite numbers")
        if not bool(used.any()):
            raise UsageError("the direction is zero: it moves no coordinate; give at least one that is not zero")
        if self.rule == "p32" and self.x0.dtype == torch.float64:
            raise UsageError("rule 'p32' rounds a float64 input before any step; take 'p64r' or 'native'")

    def sharing(self, other: Lattice) -> Lattice:
        """Return this lattice, which knows from now on what `other` knows of their one x0."""
        if self.x0 is other.x0:
            self.__dict__["_start"] = other._start
        return self

    def at(self, s: float | Tensor) -> Tensor:
        """Return x(s), (H,) for a float or (K, H) for (K,) steps."""
        return perturb(self.x0, self.direction, s, self.rule)

    @cached_property
    def dense(self) -> list[int]:
        """Moving coordinates whose floats are too dense to list: zeros and values near zero.

        Dense means over 1024 floats within 1/256 of the step that moves a coordinate of median size by half its
        spacing; boundaries lie about there, since the nearest of hundreds of breakpoints does. A float16 zero is not
        dense: its subnormals are few. Nor does a large d alone make a coordinate dense: its own such step is shorter.
        """
        with np.errstate(over="ignore"):
            own = self._start.typical / 2 * _NEAR / np.abs(self._d[self._moving])
        crossed = np.abs(self._keys(np.minimum(own, np.median(own)), self._moving) - self._start.keys[self._moving])
        return [int(i) for i in self._moving[crossed > _DENSE]]

    def cells(self, s_max: float = math.inf, start: float = 0.0) -> Iterator[Cell]:
        """Yield the breakpoints of all listable coordinates in order, after `start` up to s_max; lazily, in chunks.

        They end with the last finite input. What is listed from x0 on is remembered: each search of a ray begins there.
        """
        if start > 0:
            yield from self._chunks(s_max, start)
            return
        for index in itertools.count():
            while index >= len(self._listed):
                following = next(self._unlisted, None)
                if following is None:
                    return
                self._listed.append(following)
            if self._listed[index].first_changed > s_max:
                return
            yield self._listed[index]

    @cached_property
    def _listed(self) -> list[Cell]:
        return []

    @cached_property
    def _unlisted(self) -> Iterator[Cell]:
        return self._chunks(math.inf, 0.0)

    def _chunks(self, s_max: float, start: float) -> Iterator[Cell]:
        """Enumerate the cells, some 16 at a time.

        A chunk without a breakpoint doubles the next one's least length: where the product underflows or s itself is
        rounded, a breakpoint lies far beyond its estimate, or nowhere.
        """
        s_max = min(s_max, float(np.finfo(np.float64).max))
        listable = np.setdiff1d(self._moving, np.array(self.dense, dtype=np.int64), assume_unique=True)
        passed, growth = np.zeros(listable.size, dtype=np.int64), _BEYOND
        if start > 0:
            passed = np.abs(self._keys(np.float64(start), listable) - self._start.keys[listable])
        while listable.size and start < s_max:
            least = max(start * (1 + growth), math.nextafter(start, math.inf))
            stop = min(max(self._reach(listable, passed), least), s_max)
            keys = self._keys(np.float64(stop), listable)
            if not self._finite(keys) and stop > self._last_finite:
                s_max = self._last_finite
                continue
            reached = np.abs(keys - self._start.keys[listable])
            yield from self._between(listable, passed, reached, (start, stop))
            growth = _BEYOND if bool((reached > passed).any()) else 2 * growth
            start, passed = stop, reached

    @cached_property
    def nearest(self) -> Cell | None:
        """The first breakpoint of the listable coordinates, None if none of them moves."""
        return next(self.cells(), None)

    def samples(self, s_max: float, start: float = 0.0) -> Iterator[Cell]:
        """Yield the cells merged with a geometric grid for the dense coordinates; without those, just the cells."""
        grid = (step for step in self._grid(s_max) if step > start)
        tested, pending = start, next(grid, None)
        for cell in self.cells(s_max, start):
            while pending is not None and pending < cell.first_changed:
                yield Cell(tested, pending, -1)
                tested, pending = pending, next(grid, None)
            yield cell
            tested = cell.first_changed
        while pending is not None:
            yield Cell(tested, pending, -1)
            tested, pending = pending, next(grid, None)

    def _grid(self, s_max: float) -> Iterator[float]:
        """Yield steps that sample the dense coordinates: one in eight octaves, then two an octave.

        It begins where the first dense coordinate leaves its float and becomes fine one unit roundoff below the first
        listable breakpoint: under that a dense coordinate is smaller than the roundoff of one roundoff.
        """
        if not self.dense:
            return
        finfo = torch.finfo(self.x0.dtype)
        largest = float(np.abs(self._d[self.dense]).max())
        step = max(finfo.smallest_normal * finfo.eps / 2 / largest, torch.finfo(torch.float64).tiny)
        near = self.nearest.first_changed if self.nearest else math.inf
        listed = near < math.inf and near <= s_max
        fine = finfo.eps * (near if listed else min(s_max, self._last_finite, self._start.typical / 2 / largest))
        while step <= s_max and (step <= self._surely_finite or step <= self._last_finite):
            yield step
            step *= 2 ** (1 / _PER_OCTAVE) if step >= fine else 2**_OCTAVES

    @cached_property
    def _start(self) -> Start:
        return Start(self.x0)

    @cached_property
    def _x(self) -> Floats:
        return self._start.values

    @cached_property
    def _d(self) -> Floats:
        return np.asarray(self.direction.detach().cpu().double().numpy())

    @cached_property
    def _last_finite(self) -> float:
        """The largest step whose x(s) is finite, by bisection over the bits of s."""

        def finite(key: int) -> bool:
            return self._finite(self._keys(np.int64(key).view(np.float64), self._moving))

        low, high = 0, int(np.float64(np.inf).view(np.int64))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if finite(middle) else (low, middle)
        return float(np.int64(low).view(np.float64))

    @cached_property
    def _surely_finite(self) -> float:
        """Half the step at which the first coordinate would leave the range, known without a search."""
        with np.errstate(over="ignore"):
            room = (torch.finfo(self.x0.dtype).max - np.abs(self._x[self._moving])) / np.abs(self._d[self._moving])
        return float(room.min()) / 2

    def _finite(self, keys: Keys) -> bool:
        largest = format_of(self.x0.dtype).largest
        return bool((keys <= largest).all() and (keys >= -1 - largest).all())

    @cached_property
    def _moving(self) -> Keys:
        return np.flatnonzero(self._d)

    def _keys(self, s: Floats | np.float64, coordinates: Keys) -> Keys:
        """Return total-order keys of x(s) at the coordinates; s is one step or one for each of them."""
        if self.rule == "p64r":
            with np.errstate(over="ignore"):
                return round_to_keys(self._x[coordinates] + s * self._d[coordinates], self.x0.dtype)
        chosen = torch.from_numpy(coordinates)
        x0, d = self.x0.detach().cpu()[chosen], self.direction.detach().cpu()[chosen]
        return np.asarray(total_order(RULES[self.rule](x0, d, torch.as_tensor(s))).numpy())

    def _seed(self, coordinates: Keys, count: Keys | np.int64) -> Floats:
        """Estimate the s of the count-th breakpoint of each coordinate from x0, in real arithmetic."""
        x, d, dtype = self._x[coordinates], self._d[coordinates], self.x0.dtype
        up = d > 0
        far = self._start.keys[coordinates] + np.where(up, count, -count)
        largest = format_of(dtype).largest
        low, high = (
            keys_to_values(np.clip(key, -1 - largest, largest), dtype) for key in (far - np.where(up, 1, -1), far)
        )
        # A tie goes to the even neighbour, and with it all that the rounding before the last one makes a tie.
        even = (far % 2 == 0) == (far >= 0)  # of the magnitude: negative keys count from -1
        slack = np.where(even == up, -1.0, 1.0) * half_unit(low, dtype)
        with np.errstate(over="ignore"):
            return np.asarray(((low - x) + (high - low) / 2 + slack) / d)

    def _reach(self, coordinates: Keys, passed: Keys) -> float:
        """Estimate a step behind which about one chunk of further breakpoints lies, of one coordinate or of many."""
        ahead = self._seed(coordinates, passed + 1)
        rank = min(_CHUNK, ahead.size) - 1
        nearest = np.argpartition(ahead, rank)[: rank + 1]
        quickest = self._seed(coordinates[nearest], passed[nearest] + _CHUNK).min()
        return min(float(ahead[nearest].max()), float(quickest)) * (1 + _BEYOND)

    def _between(self, coordinates: Keys, passed: Keys, reached: Keys, span: tuple[float, float]) -> Iterator[Cell]:
        """Yield every breakpoint in (span], merged where several coordinates move at once."""
        crossings = reached - passed
        which = np.repeat(np.arange(coordinates.size), crossings)
        if not which.size:
            return
        ordinal = np.arange(which.size) - np.repeat(np.cumsum(crossings) - crossings, crossings)
        moved = coordinates[which]
        first = self._locate(moved, passed[which] + ordinal + 1, span)
        previous = -math.inf
        for index in np.lexsort((moved, first)):
            step = float(first[index])
            if step != previous:
                yield Cell(math.nextafter(step, 0.0), step, int(moved[index]))
            previous = step

    def _locate(self, coordinates: Keys, count: Keys, span: tuple[float, float]) -> Floats:
        """Return the first float64 s in (span] at which each coordinate has moved `count` floats from x0.

        Bisection over the keys of s (its bits, since s >= 0), bracketed by galloping from the seed.
        """
        origin = self._start.keys[coordinates]

        def moved(key: Keys) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            return np.asarray(np.abs(self._keys(key.view(np.float64), coordinates) - origin) >= count)

        floor, ceiling = (int(np.float64(s).view(np.int64)) for s in span)
        seed = (np.clip(self._seed(coordinates, count), *span) + 0.0).view(np.int64)  # the bits of -0 are no step
        low, high = np.maximum(seed - 2, floor), np.minimum(seed + 2, ceiling)
        width = 4
        while (wrong := moved(low) & (low > floor)).any():
            low, width = np.where(wrong, np.maximum(low - width, floor), low), width * 16
        width = 4
        while (wrong := ~moved(high) & (high < ceiling)).any():
            high, width = np.where(wrong, np.minimum(high + width, ceiling), high), width * 16
        while (high - low > 1).any():
            middle = low + (high - low) // 2
            reached = moved(middle)
            high, low = np.where(reached, middle, high), np.where(reached, low, middle)
        return high.view(np.float64)
