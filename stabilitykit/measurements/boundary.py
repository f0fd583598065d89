"""How far can an input move along a ray before any bit of the output changes? Certified by enumeration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, resolve
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.ray import Boundary, first_change
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects import lanes
from stabilitykit.subjects.subject import Subject

_EXPECTED_CELLS = 64

RADIUS = (
    Metric("radius", "input", "higher", "largest step along the ray whose output is unchanged in every bit"),
    Metric("s_last_same", "input", "neither", "last step with the baseline's bits, a float64"),
    Metric("s_first_changed", "input", "neither", "the next float64, the first step with other bits"),
    Metric("lattice_radius", "input", "neither", "last step before a listable coordinate of the rounded input changes"),
    Metric("rho", "", "higher", "radius over lattice radius: how much change the model absorbs"),
    Metric("cells", "inputs", "neither", "distinct inputs from x0 to the change, that one included"),
    Metric("coordinate", "index", "neither", "input coordinate whose last bit makes the difference"),
    Metric("input_step", "input", "neither", "L2 size of the input change across the boundary"),
    Metric("output_jump", "output", "lower", "L2 size of the output change across the boundary"),
    Metric("amplification", "output/input", "lower", "output jump over input step"),
    Metric("exact", "share", "higher", "share of rays whose every distinct input below the radius was tried"),
    Metric("censored", "share", "lower", "share of rays without a change in the range searched"),
    Metric("directions", "rays", "neither", "number of rays"),
    Metric("median_radius", "input", "higher", "median radius over the rays"),
    Metric("median_rho", "", "higher", "median of rho over the rays"),
)


@dataclass(frozen=True, eq=False)
class FirstChange(Measurement):
    """The first distinct input on the ray x(s) = x0 + s d, s > 0, whose output differs from y0 in any bit.

    `direction`: (H,), (N, H), "v1", a recipe, or a list of names and recipes, used exactly as given. The rounded input
    takes a countable list of values; they are tried in order, so no monotonicity is assumed. Each row is a certificate:
    x(s_last_same) has the baseline's bits in its slot, the next float64 s_first_changed has not, and `cells` distinct
    inputs were tried. `exact` is False where d moves an exact zero of x0, whose floats are too many to list: those are
    sampled. No change within `max_cells` inputs or up to `s_max` is `censored`, with the radius searched.

    Readings are those of the ray with the smallest radius (lengths in input units); `amplification` is the largest.
    Arrays, (N,) each: radius, s_last_same, s_first_changed, lattice_radius, cells; `directions` (N, H), `y0` (B, M).
    With `screen`, inputs whose first-block state is unchanged need no whole forward (only on a subject that proved it).
    UsageError for a zero or misshapen direction. Cost: about 1.2 whole forwards and a few tens of first blocks a ray.
    """

    direction: Directions = "v1"
    s_max: float = math.inf
    max_cells: int = 4096
    screen: bool = True
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = RADIUS
    causes: ClassVar[tuple[str, ...]] = (
        "a kernel, dtype or batch shape that changed which rounding comes first",
        "a token whose embedding has finer float spacing, which moves the lattice itself (compare rho)",
    )

    def cost(self, subject: Subject) -> Cost:
        """Expected rows: two whole forwards a ray and the baseline, and the screening."""
        return _expected(subject, len(resolve(self.direction, subject)[0]))

    def find(self, subject: Subject) -> Finding:
        """Search all rays at once, one lane of the batch each."""
        directions, labels = resolve(self.direction, subject)
        rows, arrays = search(subject, directions, labels, self)
        return Finding(_readings(rows), _sentence(rows), rows=rows, arrays=arrays)


@dataclass(frozen=True, eq=False)
class StabilityFan(Measurement):
    """FirstChange for `angles` equally spaced directions cos(t) a + sin(t) b in a plane, by default that of v1 and v2.

    The picture of the study's experiment 12, certified. Rows add `angle_deg`; readings add `angle` of the smallest
    radius and `anisotropy` = largest over smallest radius. Everything else as in FirstChange.
    """

    angles: int = 72
    plane: tuple[str, str] = ("v1", "v2")
    s_max: float = math.inf
    max_cells: int = 4096
    screen: bool = True
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        *RADIUS,
        Metric("angle", "deg", "neither", "angle of the smallest radius in the plane"),
        Metric("anisotropy", "", "neither", "largest radius over smallest"),
    )
    causes: ClassVar[tuple[str, ...]] = FirstChange.causes

    def cost(self, subject: Subject) -> Cost:
        """Expected rows, as for FirstChange with one ray an angle."""
        return _expected(subject, self.angles)

    def find(self, subject: Subject) -> Finding:
        """Search all angles at once."""
        a, b = resolve(self.plane, subject)[0]
        turns = [2 * math.pi * index / self.angles for index in range(self.angles)]
        directions = torch.stack([math.cos(turn) * a + math.sin(turn) * b for turn in turns])
        degrees = [360 * index / self.angles for index in range(self.angles)]
        plain, arrays = search(subject, directions, [f"{degree:g} deg" for degree in degrees], self)
        rows = tuple({"angle_deg": degree, **row} for degree, row in zip(degrees, plain, strict=True))
        radii = [row["radius"] for row in rows]
        values = _readings(rows) | {
            "angle": degrees[int(np.argmin(radii))],
            "anisotropy": max(radii) / min(radii) if min(radii) > 0 else math.inf,
        }
        return Finding(values, _sentence(rows), rows=rows, arrays={**arrays, "angle_deg": np.array(degrees)})


def search(
    subject: Subject, directions: Tensor, labels: list[str], settings: FirstChange | StabilityFan
) -> tuple[tuple[dict[str, Any], ...], dict[str, NDArray[Any]]]:
    """Return one certificate row a direction and the arrays; each failing direction would be a row of its own."""
    lattices = [Lattice(subject.x0.cpu(), direction, settings.rule) for direction in directions]
    with bar(len(lattices), "boundary", "ray") as progress:
        found = lanes.run(
            subject,
            (first_change(lattice, settings.s_max, settings.max_cells) for lattice in lattices),
            screen=settings.screen,
            done=progress.update,
        )
    rows = tuple(
        _row(label, lattice, boundary, subject)
        for label, lattice, boundary in zip(labels, lattices, found, strict=True)
    )
    columns = ("radius", "s_last_same", "s_first_changed", "lattice_radius", "cells", "slot")
    arrays: dict[str, NDArray[Any]] = {name: np.array([row[name] for row in rows]) for name in columns}
    return rows, {
        **arrays,
        "directions": directions.double().cpu().numpy(),
        "x0": subject.x0.double().cpu().numpy(),
        "y0": subject.baseline.double().cpu().numpy(),
    }


def _row(label: str, lattice: Lattice, boundary: Boundary, subject: Subject) -> dict[str, Any]:
    """Return the certificate of one ray, with what the step really was after rounding."""
    censored = boundary.output is None
    x0 = subject.x0.cpu().double()
    last = lattice.at(boundary.last_same).double()
    first = last if censored else lattice.at(boundary.first_changed).double()
    moved, jump = first - x0, math.nan
    if boundary.output is not None:
        jump = float((boundary.output.double() - subject.baseline[boundary.slot].double()).norm())
    step = float((first - last).norm())
    direction = lattice.direction.double().cpu()
    nearest = next(lattice.cells(), None)
    lattice_radius = nearest.last_same if nearest else math.nan
    return {
        "direction": label,
        "radius": boundary.last_same,
        "s_last_same": boundary.last_same,
        "s_first_changed": boundary.first_changed,
        "lattice_radius": lattice_radius,
        "rho": boundary.last_same / lattice_radius if lattice_radius else math.nan,
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


def _readings(rows: tuple[dict[str, Any], ...]) -> dict[str, float | Reading]:
    nearest = min(rows, key=lambda row: row["radius"])
    steepest = max(rows, key=lambda row: -math.inf if math.isnan(row["amplification"]) else row["amplification"])
    schema = {metric.name: metric for metric in RADIUS}
    place = {"direction": nearest["direction"], "slot": str(nearest["slot"])}
    names = ("radius", "s_last_same", "s_first_changed", "lattice_radius", "rho", "cells", "coordinate", "input_step")
    values: dict[str, float | Reading] = {
        name: Reading(schema[name], nearest[name], place=place) for name in (*names, "output_jump")
    }
    values["amplification"] = Reading(
        schema["amplification"], steepest["amplification"], place={"direction": steepest["direction"]}
    )
    return values | {
        "exact": sum(row["exact"] for row in rows) / len(rows),
        "censored": sum(row["censored"] for row in rows) / len(rows),
        "directions": len(rows),
        "median_radius": float(np.median([row["radius"] for row in rows])),
        "median_rho": float(np.median([row["rho"] for row in rows])),
    }


def _sentence(rows: tuple[dict[str, Any], ...]) -> str:
    nearest = min(rows, key=lambda row: row["radius"])
    dense = sum(not row["exact"] for row in rows)
    sampled = (
        f" {dense} of {len(rows)} rays move exact zeros of the embedding, which are sampled, not listed."
        if dense
        else " Every distinct input below it was tried."
    )
    against = (
        "exactly where the rounded input itself first changes"
        if nearest["rho"] == 1
        else f"{nearest['rho']:.3g} times the step at which the rounded input itself first changes"
    )
    rays = f"the nearest of {len(rows)} rays" if len(rows) > 1 else "the ray"
    return f"Along {rays} the output keeps every bit up to s = {nearest['radius']:.6g}, {against}.{sampled}"


def _expected(subject: Subject, rays: int) -> Cost:
    rounds = math.ceil(rays / subject.batch)
    return Cost(forwards=(1 + 2 * rounds) * subject.batch, screened=_EXPECTED_CELLS * rounds * subject.batch)
