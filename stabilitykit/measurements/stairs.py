"""A staircase in two halves: the distinct inputs along a ray, and what the output does from each to the next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stabilitykit.measurements.walks import Walk, walks
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.subject import Subject, rows_differ


@dataclass(frozen=True)
class Treads:
    """The distinct inputs of a stretch of a ray, in order: X (m, H) on the CPU, m >= 1.

    Input k holds from step `first[k]` to step `last[k]`, but for dense coordinates, which move on meanwhile. `exact`:
    there are none, and no input of the stretch was left out.
    """

    X: Tensor
    first: list[float]
    last: list[float]
    exact: bool


def enumerated(lattice: Lattice, start: float, stop: float, n: int) -> Treads:
    """Return the input at `start` and the distinct inputs after it, n in all or up to `stop`.

    Listed breakpoint by breakpoint; where dense coordinates move these are sampled, and the treads are not exact.
    """
    X, first, last = [lattice.at(start)], [start], []
    for cell in lattice.samples(stop, start):
        x = lattice.at(cell.first_changed)
        if bits_equal(x, X[-1]):  # a sample of dense coordinates that moved none of them
            continue
        last.append(cell.last_same)
        if len(X) == n:
            break
        X.append(x)
        first.append(cell.first_changed)
    else:
        reachable = math.isfinite(stop) and bool(torch.isfinite(lattice.at(stop)).all())
        last.append(stop if reachable else first[-1])
    return Treads(torch.stack(X), first, last, not lattice.dense)


def on_grid(lattice: Lattice, steps: Sequence[float]) -> Treads:
    """Return the distinct inputs at the given ascending steps; exact if the stretch has no others."""
    X = lattice.at(torch.tensor(steps, dtype=torch.float64))
    # Every coordinate is monotone in s, so equal inputs are neighbours.
    new = [0, *(rows_differ(X[1:], X[:-1]).nonzero().flatten() + 1).tolist()]
    ends = [place - 1 for place in (*new[1:], len(steps))]
    listed = sum(1 for _ in itertools.islice(lattice.cells(steps[-1], steps[0]), len(new)))
    exact = not lattice.dense and listed == len(new) - 1
    return Treads(X[new], [steps[place] for place in new], [steps[place] for place in ends], exact)


class Arrival(NamedTuple):
    """What a tread showed when it was reached from the one before it, both in `slot`.

    `jumped`: some output bit differs from there; `jump`: the L2 distance, nan for the first tread. `changed` and
    `distance` compare with the slot's own y0. `label` numbers the output, 0 for y0.
    """

    slot: int
    jumped: bool
    jump: float
    changed: bool
    distance: float
    label: int


@dataclass(frozen=True)
class Climb:
    """The arrivals at m treads; `secant`, the L2 distance from the first output to the last, both in one slot.

    `unexplained` counts evaluations whose bits differ from those of the same input in the same slot.
    """

    arrivals: list[Arrival]
    secant: float
    unexplained: int


def climb(subject: Subject, X: Tensor) -> Climb:
    """Evaluate every tread twice and compare each with the one before it, always within one slot.

    The treads are closed to a circle, 0 .. m-1 and 0 again, and cut into one stretch a slot; neighbouring stretches
    share a tread. So each pair of consecutive treads, and that of the last and the first, has a slot that saw both.
    The second time each stretch begins elsewhere: a row then meets its slot at another time, among other rows.
    Cost: 2 B (ceil(m / B) + 1) rows.
    """
    circle = [*range(len(X)), 0]
    length = math.ceil(len(X) / subject.batch)
    parts = [circle[begin : begin + length + 1] for begin in range(0, len(X), length)]
    there = walks(subject, [X[part] for part in parts], label="staircase")
    again = walks(
        subject,
        [X[part].roll(-_shift(walk), dims=0) for part, walk in zip(parts, there, strict=True)],
        label="staircase, again",
    )
    unexplained = sum(
        int(rows_differ(one.outputs, other.outputs.roll(_shift(one), dims=0)).sum())
        for one, other in zip(there, again, strict=True)
    )
    closing = there[-1].outputs
    secant = float((closing[-1].double() - closing[-2].double()).norm())
    return Climb(_arrivals(subject, parts, there), secant, unexplained)


def _shift(walk: Walk) -> int:
    return (walk.slot + 1) % len(walk.outputs)


def _arrivals(subject: Subject, parts: list[list[int]], walked: list[Walk]) -> list[Arrival]:
    """Return what each tread showed where it was reached, the first one where the circle begins.

    A name is carried over by the tread that two stretches share; only y0's own bits are named 0 in every slot.
    """
    found: list[Arrival] = []
    fresh, name = itertools.count(1), 0
    for part, walk in zip(parts, walked, strict=True):
        y0 = subject.baseline[walk.slot]
        names = {digest(y0): 0}
        for place, tread in enumerate(part):
            output, before = walk.outputs[place], walk.outputs[max(place - 1, 0)]
            shared = place == 0 and tread > 0
            name = names.setdefault(digest(output), name if shared and name else next(fresh))
            if len(found) == tread:
                found.append(
                    Arrival(
                        slot=walk.slot,
                        jumped=not bits_equal(output, before),
                        jump=float((output.double() - before.double()).norm()) if place else math.nan,
                        changed=name > 0,
                        distance=float((output.double() - y0.double()).norm()),
                        label=name,
                    )
                )
    return found
