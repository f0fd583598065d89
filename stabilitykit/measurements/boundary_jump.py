"""How far does the output jump where it first changes, and what is that jump made of?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.base import Cost, Finding
from stabilitykit.measurements.boundary import around, check_plane
from stabilitykit.measurements.directions import Directions, count, each, products_of, resolve, singular
from stabilitykit.measurements.jumps import jump_rows
from stabilitykit.measurements.rays import RaySearch, Row, search
from stabilitykit.measurements.smooth import ratio
from stabilitykit.numerics.correlation import rank_interval, spearman
from stabilitykit.results.metric import Metric, Reading, readings
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class BoundaryJump(RaySearch):
    """The step of the input and the jump of the output at the first change along each of many directions.

    `directions`: as in FirstChange; None for `angles` directions all around in `plane`. Across the boundary the input
    moves by dx = x(s_first_changed) - x(s_last_same), as a rule one float of one coordinate, and the output by dy;
    `amplification` = |dy| / |dx|, and `study_amplification` = |dy| / |x(s_first_changed) - x0|, the study's.

    Beside them stands what the jump is to be read against: `jump_over_noise` = |dy| over the noise floor,
    `jump_over_roundoff` = |dy| / (u |y0|), `smooth_jump` = |J dx|, the change that calculus predicts, sigma_1, the
    spreads (largest over smallest) of steps and of jumps, `jump_cv` = std / mean of the jumps, and the rank correlation
    of jump and step. `logit_change` is the largest change of a logit (before a cap or scale of the model) and
    `argmax_changes` counts boundaries where another logit becomes the largest; nan unless the head reads the output.

    Rays without a change have nan here. UsageError as in FirstChange. Cost: that of FirstChange, a forward product for
    each distinct dx, and the noise floor; no other forward. Source: the study's experiment 15, `BoundaryJump.study()`.
    """

    directions: Directions | None = None
    angles: int = 72
    plane: tuple[str, str] = ("v1", "v2")

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("directions", "rays", "neither", "number of rays"),
        Metric("boundaries", "rays", "neither", "rays with a first change in the range searched"),
        Metric("input_step", "input", "neither", "median L2 size of the input change across the boundary"),
        Metric("output_jump", "output", "lower", "largest L2 size of the output change across the boundary"),
        Metric("median_jump", "output", "lower", "median L2 size of the output change"),
        Metric("step_spread", "", "neither", "largest input step over smallest"),
        Metric("jump_spread", "", "neither", "largest output jump over smallest"),
        Metric("jump_cv", "", "neither", "standard deviation of the jumps over their mean"),
        Metric("noise_floor", "output", "lower", "largest distance between equal evaluations of x0"),
        Metric("jump_over_noise", "", "lower", "largest jump over the noise floor"),
        Metric("jump_over_roundoff", "", "lower", "median jump over the unit roundoff of the output, u |y0|"),
        Metric("jump_of_step", "", "neither", "rank correlation of output jump and input step"),
        Metric("amplification", "output/input", "lower", "largest output jump over input step"),
        Metric("median_amplification", "output/input", "lower", "median of output jump over input step"),
        Metric("study_amplification", "output/input", "lower", "median of output jump over distance from x0"),
        Metric("sigma_1", "output/input", "lower", "largest singular value: the most that calculus allows"),
        Metric("smooth_jump", "output", "neither", "median of |J dx|, the jump that calculus predicts"),
        Metric("jump_over_smooth", "", "lower", "median of jump over |J dx|"),
        Metric("logit_change", "logit", "lower", "largest change of a logit at a first change"),
        Metric("argmax_changes", "rays", "lower", "first changes where another token has the largest logit"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "a kernel, dtype or batch shape with more rounding noise, if the jump grew with the noise floor",
        "a discontinuity of the model itself, such as a router's choice, if the jump is many noise floors high",
    )

    @classmethod
    def study(cls) -> BoundaryJump:
        """Return the study's own question: 1000 angles in the plane of v1 and v2."""
        return cls(angles=1000)

    def __post_init__(self) -> None:
        """Refuse a plane that is none."""
        super().__post_init__()
        check_plane(self.plane, self.angles)

    def cost(self, subject: Subject) -> Cost:
        """Return the expected rows; the products for |J dx| and for sigma_1 are counted as backwards."""
        rays = self.angles if self.directions is None else count(self.directions)
        named = ["v1", *(self.plane if self.directions is None else each(self.directions))]
        return self.expected(subject, rays) + Cost(backwards=rays + products_of(named, subject))

    def find(self, subject: Subject) -> Finding:
        """Search the rays and look at both sides of each boundary."""
        if self.directions is None:
            directions, degrees, labels = around(subject, self.plane, self.angles)
        else:
            (directions, labels), degrees = resolve(self.directions, subject), []
        found = search(subject, directions, labels, self)
        noise = subject.noise_floor()
        rows = jump_rows(subject, found, noise.l2)
        if degrees:
            rows = [{"angle_deg": degree, **row} for degree, row in zip(degrees, rows, strict=True)]
        values = _readings(rows, noise.l2, _sigma_1(subject))
        values["jump_over_roundoff"] = _in_roundoffs(subject, rows)
        return Finding(
            values,
            _sentence(readings(self.metrics, values)),
            rows=tuple(rows),
            arrays={**found.arrays, **{name: np.array([row[name] for row in rows]) for name in _COLUMNS}},
            noise=noise.sentence,
        )


_COLUMNS = ("input_step", "output_jump", "smooth_jump")


def _in_roundoffs(subject: Subject, rows: Sequence[Row]) -> float:
    """Return the median jump over u |y0|, the length of an error of half a unit in every last place."""
    y0 = subject.baseline[0]
    return ratio(_median(rows, "output_jump"), torch.finfo(y0.dtype).eps / 2 * float(y0.double().norm()))


def _sigma_1(subject: Subject) -> float:
    try:
        return float(singular(subject, 1).sigma[0])
    except UnsupportedError:
        return math.nan


def _readings(rows: Sequence[Row], noise: float, sigma_1: float) -> dict[str, float | Reading]:
    schema = {metric.name: metric for metric in BoundaryJump.metrics}
    crossed = [row for row in rows if not row["censored"]]
    jumps, steps = (np.array([row[name] for row in crossed]) for name in ("output_jump", "input_step"))
    tied = spearman(jumps, steps) if crossed else math.nan
    events = len({row["output_digest"] for row in crossed})  # neighbouring rays may cross the same float
    values: dict[str, float | Reading] = {
        "directions": len(rows),
        "boundaries": len(crossed),
        "input_step": _median(crossed, "input_step"),
        "median_jump": _median(crossed, "output_jump"),
        "step_spread": _spread(steps),
        "jump_spread": _spread(jumps),
        "jump_cv": float(jumps.std() / jumps.mean()) if crossed and jumps.mean() else math.nan,
        "noise_floor": noise,
        "jump_of_step": Reading(schema["jump_of_step"], tied, *rank_interval(tied, events)),
        "median_amplification": _median(crossed, "amplification"),
        "study_amplification": _median(crossed, "study_amplification"),
        "sigma_1": sigma_1,
        "smooth_jump": _median(crossed, "smooth_jump"),
        "jump_over_smooth": _median(crossed, "jump_over_smooth"),
        "argmax_changes": _count(crossed),
    }
    for name in ("output_jump", "jump_over_noise", "amplification", "logit_change"):
        worst = max(crossed, key=lambda row: -math.inf if math.isnan(row[name]) else row[name], default=None)
        value = worst[name] if worst else math.nan
        place = {"direction": worst["direction"], "slot": str(worst["slot"])} if worst and value == value else {}
        values[name] = Reading(schema[name], value, place=place)
    return values


def _spread(sizes: NDArray[np.float64]) -> float:
    return float(sizes.max() / sizes.min()) if sizes.size and sizes.min() > 0 else math.nan


def _median(rows: Sequence[Row], name: str) -> float:
    known = [row[name] for row in rows if not math.isnan(row[name])]
    return float(np.median(known)) if known else math.nan


def _count(rows: Sequence[Row]) -> float:
    known = [row["argmax_changed"] for row in rows if row["argmax_changed"] is not None]
    return sum(known) if known else math.nan


def _sentence(found: dict[str, Reading]) -> str:
    rays, count = int(found["directions"].value), int(found["boundaries"].value)
    if not count:
        return f"None of {rays} rays has a first change in the range searched, so there is no jump to look at."
    crossed = "the first change" if count == rays == 1 else f"{count} first changes of {rays} rays"
    step, jump, amplification, study, sigma = (
        found[name].value
        for name in ("input_step", "median_jump", "median_amplification", "study_amplification", "sigma_1")
    )
    allowed = "" if math.isnan(sigma) else f", where calculus allows {sigma:.3g}"
    return (
        f"Across {crossed} the input moves by {step:.3g} and the output by {jump:.3g} in the median: "
        f"{amplification:.3g} times as far ({study:.3g} times counted from x0){allowed}. "
        f"{_light(found)}{_tokens(found)}"
    )


def _light(found: dict[str, Reading]) -> str:
    """Say what the jumps are the size of, and how little they have to do with the steps."""
    noise = found["noise_floor"].value
    if not noise:
        times = found["jump_over_roundoff"].value
        return (
            f"Equal evaluations of x0 never differ here, so there is no noise floor; the jump is {times:.2g} times the "
            "unit roundoff of the output."
        )
    times = found["median_jump"].value / noise
    if not 0.1 <= times <= 10:
        return f"The jump is {times:.3g} times the noise floor."
    steps, jumps = found["step_spread"].value, found["jump_spread"].value
    apart = f"; the steps differ by a factor of {steps:.3g}, the jumps by {jumps:.3g}" if steps > 1 else ""
    return (
        f"The jump is {times:.2g} times the noise floor{apart}. A last bit of the input re-rolls the rounding of the "
        "whole model, so the factor says how small the step was, not how steep the model is."
    )


def _tokens(found: dict[str, Reading]) -> str:
    changes = found["argmax_changes"].value
    if math.isnan(changes):
        return ""
    moved = f"{changes:.0f} times another token" if changes else "never another token"
    return f" A logit moves by at most {found['logit_change'].value:.3g}, and {moved} comes first."
