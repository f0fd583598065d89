"""Many rays at once: how they are searched, and one certificate a ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Measurement
from stabilitykit.measurements.islands import Beyond, beyond, halved
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.radii import ISLANDS, RADIUS
from stabilitykit.measurements.ray import Boundary, first_change
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.fan import fan
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.results.metric import Metric
from stabilitykit.subjects import lanes
from stabilitykit.subjects.lanes import Search
from stabilitykit.subjects.subject import Subject

Row = dict[str, Any]

_EXPECTED_CELLS = 64

CAUSES = (
    "a kernel, dtype or batch shape that changed which rounding comes first",
    "a token whose embedding has finer float spacing, which moves the lattice itself (compare rho)",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class RaySearch(Measurement):
    """How rays are searched: up to the step `s_max` or `max_cells` inputs, and `beyond` inputs past the first change.

    With `screen`, inputs whose first-block state is unchanged need no whole forward (only on a subject that proved it).
    `rule` is how x0 + s d is rounded. UsageError for a range that holds nothing and for an unknown rule.
    """

    s_max: float = math.inf
    max_cells: int = 4096
    beyond: int = 0
    screen: bool = True
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (*RADIUS, *ISLANDS)
    causes: ClassVar[tuple[str, ...]] = CAUSES

    def __post_init__(self) -> None:
        """Refuse a search that cannot find anything."""
        if not self.s_max > 0:
            raise UsageError(f"s_max={self.s_max!r} leaves no step to try; give a positive number")
        check_count("max_cells", self.max_cells, 1)
        check_count("beyond", self.beyond, 0)
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")

    def expected(self, subject: Subject, rays: int) -> Cost:
        """Two whole forwards a ray, one an input beyond, ends of islands, the baseline, the noise floor, and the walk.

        What is walked takes first blocks where the subject screens, and whole forwards where it does not.
        """
        B, rounds = subject.batch, math.ceil(rays / subject.batch)
        whole = 1 + (2 + self.beyond) * rounds + self.beyond
        walked = (min(_EXPECTED_CELLS, self.max_cells) + self.beyond) * rounds * B
        screened = walked if self.screen and subject.depth else 0
        return Cost(forwards=whole * B + 2 * B + 15 + walked - screened, screened=screened)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} is no count; give a whole number, at least {least}")


@dataclass(frozen=True)
class Searched:
    """What a search found, ray by ray: tidy rows, and the boundaries and lattices behind them."""

    rows: tuple[Row, ...]
    boundaries: tuple[Boundary, ...]
    lattices: tuple[Lattice, ...]
    arrays: Mapping[str, NDArray[Any]]


def search(subject: Subject, directions: Tensor, labels: Sequence[str], settings: RaySearch) -> Searched:
    """Search every ray, (N, H) directions with a label each, one slot of the batch at a time."""
    lattices = tuple(fan(subject.x0.cpu(), directions, settings.rule))
    with bar(len(lattices), "boundary", "ray") as progress:
        found = lanes.run(
            subject,
            (_explored(lattice, settings) for lattice in lattices),
            screen=settings.screen,
            done=progress.update,
        )
    boundaries = tuple(boundary for boundary, _ in found)
    rows = tuple(
        _row(label, lattice, boundary, subject) | (_returns(boundary, past) if settings.beyond else {})
        for label, lattice, (boundary, past) in zip(labels, lattices, found, strict=True)
    )
    columns = ("radius", "s_last_same", "s_first_changed", "lattice_radius", "cells", "slot")
    arrays: dict[str, NDArray[Any]] = {name: np.array([row[name] for row in rows]) for name in columns}
    if settings.beyond:
        arrays["islands"] = np.array(
            [(ray, *island) for ray, (_, past) in enumerate(found) for island in past.islands], dtype=np.float64
        ).reshape(-1, 6)
    arrays["directions"] = directions.double().cpu().numpy()
    arrays["x0"] = subject.x0.double().cpu().numpy()
    arrays["y0"] = subject.baseline.double().cpu().numpy()
    return Searched(rows, boundaries, lattices, arrays)


def _explored(lattice: Lattice, settings: RaySearch) -> Search[tuple[Boundary, Beyond]]:
    boundary = yield from first_change(lattice, settings.s_max, settings.max_cells)
    past = yield from beyond(lattice, boundary, settings.s_max, settings.beyond)
    return boundary, past


def _row(label: str, lattice: Lattice, boundary: Boundary, subject: Subject) -> Row:
    """Return the certificate of one ray, with what the step really was after rounding."""
    censored = boundary.output is None
    x0 = subject.x0.cpu().double()
    last = lattice.at(boundary.last_same).double()
    first = last if censored else lattice.at(boundary.first_changed).double()
    moved, jump = first - x0, math.nan
    if boundary.output is not None:
        jump = float((boundary.output.double() - subject.baseline[boundary.slot].double()).norm())
    step = float((first - last).norm())
    direction = lattice.direction.double()
    lattice_radius = lattice.nearest.last_same if lattice.nearest else math.nan
    return {
        "direction": label,
        "radius": boundary.last_same,
        "s_last_same": boundary.last_same,
        "s_first_changed": boundary.first_changed,
        "lattice_radius": lattice_radius,
        "rho": _rho(boundary.last_same, lattice_radius),
        "cells": boundary.cells,
        "coordinate": boundary.coordinate,
        "input_step": step,
        "output_jump": jump,
        "amplification": jump / step if step else math.nan,
        "realised_norm": float(moved.norm()),
        "alignment": float(moved @ direction / (moved.norm() * direction.norm())) if bool(moved.any()) else math.nan,
        "coords_moved": int((moved != 0).sum()),
        "exact": not lattice.dense,
        "dense_coordinates": len(lattice.dense),
        "censored": censored,
        "slot": boundary.slot,
        "output_digest": "" if boundary.output is None else digest(boundary.output),
        "baseline_digest": digest(subject.baseline[boundary.slot]),
        "verdict": "measured",
    }


def _rho(radius: float, lattice_radius: float) -> float:
    if radius == lattice_radius:
        return 1.0
    return (
        radius / lattice_radius if lattice_radius else math.inf
    )  # the sign of a zero changes at the first step of all


def _returns(boundary: Boundary, past: Beyond) -> Row:
    """Return what a ray met past its first change; nan where there was none to go past."""
    return {
        "beyond_cells": past.cells,
        "islands": len(past.islands),
        "island_cells": sum(island.cells for island in past.islands),
        "last_return": past.islands[-1].last_same if past.islands else math.nan,
        "bisection_radius": halved(boundary, past) if past.cells else math.nan,
    }
