"""The map itself: every distinct input of a grid run once, in full batches, and some of them a second time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.measurements.pair_logits import Told, narrowed, whole
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.bits import same_bits
from stabilitykit.numerics.grid import Mask
from stabilitykit.numerics.plane import Plane
from stabilitykit.numerics.rounding import Floats

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """The distinct inputs of a grid: `number` (R, C) says which one each cell has, `first` (N,) a cell of each."""

    plane: Plane
    e1: Floats
    e2: Floats
    number: Numbers
    first: Numbers

    def __len__(self) -> int:
        return len(self.first)

    def rows(self, chosen: Sequence[int] | Numbers) -> Tensor:
        """Return the chosen inputs, (K, H): made again, for all of a large grid would not fit."""
        i, j = np.divmod(self.first[np.asarray(chosen, dtype=np.int64)], len(self.e2))
        return self.plane.at(self.e1[i], self.e2[j])


def inputs(plane: Plane, e1: Floats, e2: Floats) -> Inputs:
    """Return the distinct inputs of the grid, told apart by their bytes, one line of it in memory. O(R C H)."""
    seen: dict[bytes, int] = {}
    number = np.empty((len(e1), len(e2)), dtype=np.int64)
    first: list[int] = []
    for i, step in enumerate(e1):
        line = plane.at(np.full(len(e2), step), e2).contiguous().view(torch.uint8).numpy()
        for j, content in enumerate(line):
            key = hashlib.sha256(content.tobytes()).digest()
            if key not in seen:
                seen[key] = len(first)
                first.append(i * len(e2) + j)
            number[i, j] = seen[key]
    return Inputs(plane, e1, e2, number, np.array(first, dtype=np.int64))


@dataclass(frozen=True)
class DecisionMap:
    """What the subject says in each cell, (R, C) each; cells with equal inputs share one answer.

    `D` = z_a - z_b, `base` the same at x0 in the slot that the cell was run in, `third` whether another token has the
    largest logit. `repeated` inputs were run twice in their slot among other rows, `unrepeated` of them had other bits.
    """

    D: Floats
    base: Floats
    third: Mask
    repeated: int
    unrepeated: int


def evaluated(gap: LogitGap, grid: Inputs, again: int | None) -> DecisionMap:
    """Run the grid: input k sits in slot k % B. `again`: how many inputs are run twice, None for all of them."""
    B, N = gap.subject.batch, len(grid)
    listed = np.full(math.ceil(N / B) * B, -1, dtype=np.int64)
    listed[:N] = np.arange(N)
    order = listed.reshape(-1, B)
    twice = _turned(_spread(order, N if again is None else again))
    with bar(N + int((twice >= 0).sum()), "map", "input") as progress:
        pairs, third = _run(gap, grid, order, progress.update)
        others, again_third = _run(gap, grid, twice, progress.update, narrow=False)
    known = twice[twice >= 0]
    same = same_bits(others[known], pairs[known]).all(dim=1).numpy() & (again_third[known] == third[known])
    D = (pairs[:, 0].double() - pairs[:, 1].double()).numpy()
    cells = grid.number
    return DecisionMap(D[cells], gap.baseline[cells % B], third[cells], len(known), int((~same).sum()))


def runs(distinct: int, again: int | None, batch: int) -> int:
    """Return the rows that a map of so many distinct inputs takes."""
    once = math.ceil(distinct / batch)
    return batch * (once + (once if again is None else min(once, math.ceil(again / batch))))


def _run(
    gap: LogitGap, grid: Inputs, order: Numbers, done: Callable[[int], object], *, narrow: bool = True
) -> tuple[Tensor, Mask]:
    """Return (z_a, z_b) of every input in `order` (Q, B), (N, 2), and whether a third token leads; -1 is x0.

    The second run of an input is never narrowed: it holds the two ways of reading against each other.
    """
    pairs = torch.zeros(len(grid), 2, dtype=gap.subject.baseline.dtype)
    third = np.zeros(len(grid), dtype=bool)
    read: Callable[[Tensor], Told] | None = None if narrow else partial(whole, gap)
    for numbers in order:
        X, slots = gap.subject.copies(gap.subject.batch), np.flatnonzero(numbers >= 0)
        X[torch.from_numpy(slots)] = grid.rows(numbers[slots]).to(X)
        if read is None:
            told, read = narrowed(gap, X)
        else:
            told = read(X)
        pairs[numbers[slots]] = told.pairs[slots].cpu()
        third[numbers[slots]] = told.third.cpu().numpy()[slots]
        done(len(slots))
    return pairs, third


def _spread(order: Numbers, wanted: int) -> Numbers:
    """Return batches for so many inputs, evenly from the whole map."""
    count = min(len(order), math.ceil(wanted / order.shape[1]))
    return order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]


def _turned(order: Numbers) -> Numbers:
    """Return the same inputs, each in its slot, among other rows: slot s is s batches ahead."""
    if not len(order):
        return order
    slots = np.arange(order.shape[1])
    return np.asarray(order[(np.arange(len(order))[:, None] + slots) % len(order), slots])
