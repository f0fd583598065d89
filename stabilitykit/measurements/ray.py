"""The search along one ray: distinct inputs in order, one question each, until an output differs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.lattice import Cell, Lattice
from stabilitykit.subjects.lanes import Answer, Probe, Search


@dataclass(frozen=True)
class Boundary:
    """The end of one search: the adjacent pair, or how far it looked."""

    last_same: float
    first_changed: float
    cells: int
    coordinate: int
    output: Tensor | None
    slot: int


def first_change(lattice: Lattice, s_max: float, max_cells: int) -> Search[Boundary]:
    """Try the distinct inputs in order until an output differs."""
    tested, cells, slot = 0.0, 0, 0
    for cell in lattice.samples(s_max):
        if cells == max_cells:
            break
        cells += 1
        answer = yield lattice.at(cell.first_changed)
        slot = answer.slot
        if answer.changed:
            last, first, coordinate, output = yield from _narrow(lattice, tested, cell, answer)
            return Boundary(last, first, cells, coordinate, output, slot)
        tested = cell.first_changed
    else:
        # Beyond the last finite input there is nothing to search.
        tested = s_max if bool(torch.isfinite(lattice.at(s_max)).all()) else tested
    return Boundary(tested, math.inf, cells, -1, None, slot)


def _narrow(
    lattice: Lattice, low: float, cell: Cell, answer: Answer
) -> Search[tuple[float, float, int, Tensor | None]]:
    """Return the adjacent pair, the coordinate that moves there, and its output.

    Known for a listed cell; where dense coordinates moved as well, bisected between two inputs known to differ: first
    by the first-block state alone, and again by whole forwards from there, should that state not reach the output.
    """
    high, output = cell.first_changed, answer.output
    if not lattice.dense:
        return cell.last_same, high, cell.coordinate, output
    for ask in (Probe, Tensor):
        same, changed = yield from _bisected(lattice, low, high, cell.last_same, ask)
        if changed == high:
            low = same
            break
        reply = yield lattice.at(changed)
        low, high, output = (same, changed, reply.output) if reply.changed else (changed, high, output)
        if reply.changed:
            break
    moved = (lattice.at(low) != lattice.at(high)).nonzero().flatten().tolist()
    return low, high, moved[0] if moved else -1, output


def _bisected(
    lattice: Lattice, low: float, high: float, guess: float, ask: type[Probe] | type[Tensor]
) -> Search[tuple[float, float]]:
    """Return adjacent float64 steps, the first unchanged and the second not, trying `guess` before any middle."""
    while math.nextafter(low, math.inf) < high:
        middle = min(max(guess, math.nextafter(low, math.inf)), math.nextafter(high, 0.0))
        x = lattice.at(middle)
        changed = bits_equal(x, lattice.at(high))
        if not changed and not bits_equal(x, lattice.at(low)):
            changed = (yield Probe(x) if ask is Probe else x).changed
        low, high = (low, middle) if changed else (middle, high)
        guess = low + (high - low) / 2
    return low, high
