"""How far can an input move along a ray before any bit of the output changes? Certified by enumeration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding
from stabilitykit.measurements.directions import Directions, Recipe, count, products_of, resolve
from stabilitykit.measurements.radii import Rows, readings_of, sentence_of
from stabilitykit.measurements.rays import RaySearch, check_count, search
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.subject import Subject

CARDINAL = (0, 90, 180, 270)
"""Angles of a, b, -a and -b in the plane of a and b, in degrees."""


@dataclass(frozen=True, eq=False)
class FirstChange(RaySearch):
    """The first distinct input on the ray x(s) = x0 + s d, s > 0, whose output differs from y0 in any bit.

    `direction`: (H,), (N, H), "v1", a recipe, or a list of names and recipes, used exactly as given. The rounded input
    takes a countable list of values; they are tried in order, so no monotonicity is assumed. Each row is a certificate:
    x(s_last_same) has the baseline's bits in its slot, the next float64 s_first_changed has not, and `cells` distinct
    inputs were tried. `exact` is False where d moves an exact zero of x0, whose floats are too many to list: those are
    sampled. No change within `max_cells` inputs or up to `s_max` is `censored`, with the radius searched.

    Readings are those of the ray with the smallest radius (lengths in input units); `amplification` is the largest.
    Arrays, (N,) each: radius, s_last_same, s_first_changed, lattice_radius, cells; `directions` (N, H), `y0` (B, M).

    With `beyond` = n the next n distinct inputs are tried too. Where they have the baseline's identical bits again lie
    *islands*: array `islands` (K, 6) of ray, last_changed, first_same, last_same, changed_again (pairs of adjacent
    float64, the last one infinite if the search ended there) and cells. `bisection_radius` is where halving the
    stretch would have ended. UsageError for a zero or misshapen direction.
    Cost: one whole forward a ray and one for each input beyond, a few tens of first blocks, the noise floor.
    """

    direction: Directions = "v1"

    def cost(self, subject: Subject) -> Cost:
        """Return the expected rows, and the products of named directions as backwards."""
        products = products_of(self.direction, subject)
        return self.expected(subject, count(self.direction)) + Cost(backwards=products)

    def find(self, subject: Subject) -> Finding:
        """Search all rays."""
        directions, labels = resolve(self.direction, subject)
        found = search(subject, directions, labels, self)
        return Finding(
            readings_of(found.rows),
            sentence_of(found.rows),
            rows=found.rows,
            arrays=found.arrays,
            noise=subject.noise_floor().sentence,
        )


@dataclass(frozen=True, eq=False)
class StabilityFan(RaySearch):
    """FirstChange for `angles` equally spaced directions cos(t) a + sin(t) b in a plane, by default that of v1 and v2.

    Rows add `angle_deg`. Readings add the statistics of the radius over the angles, `angle` and `widest_angle` of the
    smallest and the largest, `anisotropy` = largest over smallest, `area` of the polygon through the radii,
    `opposite_ratio` = median of the larger over the smaller of r(t) and r(t + 180 degrees), and the radii nearest to
    a, b, -a and -b (`radius_0` to `radius_270`). Everything else as in FirstChange; a censored radius is a lower bound.
    Source: the study's experiment 12, which bisected 1000 angles.
    """

    angles: int = 72
    plane: tuple[str, str] = ("v1", "v2")

    metrics: ClassVar[tuple[Metric, ...]] = (
        *RaySearch.metrics,
        Metric("angle", "deg", "neither", "angle of the smallest radius in the plane"),
        Metric("widest_angle", "deg", "neither", "angle of the largest radius"),
        Metric("anisotropy", "", "neither", "largest radius over smallest"),
        Metric("mean_radius", "input", "higher", "mean radius over the angles"),
        Metric("max_radius", "input", "higher", "largest radius"),
        Metric("std_radius", "input", "neither", "standard deviation of the radius over the angles"),
        Metric("range_radius", "input", "neither", "largest radius minus smallest"),
        Metric("area", "input^2", "higher", "area of the polygon through the radii"),
        Metric("opposite_ratio", "", "neither", "median of larger over smaller radius of two opposite angles"),
        *(
            Metric(f"radius_{angle}", "input", "higher", f"radius at the angle nearest to {angle}")
            for angle in CARDINAL
        ),
    )

    def __post_init__(self) -> None:
        """Refuse a plane that is none."""
        super().__post_init__()
        check_plane(self.plane, self.angles)

    def cost(self, subject: Subject) -> Cost:
        """Return the expected rows, one ray an angle, and the products of the plane as backwards."""
        return self.expected(subject, self.angles) + Cost(backwards=products_of(self.plane, subject))

    def find(self, subject: Subject) -> Finding:
        """Search all angles."""
        directions, degrees, labels = around(subject, self.plane, self.angles)
        found = search(subject, directions, labels, self)
        rows = tuple({"angle_deg": degree, **row} for degree, row in zip(degrees, found.rows, strict=True))
        return Finding(
            readings_of(rows) | _statistics(rows),
            sentence_of(rows),
            rows=rows,
            arrays={**found.arrays, "angle_deg": np.array(degrees)},
            noise=subject.noise_floor().sentence,
        )


def check_plane(plane: Sequence[str], angles: int) -> None:
    """Refuse what is not two directions and a number of angles, in one sentence."""
    check_count("angles", angles, 1)
    if isinstance(plane, str) or len(plane) != 2:
        raise UsageError(f"plane={plane!r} does not name two directions; give for example ('v1', 'v2')")


def around(subject: Subject, plane: Sequence[str | Recipe], angles: int) -> tuple[Tensor, list[float], list[str]]:
    """Return directions (angles, H) all around in the plane, float64, with their angles in degrees and labels."""
    a, b = resolve(list(plane), subject)[0]
    turns = [2 * math.pi * index / angles for index in range(angles)]
    degrees = [360 * index / angles for index in range(angles)]
    directions = torch.stack([math.cos(turn) * a + math.sin(turn) * b for turn in turns])
    return directions, degrees, [f"{degree:g} deg" for degree in degrees]


def _statistics(rows: Rows) -> dict[str, float | Reading]:
    """Return what only all angles together have; `radius` and `median_radius` are among the other readings."""
    radii = np.array([row["radius"] for row in rows])
    degrees, count = [row["angle_deg"] for row in rows], len(rows)
    least, most = float(radii.min()), float(radii.max())
    opposite = np.sort(np.stack([radii, np.roll(radii, -(count // 2))]), axis=0)[:, : count // 2]
    ratios = opposite[1] / opposite[0] if count % 2 == 0 and least > 0 else np.array([math.nan])
    return {
        "angle": degrees[int(radii.argmin())],
        "widest_angle": degrees[int(radii.argmax())],
        "anisotropy": most / least if least > 0 else math.inf,
        "mean_radius": float(radii.mean()),
        "max_radius": most,
        "std_radius": float(radii.std()),
        "range_radius": most - least,
        "area": float((radii * np.roll(radii, -1)).sum() * math.sin(2 * math.pi / count) / 2),
        "opposite_ratio": float(np.median(ratios)),
        **{f"radius_{angle}": float(radii[round(angle / 360 * count) % count]) for angle in CARDINAL},
    }
