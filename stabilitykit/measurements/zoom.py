"""A part of a decision map, seen closer: new inputs between the old ones, until floats end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from stabilitykit.errors import IncomparableError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.ground import Ground, grounded, reading
from stabilitykit.measurements.landscape import Bounds, Landscape, check_map_counts, map_cost, mapped, noise_of
from stabilitykit.measurements.map_readings import METRICS
from stabilitykit.numerics.autocorrelation import SHUFFLES
from stabilitykit.results.metric import Metric
from stabilitykit.results.result import Result
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class Zoom(Measurement):
    """n x n points inside a region of a map, all run anew: nothing is cut out of the old map or interpolated.

    `of`: the Landscape or Zoom that was asked, or the Result of one, whose own bits of middle and directions are used
    then. `region`: ((low, high), (low, high)) of e1 and e2 in input units, or a number f > 1 for the middle 1/f of both
    axes. A region that is not inside the map is refused, and one that holds a single input of the lattice; the sentence
    says so where fewer than a quarter of the cells have inputs of their own. Everything else as in Landscape.
    UsageError for such a region, IncomparableError for the result of another model. Source: the study's zoom, which cut
    the old grid and moved what lay outside to its edge.
    """

    of: Landscape | Zoom | Result
    region: Bounds | float = 8.0
    n: int = 51
    again: int | None = 128
    beyond: float = 8.0
    shuffles: int = SHUFFLES
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = Landscape.requires
    causes: ClassVar[tuple[str, ...]] = Landscape.causes

    def __post_init__(self) -> None:
        """Refuse what is no map, or no part of one."""
        check_map_counts(self.n, self.again, self.shuffles, self.beyond)
        if not isinstance(self.of, Landscape | Zoom) and not _is_map(self.of):
            raise UsageError(f"of={self.of!r:.60} is no map; give a Landscape, a Zoom, or the Result of one")
        if isinstance(self.region, int | float):
            if not 1 < self.region < math.inf:
                raise UsageError(f"region={self.region!r} enlarges nothing; give a number above 1, or two ranges")
        elif not _two_ranges(self.region):
            raise UsageError(f"region={self.region!r}: give ((low, high), (low, high)) in input units, or a number")

    @property
    def title(self) -> str:
        """The measurement as one would type it, with the map by its name."""
        return f"Zoom(of={self.of.title}, region={self.region!r})"

    def parameters(self) -> dict[str, Any]:
        """Return the fields; the map as its title, for a result with the digest of its middle."""
        middle = self.of.subject["map_middle"] if isinstance(self.of, Result) else ""
        plain = super().parameters() | {"of": f"{self.of.title} {middle}".rstrip()}
        return plain | ({} if isinstance(self.of, Result) else {"of_parameters": self.of.parameters()})

    def cost(self, subject: Subject) -> Cost:
        """Return the rows of the map, and of finding its middle and directions where they were not given."""
        return map_cost(subject, self.n, self.again) + self.ground_cost(subject)

    def ground_cost(self, subject: Subject) -> Cost:
        """Return what finding the middle and the directions costs."""
        return Cost() if isinstance(self.of, Result) else self.of.ground_cost(subject)

    def find(self, subject: Subject) -> Finding:
        """Run the region."""
        found = self.ground(subject)
        noise = noise_of(found)
        return mapped(found, self.bounds(found, noise), noise, self)

    def ground(self, subject: Subject) -> Ground:
        """Return the ground of the map that is looked at."""
        return _recorded(self.of, subject) if isinstance(self.of, Result) else self.of.ground(subject)

    def bounds(self, found: Ground, noise: float) -> Bounds:
        """Return the region in input units; UsageError where it is not inside the map."""
        outer = _bounds(self.of) if isinstance(self.of, Result) else self.of.bounds(found, noise)
        if isinstance(self.region, int | float):
            first, second = (_middle(ends, self.region) for ends in outer)
            return first, second
        for name, (low, high), (least, most) in zip(("e1", "e2"), self.region, outer, strict=True):
            if not least <= low < high <= most:
                raise UsageError(
                    f"{name} from {low:g} to {high:g} is not inside the map, whose {name} runs from {least:g} to "
                    f"{most:g}"
                )
        return self.region


def _is_map(of: object) -> bool:
    return isinstance(of, Result) and of.measurement in ("Landscape", "Zoom") and {"e1", "e2", "x0"} <= set(of.arrays)


def _two_ranges(region: object) -> bool:
    pairs = isinstance(region, tuple | list) and len(region) == 2
    return pairs and all(isinstance(one, tuple | list) and len(one) == 2 for one in region)  # type: ignore[attr-defined]


def _middle(ends: tuple[float, float], factor: float) -> tuple[float, float]:
    centre, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2 / factor
    return centre - half, centre + half


def _bounds(of: Result) -> Bounds:
    first, second = ((float(of.arrays[e][0]), float(of.arrays[e][-1])) for e in ("e1", "e2"))
    return first, second


def _recorded(of: Result, subject: Subject) -> Ground:
    """Return the ground of a stored map, from its own bits."""
    described = subject.describe()
    for name in ("model_digest", "dtype", "hidden_size"):
        if of.subject.get(name) != described.get(name):
            raise IncomparableError(
                f"the map has {name} {of.subject.get(name)}, {subject.name} has {described.get(name)}: it is not of "
                "this model"
            )
    x0, directions = (torch.from_numpy(of.arrays[name]) for name in ("x0", "directions"))
    there = subject.at(x0.to(subject.x0), proved=False)
    first, second = of.subject["pair"]
    labels, rule = of.subject["map_plane"], of.subject["map_rule"]
    said = {name: of.subject[name] for name in ("tie_distance", "tie_gap_ulp") if name in of.subject}
    reader = reading(subject).at(there.x0, proved=False)
    return grounded(there, reader, directions, labels, (int(first), int(second)), rule, said)
