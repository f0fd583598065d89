"""Past the first change: where the output is back at the baseline's bits, and what a bisection makes of that."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

from stabilitykit.measurements.ray import Boundary, Edge, bisected
from stabilitykit.numerics.lattice import Cell, Lattice
from stabilitykit.subjects.lanes import Search, Step


class Island(NamedTuple):
    """A stretch of steps past the first change with every bit of the baseline.

    `last_changed` and `first_same` are adjacent float64, and so are `last_same` and `changed_again`, which is infinite
    where the search ended on the island. `cells` of the inputs tried lie on it.
    """

    last_changed: float
    first_same: float
    last_same: float
    changed_again: float
    cells: int


@dataclass(frozen=True)
class Beyond:
    """What `cells` further inputs up to the step `searched` showed."""

    islands: tuple[Island, ...] = ()
    cells: int = 0
    searched: float = math.nan


def beyond(lattice: Lattice, boundary: Boundary, s_max: float, count: int) -> Search[Beyond]:
    """Try the next `count` distinct inputs after the boundary, each by a whole forward unless its state is y0's.

    The ends of an island are known for listed inputs; where dense coordinates move they are bisected.
    """
    if boundary.output is None or count == 0:
        return Beyond()
    tried: list[tuple[Cell, bool]] = []
    for cell in itertools.islice(lattice.samples(s_max, boundary.first_changed), count):
        answer = yield Step(lattice, cell.first_changed)
        tried.append((cell, answer.changed))
    found, before = [], boundary.first_changed
    runs = [(changed, [cell for cell, _ in run]) for changed, run in itertools.groupby(tried, key=lambda one: one[1])]
    for place, (changed, cells) in enumerate(runs):
        if not changed:
            after = runs[place + 1][1][0] if place + 1 < len(runs) else None
            found.append((yield from _island(lattice, before, cells, after)))
        before = cells[-1].first_changed
    return Beyond(tuple(found), len(tried), tried[-1][0].first_changed if tried else boundary.first_changed)


def _island(lattice: Lattice, before: float, cells: list[Cell], after: Cell | None) -> Search[Island]:
    last_changed, first_same, _ = yield from _end(lattice, before, cells[0], changes=False)
    last_same, changed_again = cells[-1].first_changed, math.inf
    if after is not None:
        last_same, changed_again, _ = yield from _end(lattice, last_same, after, changes=True)
    return Island(last_changed, first_same, last_same, changed_again, len(cells))


def _end(lattice: Lattice, low: float, cell: Cell, *, changes: bool) -> Search[Edge]:
    if not lattice.dense:
        return Edge(cell.last_same, cell.first_changed, None)
    return (yield from bisected(lattice, Edge(low, cell.first_changed, None), cell.last_same, changes=changes))


def halved(boundary: Boundary, past: Beyond) -> float:
    """Return the step at which halving [0, searched] ends, given what was found: it believes in a single change.

    Like the study's, it never asks about its upper end. No forwards.
    """
    low, high = 0.0, past.searched
    while math.nextafter(low, math.inf) < high:
        middle = low + (high - low) / 2
        same = middle <= boundary.last_same or any(i.first_same <= middle <= i.last_same for i in past.islands)
        low, high = (middle, high) if same else (low, middle)
    return low
