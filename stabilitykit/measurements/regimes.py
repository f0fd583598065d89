"""Stable, chaotic, signal: at which steps does the output stand still, follow rounding, follow the function?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.bands import Band
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.directions import Directions, Recipe, count, resolve
from stabilitykit.measurements.scan import Flags, Plan, Ray, beyond_tangent, scan
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.measurements.thresholds import Floats, interval, redrawn, spread
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.precision import SELF_TEST
from stabilitykit.subjects.subject import Subject

_PER_RAY = (
    Metric(
        "eps_stable", "input", "higher", "largest step up to which the output keeps every bit; smallest of the rays"
    ),
    Metric(
        "eps_signal", "input", "lower", "step from which on the output follows the true function; largest of the rays"
    ),
    Metric("chaotic_decades", "decades", "lower", "log10 of the steps between the two, along the widest ray"),
    Metric(
        "eps_linear_end", "input", "neither", "step where the true function leaves its tangent; smallest of the rays"
    ),
)
_MEDIANS = tuple(
    Metric(f"median_{metric.name}", metric.unit, metric.better, f"median of {metric.name} over the rays")
    for metric in _PER_RAY[:3]
)
_WORST: dict[str, Callable[..., Any]] = {
    "eps_stable": np.min,
    "eps_signal": np.max,
    "chaotic_decades": np.max,
    "eps_linear_end": np.min,
}

_DECADES, _FINE = (-13, 1), (-22, 1)


@dataclass(frozen=True, eq=False)
class Regimes(Measurement):
    """What a step s along d does to the output, from the smallest step to the largest: stable, chaotic or signal.

    At x = x(s), rounded as the subject's dtype rounds it, let Delta = f(x) - f(x0) be the change of the subject's own
    output and Delta64 = f64(x) - f64(x0) that of the same function in true float64 at the very same x. Steps are
    nominal lengths s |d|, in input units. A point is

        stable    if no bit of the output differs from the baseline of its slot,
        signal    if |Delta - Delta64| + eta64 <= tolerance |Delta64|,
        chaotic   otherwise: the output moved, but not as the function does; mostly rounding noise drawn anew.

    eta64 is the noise floor of f64 for a subject that is float64 itself, so that it is not its own judge; for narrower
    ones it is at least 2^29 times finer than their rounding, and left out.

    `eps_stable` is the radius of `FirstChange`: every distinct input up to it was tried, so islands of old bits beyond
    it (counted by `islands`) cannot enlarge it. If none of the first 512 distinct inputs changes the output, or a
    scanned step does so earlier, the scanned steps decide, and `exact` is false, as where d moves exact zeros of x0.
    `eps_signal` is the step from which on the signal rule holds at all larger steps tried, interpolated in log-log
    between the last point that breaks it and the next; never below the first changed step; inf if the largest point
    breaks it. `chaotic_decades` = log10(eps_signal / first changed step): 0 if the first change follows the function.
    `eps_linear_end` is where f64(x0 + s d), on the unrounded ray, leaves its tangent, |Delta64 - s J d| > tolerance
    |s J d|, with J d by a central difference in float64; inf if it does not, nan if J d = 0.

    Steps: `points` in each decade from 10^low to 10^high of `unit` ("rel": |x0|), each anywhere in its equal part of
    the decade (PCG64, `seed`), so that no threshold sits on a grid; and the certified first change. `decades=None` is
    (-13, 1), and (-22, 1) for a float64 subject. `low` and `high` of a reading are a 95 % percentile bootstrap of two
    levels, `replicates` times: the rays drawn at random (recipes and rows of a tensor; named ones stay) among
    themselves, and the points within their decade. The interval of a worst reading says how it hangs on this draw. It
    cannot reach beyond the worst ray seen, and eps_stable of one ray is no estimate.

    Without a float64 twin the signal rule is |Delta| >= noise / tolerance, with noise the larger of the noise floor and
    the largest jump at the rays' first changes; the sentence says so, and eps_linear_end is nan.

    Rows have a `part`: "ray", one for each ray with its thresholds and counts, then "point", one for each step with its
    regime and gains: nominal |Delta| / s |d|, realised |Delta| / |x - x0|, true |Delta64| / |x - x0|; `rounding_share`
    is the left side of the signal rule over |Delta64|. Arrays, (N,) each: the four thresholds; `directions` (N, H).
    UsageError for impossible parameters, InvalidError where an output is not finite: end the `decades` below that step.
    Cost: the search of `FirstChange`, decades x points rows a ray, about 1.5 times as many in float64, and a noise
    floor. Source: the three regimes of the study's paper.
    """

    directions: Directions = ("v1", "v2")
    decades: tuple[int, int] | None = None
    points: int = 4
    unit: str = "rel"
    tolerance: float = 0.1
    replicates: int = 1000
    seed: int = 0
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        *_PER_RAY,
        *_MEDIANS,
        Metric("islands", "points", "neither", "scanned steps beyond the first change with the old bits again"),
        Metric("exact", "share", "higher", "share of rays whose every distinct input up to eps_stable was tried"),
        Metric("directions", "rays", "neither", "number of rays"),
        Metric("points", "points", "neither", "steps tried, the certified first changes included"),
        Metric("input_norm", "input", "neither", "|x0|, to read steps relative to it"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "a narrower dtype, or a cast inside, if the chaotic band grew at its upper end",
        "another kernel, path or embedding, if only the stable radius shrank",
    )

    def __post_init__(self) -> None:
        """Refuse what spans no decades, in one sentence."""
        check_unit(self.unit)
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if self.decades is not None and not _spans(self.decades):
            raise UsageError(f"decades={self.decades!r}: give two ascending whole exponents of 10, such as (-13, 1)")
        for name, least in (("points", 1), ("replicates", 100), ("seed", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)!r} is no whole number of at least {least}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance={self.tolerance!r} is no share between 0 and 1")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound in rows: the search, the scan natively and in float64 with its self-test, and the noise floor."""
        B, search, plan = subject.batch, FirstChange(direction=self.directions).cost(subject), self._plan(subject)
        rays = range(count(self.directions))
        batches = math.ceil(plan.bins.size / B) * len(rays)
        batches += sum(
            math.ceil((plan.bins.size + 3 + len(beyond_tangent(subject, plan.steps(ray)))) / B) for ray in rays
        )
        floors = 1 + (subject.x0.dtype == torch.float64)
        return search + Cost(forwards=B * (batches + 1) + SELF_TEST + floors * (2 * B + 15))

    def find(self, subject: Subject) -> Finding:
        """Follow each ray, find its thresholds, and set the worst and the median of them."""
        directions, labels = resolve(self.directions, subject)
        twin, reason = _twin(subject)
        lattices = [Lattice(subject.x0.cpu(), direction.cpu(), self.rule) for direction in directions]
        plan = self._plan(subject)
        rays = scan(subject, twin, lattices, labels, plan)
        bands = self._bands(subject, twin, rays)
        values = self._readings(bands) | {
            "islands": sum(len(band.islands) for band in bands),
            "exact": sum(ray.exact for ray in rays) / len(rays),
            "directions": len(rays),
            "points": sum(len(ray.steps) for ray in rays),
            "input_norm": float(subject.x0.double().norm()),
        }
        return Finding(
            values,
            _sentence(bands, self.tolerance, reason),
            rows=(
                *(band.ray_row() for band in bands),
                *(row for band in bands for row in band.point_rows(plan.length)),
            ),
            arrays={
                **{name: np.array([band.values[name] for band in bands]) for name in _WORST},
                "directions": directions.double().cpu().numpy(),
            },
            worst=_nearest(bands),
            noise=subject.noise_floor().sentence,
            about={"oracle": "noise" if reason else "true float64"},
        )

    def _plan(self, subject: Subject) -> Plan:
        decades = self.decades or (_FINE if subject.x0.dtype == torch.float64 else _DECADES)
        return Plan(length_of(self.unit, subject), decades, self.points, self.seed, self.tolerance)

    def _random(self, purpose: int, ray: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([purpose, self.seed, ray]))

    def _bands(self, subject: Subject, twin: Subject | None, rays: Sequence[Ray]) -> list[Band]:
        """Return each ray with the error that the signal rule compares, and its redraws."""
        if twin is None:
            noise = _noise(subject, rays)
            errors = [_over(np.full_like(ray.change, noise), ray.change) for ray in rays]
        else:
            floor = twin.noise_floor().l2 if subject.x0.dtype == torch.float64 else 0.0
            errors = [_over(ray.difference + floor, ray.true_change) for ray in rays]
        return [
            Band(ray, error, self.tolerance, redrawn(ray.strata, self.replicates, self._random(2, index)))
            for index, (ray, error) in enumerate(zip(rays, errors, strict=True))
        ]

    def _drawn(self, rays: int) -> Flags:
        """Return which rays are a sample: those that were not named."""
        if isinstance(self.directions, str | Tensor | Recipe):
            return np.full(rays, not isinstance(self.directions, str))
        return np.array([not isinstance(direction, str) for direction in self.directions])

    def _readings(self, bands: Sequence[Band]) -> dict[str, float | Reading]:
        """Return the worst threshold over the rays and the median, each with its interval where it has one."""
        schema, drawn = {metric.name: metric for metric in self.metrics}, self._drawn(len(bands))
        found: dict[str, float | Reading] = {}
        for name, worst in _WORST.items():
            values = {band.ray.label: band.values[name] for band in bands if not math.isnan(band.values[name])}
            value = float(worst(list(values.values()))) if values else math.nan
            place = {"direction": next(label for label in values if values[label] == value)} if values else {}
            found[name] = Reading(schema[name], value, place=place)
            if name in bands[0].replicas:
                replicas = np.stack([band.replicas[name] for band in bands])
                low, high = interval(spread(replicas, drawn, worst, self._random(3)))
                found[name] = Reading(schema[name], value, low, high, place)
                low, high = interval(spread(replicas, drawn, np.median, self._random(3)))
                median = float(np.median(list(values.values())))
                found[f"median_{name}"] = Reading(schema[f"median_{name}"], median, low, high)
        return found


def _spans(decades: object) -> bool:
    if not isinstance(decades, tuple | list) or [type(exponent) for exponent in decades] != [int, int]:
        return False
    return bool(-300 <= decades[0] < decades[1] <= 300)


def _twin(subject: Subject) -> tuple[Subject | None, str]:
    """Return the subject in true float64, or None and why there is none."""
    try:
        twin = subject.in_float64()
    except UnsupportedError as error:
        return None, str(error)
    if twin.baseline.shape != subject.baseline.shape:
        sizes = f"{subject.baseline.shape[1]} numbers and its float64 twin {twin.baseline.shape[1]}"
        raise UsageError(f"{subject.name} gives {sizes}; exact= must be the same function")
    return twin, ""


def _noise(subject: Subject, rays: Sequence[Ray]) -> float:
    """Return the size of the rounding noise as far as the subject shows it without an oracle.

    In a narrow dtype equal evaluations may all agree, so that the noise floor is 0; the first jumps are noise still.
    """
    jumps = [float(size) for ray in rays for size in ray.change[ray.certified]]
    return max([subject.noise_floor().l2, *jumps])


def _over(errors: Floats, changes: Floats) -> Floats:
    """Return errors / changes; nothing over nothing is no error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, errors / changes)


def _sentence(bands: Sequence[Band], tolerance: float, reason: str) -> str:
    n, stable = len(bands), min(band.ray.stable for band in bands)
    signal = [band.values["eps_signal"] for band in bands]
    widest = max(band.values["chaotic_decades"] for band in bands)
    said = [f"Along {'the nearest of ' * (n > 1)}{_rays(n)} the output keeps every bit up to a step of {stable:.3g}"]
    if all(math.isinf(band.ray.first) for band in bands):
        said[0] = f"Along {_rays(n)} no bit of the output changes up to a step of {stable:.3g}."
    elif late := sum(map(math.isinf, signal)):
        top = max(float(band.ray.steps[-1]) for band in bands)
        said[0] += (
            f"; along {late} of {n} it does not follow the true function up to the largest step tried, {top:.3g}."
        )
    elif widest:
        said[0] += (
            f", and from {max(signal):.3g} on it follows the true function within {tolerance:.0%}; the chaotic band "
            f"between, where rounding decides, is up to {widest:.2g} decades wide."
        )
    else:
        said[0] += (
            f", and from the first change on it follows the true function within {tolerance:.0%}: nothing is chaotic."
        )
    bent = sum(band.ray.linear_end < band.values["eps_signal"] for band in bands)
    sampled = sum(not band.ray.exact for band in bands)
    islands = sum(len(band.islands) for band in bands)
    if bent:
        said.append(
            f"Along {bent} of {n} the function bends before the output follows it: no step shows its derivative."
        )
    if sampled:
        said.append(f"{sampled} of {n} stable radii are sampled, not certified.")
    if islands:
        said.append(f"At {islands} larger steps the old bits came back.")
    if reason:
        said.append(f"Without float64 ({reason}), to follow means a change of {1 / tolerance:.3g} times the noise.")
    return " ".join(said)


def _nearest(bands: Sequence[Band]) -> Worst | None:
    """Return the first change nearest to the input: the steps around it in units of |d|."""
    ray = min((band.ray for band in bands), key=lambda ray: ray.stable)
    last, first = (f"{step!r} ({step.hex()})" for step in (ray.s_last_same, ray.s_first_changed))
    return Worst(f"ray {ray.label}", "same bits at s =", last, "others at s =", first) if ray.changed.any() else None


def _rays(n: int) -> str:
    return f"{n} rays" if n > 1 else "the ray"
