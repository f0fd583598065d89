"""Pairs of inputs on a ray, as they are after rounding: what a change inside the model is a change between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.directions import Directions, count, resolve
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.numerics.bits import bits_equal, raw_bytes
from stabilitykit.numerics.perturbation import RULES, perturb
from stabilitykit.subjects.subject import Subject

REFERENCES = ("origin", "start", "previous")

Epsilons = Sequence[float] | Sequence[tuple[float, float]]
"""Steps along a ray, or pairs (e1, e2) of them to be held against each other."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An input `x` and the one it is held against, `reference`, both (H,) and both as the model reads them.

    They lie at the steps `epsilon` and `start`, in the grid's unit, on the ray of `sign` times the direction;
    `step` is the nominal distance in units of the direction's length times the input's unit.
    """

    direction: str
    sign: int
    epsilon: float
    start: float
    step: float
    heading: Tensor
    x: Tensor
    reference: Tensor

    @property
    def delta(self) -> Tensor:
        """The realised change of the input, (H,) float64."""
        return self.x.double() - self.reference.double()

    @property
    def moved(self) -> bool:
        """Whether any bit of the input changed."""
        return not bits_equal(self.x, self.reference)

    @property
    def key(self) -> bytes:
        """The bytes of both inputs: equal for pairs that need be run once."""
        return bytes(raw_bytes(torch.cat([self.reference, self.x])).numpy())

    def row(self) -> dict[str, str | float | int]:
        """Return what the pair is, nominally and after rounding; alignment is nan where the input did not move."""
        delta = self.delta
        length = float(delta.norm())
        along = float(delta @ self.heading) / float(self.heading.norm())
        return {
            "direction": self.direction,
            "sign": self.sign,
            "epsilon": self.epsilon,
            "start": self.start,
            "step": self.step,
            "realised_norm": length,
            "alignment": along / length if length else math.nan,
            "coords_moved": int((delta != 0).sum()),
        }


@dataclass(frozen=True, eq=False)
class Grid:
    """The parameters that make pairs; see `LayerProfile` for what each means."""

    direction: Directions
    epsilons: Epsilons
    unit: str
    reference: str
    signs: Sequence[int]
    rule: str

    def check(self) -> None:
        """Refuse, in one sentence, what names no pairs."""
        check_unit(self.unit)
        if self.reference not in REFERENCES:
            raise UsageError(f"reference {self.reference!r} is not one of {', '.join(REFERENCES)}")
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if not self.signs or not set(self.signs) <= {1, -1} or len(set(self.signs)) != len(self.signs):
            raise UsageError(f"signs={self.signs!r}: give (1,), (-1,) or (1, -1)")
        self._check_epsilons()

    def _check_epsilons(self) -> None:
        if not self.epsilons:
            raise UsageError("the list of epsilons is empty; give at least one")
        paired = [isinstance(one, tuple | list) for one in self.epsilons]
        if any(paired) and not all(paired):
            raise UsageError("epsilons mix steps and pairs of steps; give one kind")
        steps = [step for start, step in self.steps()] + [start for start, step in self.steps()]
        if not all(isinstance(step, int | float) and 0 <= step < math.inf for step in steps):
            raise UsageError(f"epsilons={self.epsilons!r}: give finite numbers that are not negative")
        if not steps or any(start == step for start, step in self.steps()):
            raise UsageError(f"epsilons={self.epsilons!r} hold an input against itself; give steps that differ")

    def steps(self) -> list[tuple[float, float]]:
        """Return (start, epsilon) of each pair on one ray."""
        if isinstance(self.epsilons[0], tuple | list):
            return [tuple(pair) for pair in self.epsilons]  # type: ignore[misc,arg-type]  # checked: all are pairs
        steps = [float(step) for step in self.epsilons]  # type: ignore[arg-type]
        if self.reference == "start":
            return [(steps[0], step) for step in steps[1:]]
        starts = [0.0, *steps[:-1]] if self.reference == "previous" else [0.0] * len(steps)
        return list(zip(starts, steps, strict=True))

    def count(self) -> int:
        """Return how many pairs there are, without computing a named direction."""
        return count(self.direction) * len(self.signs) * len(self.steps())

    def pairs(self, subject: Subject) -> list[Pair]:
        """Return the pairs, ray by ray: of each direction each sign, and along it each step."""
        directions, labels = resolve(self.direction, subject)
        length = length_of(self.unit, subject)
        return [
            self._pair(subject, label, d.double().cpu(), sign, bounds, length)
            for label, d in zip(labels, directions, strict=True)
            for sign in self.signs
            for bounds in self.steps()
        ]

    def _pair(
        self, subject: Subject, label: str, d: Tensor, sign: int, bounds: tuple[float, float], length: float
    ) -> Pair:
        x0, (start, epsilon) = subject.x0.cpu(), bounds
        if not bool(d.any()):
            raise UsageError(f"direction {label} is zero: it moves no coordinate; give one that is not")
        reference, x = (perturb(x0, d, sign * step * length, self.rule) for step in bounds)
        heading = d * (sign if epsilon > start else -sign)
        return Pair(label, sign, epsilon, start, abs(epsilon - start) * length, heading, x, reference)


def distinct(pairs: Sequence[Pair]) -> tuple[list[Pair], list[int | None]]:
    """Return the pairs whose bytes differ, each once, and for every pair its place among them.

    The place is None where the input did not move: equal bits in give equal bits out, so there is nothing to run.
    """
    places: dict[bytes, int] = {}
    kept: list[Pair] = []
    found: list[int | None] = []
    for pair in pairs:
        if pair.moved and pair.key not in places:
            places[pair.key] = len(kept)
            kept.append(pair)
        found.append(places[pair.key] if pair.moved else None)
    return kept, found
