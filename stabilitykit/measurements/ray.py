"""The search along one ray: distinct inputs in order, one question each, until an output differs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.lattice import Cell, Lattice
from stabilitykit.subjects.lanes import Answer, Search, Step


@dataclass(frozen=True)
class Boundary:
    """The end of one search: the adjacent pair, or how far it looked."""

    last_same: float
    first_changed: float
    cells: int
    coordinate: int
    output: Tensor | None
    slot: int


class Edge(NamedTuple):
    """Adjacent float64 steps on two sides of a change, and the output beyond it, None where only a state was seen."""

    near: float
    far: float
    output: Tensor | None


def first_change(lattice: Lattice, s_max: float, max_cells: int) -> Search[Boundary]:
    """Try the distinct inputs in order until an output differs."""
    tested, cells, slot, dense = 0.0, 0, 0, bool(lattice.dense)
    for cell in lattice.samples(s_max):
        if cells == max_cells:
            break
        cells += 1
        # Where the pair has to be found between two samples, states find it, and one whole forward confirms it.
        answer = yield Step(lattice, cell.first_changed, probe=dense)
        slot = answer.slot
        edge = (yield from _narrowed(lattice, tested, cell, answer)) if answer.changed else None
        if edge is not None:
            coordinate = _moved(lattice, edge) if lattice.dense else cell.coordinate
            return Boundary(edge.near, edge.far, cells, coordinate, edge.output, slot)
        tested = cell.first_changed
    else:
        # Beyond the last finite input there is nothing to search.
        tested = s_max if bool(torch.isfinite(lattice.at(s_max)).all()) else tested
    return Boundary(tested, math.inf, cells, -1, None, slot)


def _narrowed(lattice: Lattice, low: float, cell: Cell, answer: Answer) -> Search[Edge | None]:
    """Return the adjacent pair up to the cell where the output changes, or None if only the state did.

    Known for a listed cell; where dense coordinates moved as well, bisected between two inputs known to differ: first
    by the first-block state alone, and again by whole forwards from there, should that state not reach the output.
    """
    high = cell.first_changed
    if not lattice.dense:
        return Edge(cell.last_same, high, answer.output)
    edge = yield from bisected(lattice, Edge(low, high, answer.output), cell.last_same, probe=True)
    if edge.output is not None:
        return edge
    reply = yield Step(lattice, edge.far)
    if reply.changed:
        return Edge(edge.near, edge.far, reply.output)
    low = edge.far
    reply = yield Step(lattice, high)
    if not reply.changed:
        return None
    return (yield from bisected(lattice, Edge(low, high, reply.output), low + (high - low) / 2))


def bisected(lattice: Lattice, edge: Edge, guess: float, *, probe: bool = False, changes: bool = True) -> Search[Edge]:
    """Return the adjacent steps inside `edge`, the first like its near side and the second like its far side.

    `changes`: the far side is the changed one. `guess` is tried before any middle; with `probe`, states are asked for.
    """
    low, high, output = edge
    while math.nextafter(low, math.inf) < high:
        middle = min(max(guess, math.nextafter(low, math.inf)), math.nextafter(high, 0.0))
        x = lattice.at(middle)
        beyond = bits_equal(x, lattice.at(high))
        if not beyond and not bits_equal(x, lattice.at(low)):
            answer = yield Step(lattice, middle, probe)
            beyond = answer.changed is changes
            output = answer.output if beyond else output
        low, high = (low, middle) if beyond else (middle, high)
        guess = low + (high - low) / 2
    return Edge(low, high, output)


def _moved(lattice: Lattice, edge: Edge) -> int:
    """Return the lowest coordinate that moves across the edge."""
    moved = (lattice.at(edge.near) != lattice.at(edge.far)).nonzero().flatten().tolist()
    return moved[0] if moved else -1
