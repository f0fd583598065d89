"""How much a block magnifies a small change, with the change as it really was and the truth in float64 beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Finding
from stabilitykit.measurements.directions import Directions, resolve
from stabilitykit.measurements.smooth import ratio
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.numerics import spectrum
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES, perturb
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.strategies.recipe import gaussians
from stabilitykit.subjects.subject import Subject

EPSILONS = tuple(10.0**-k for k in range(1, 13))
STUDY_EPSILONS = tuple(10.0**-k for k in range(6, 20))
"""The study's steps, absolute: of a float32 input of length 64, those below 1e-9 change nothing."""

PLATEAU, DOMINATED = 0.1, 1.0
"""Rounding shares below which a row shows the function's own gain, and from which on rounding makes the change."""

PRODUCTS = 240

METRICS = (
    Metric("magnification_realised", "output/input", "lower", "largest |dy| / |dx|, dx as it is after rounding"),
    Metric("magnification_true", "output/input", "lower", "largest |dy| / |dx| of the block in true float64"),
    Metric("plateau", "output/input", "neither", "median magnification where rounding makes under a tenth of |dy|"),
    Metric("spectral_norm", "output/input", "lower", "largest singular value of the block's derivative, in float64"),
    Metric("plateau_over_norm", "", "lower", "largest magnification on the plateau over the spectral norm"),
    Metric(
        "eps_rounding", "input", "lower", "smallest step from which on rounding changes the output less than the step"
    ),
    Metric("rounding_share", "", "lower", "|dy - dy64| / |dy64|, median at the largest step"),
    Metric("lattice_radius", "input", "neither", "smallest last step before the rounded input moves at all"),
    Metric("unchanged", "share", "neither", "share of steps that leave every bit of the input as it is"),
    Metric("jump_over_noise", "", "neither", "|dy| of the largest magnification over the noise floor"),
)
"""The readings that every block has."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """The steps tried on a block: epsilons in a unit, along so many random directions and v1, or along given ones."""

    epsilons: Sequence[float]
    directions: int | Directions
    unit: str
    rule: str
    seed: int

    def __post_init__(self) -> None:
        """Refuse steps that are none."""
        check_unit(self.unit)
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if not self.epsilons or not all(0 < epsilon < math.inf for epsilon in self.epsilons):
            raise UsageError(f"epsilons={self.epsilons!r}: give positive numbers, at least one")
        if isinstance(self.directions, int) and self.directions < 1:
            raise UsageError(f"directions={self.directions}: give at least one random direction")

    @property
    def count(self) -> int:
        """The number of rows at most; v1 is one direction more than the random ones."""
        given = self.directions
        if isinstance(given, int):
            rays = given + 1
        elif isinstance(given, Tensor):
            rays = math.prod(given.shape[:-1])
        else:
            rays = len(given) if isinstance(given, Sequence) and not isinstance(given, str) else 1
        return rays * len(self.epsilons)


def amplify(block: Subject, steps: Steps, about: Mapping[str, Any]) -> Finding:
    """Return what the block does to each step: realised, true and nominal magnification, and their readings.

    dx = x(s) - x0 and dy = f(x(s)) - y0 with the y0 of the row's own slot; dy64 is that of the float64 twin at the very
    same inputs. Without a twin or derivatives those columns are nan. Cost: one row a step and one of the twin, 240
    products at most, and a noise floor.
    """
    try:
        twin = block.in_float64()
    except UnsupportedError:
        twin = None
    norm, v1 = _largest_gain(twin or block)
    directions, labels = _directions(block, steps, v1)
    rows = _rows(block, twin, steps, directions, labels)
    noise = block.noise_floor()
    values = _readings(rows, norm, noise.l2)
    arrays = {"directions": directions.double().cpu().numpy(), "x0": block.x0.double().cpu().numpy()}
    return Finding(values, _sentence(rows, values), rows=rows, arrays=arrays, noise=noise.sentence, about=about)


def _largest_gain(block: Subject) -> tuple[float, Tensor | None]:
    """Return the spectral norm and v1 of the derivative at x0, from products; nan and None where there are none."""
    try:
        triplets = spectrum.top(block.linear_map(), 1, max_products=PRODUCTS)
    except UnsupportedError:
        return math.nan, None
    return float(triplets.sigma[0]), triplets.v


def _directions(block: Subject, steps: Steps, v1: Tensor | None) -> tuple[Tensor, list[str]]:
    if not isinstance(steps.directions, int):
        return resolve(steps.directions, block)
    drawn = torch.stack([one.expand() for one in gaussians(steps.directions, block.x0.numel(), steps.seed)])
    labels = [f"random {number}" for number in range(steps.directions)]
    return (drawn, labels) if v1 is None else (torch.cat([v1, drawn]), ["v1", *labels])


def _rows(
    block: Subject, twin: Subject | None, steps: Steps, directions: Tensor, labels: Sequence[str]
) -> tuple[Row, ...]:
    """Return one row a direction and epsilon."""
    length = length_of(steps.unit, block)
    sizes = [epsilon * length for epsilon in steps.epsilons]
    x0 = block.x0.cpu()
    X = torch.cat([perturb(x0, d, torch.tensor(sizes, dtype=torch.float64), steps.rule) for d in directions])
    slots = torch.arange(len(X)) % block.batch
    dY = block(X.to(block.x0)).double().cpu() - block.baseline.double().cpu()[slots]
    true = dY * math.nan
    if twin is not None:
        true = twin(X.double().to(twin.x0)).cpu() - twin.baseline.cpu()[slots]
    radii, norms = [_lattice_radius(x0, d, steps.rule) for d in directions], directions.double().norm(dim=1).tolist()
    return tuple(
        {
            "direction": labels[k // len(sizes)],
            "epsilon": steps.epsilons[k % len(sizes)],
            "step": sizes[k % len(sizes)],
            "lattice_radius": radii[k // len(sizes)],
            **_magnifications(X[k].double() - x0.double(), dY[k], true[k]),
            "magnification_nominal": float(dY[k].norm()) / (sizes[k % len(sizes)] * norms[k // len(sizes)]),
            "slot": int(slots[k]),
        }
        for k in range(len(X))
    )


def _magnifications(dx: Tensor, dy: Tensor, true: Tensor) -> Row:
    step, jump, exact = (float(change.norm()) for change in (dx, dy, true))
    return {
        "input_step": step,
        "coords_moved": int((dx != 0).sum()),
        "output_jump": jump,
        "magnification_realised": ratio(jump, step),
        "magnification_true": ratio(exact, step),
        "rounding_share": ratio(float((dy - true).norm()), exact),
    }


def _lattice_radius(x0: Tensor, direction: Tensor, rule: str) -> float:
    nearest = next(Lattice(x0, direction.cpu(), rule).cells(), None)
    return nearest.last_same if nearest else math.nan


def _readings(rows: Sequence[Row], norm: float, noise: float) -> dict[str, float | Reading]:
    schema = {metric.name: metric for metric in METRICS}
    worst, steepest = _largest(rows, "magnification_realised"), _largest(rows, "magnification_true")
    place = {"direction": worst["direction"], "epsilon": repr(worst["epsilon"])}
    plateau = [row["magnification_realised"] for row in rows if row["rounding_share"] < PLATEAU]
    last = max(row["step"] for row in rows)
    return {
        "magnification_realised": Reading(
            schema["magnification_realised"], worst["magnification_realised"], place=place
        ),
        "magnification_true": Reading(
            schema["magnification_true"],
            steepest["magnification_true"],
            place={"direction": steepest["direction"], "epsilon": repr(steepest["epsilon"])},
        ),
        "plateau": float(np.median(plateau)) if plateau else math.nan,
        "spectral_norm": norm,
        "plateau_over_norm": ratio(max(plateau), norm) if plateau else math.nan,
        "eps_rounding": _eps_rounding(rows),
        "rounding_share": _median_share(rows, last),
        "lattice_radius": min(row["lattice_radius"] for row in rows),
        "unchanged": sum(not row["coords_moved"] for row in rows) / len(rows),
        "jump_over_noise": Reading(schema["jump_over_noise"], ratio(worst["output_jump"], noise), place=place),
    }


def _largest(rows: Sequence[Row], column: str) -> Row:
    """Return the row of the largest value; a nan only where there is no number."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row[column]) else row[column])


def _median_share(rows: Sequence[Row], step: float) -> float:
    """Return the median rounding share at a step; what did not change at all counts as nothing but rounding."""
    return float(np.median([math.inf if math.isnan(s) else s for s in _shares(rows, step)]))


def _shares(rows: Sequence[Row], step: float) -> list[float]:
    return [row["rounding_share"] for row in rows if row["step"] == step]


def _eps_rounding(rows: Sequence[Row]) -> float:
    """Return the smallest step at and above which the median share is below 1; inf for none, nan if unknown."""
    if all(math.isnan(row["rounding_share"]) for row in rows):
        return math.nan
    found = math.inf
    for step in sorted({row["step"] for row in rows}, reverse=True):
        if not _median_share(rows, step) < DOMINATED:
            break
        found = step
    return found


def _sentence(rows: Sequence[Row], values: Mapping[str, float | Reading]) -> str:
    found = {name: value.value if isinstance(value, Reading) else value for name, value in values.items()}
    still = sum(not row["coords_moved"] for row in rows)
    unmoved = f" {still} of {len(rows)} steps do not change the input at all." if still else ""
    if math.isnan(found["magnification_realised"]):
        return f"No step changes the input.{unmoved}"
    worst = f"A change of the input leaves the block at most {found['magnification_realised']:.3g} times as long"
    if math.isnan(found["plateau"]):
        return f"{worst}, and rounding is never a small part of that.{unmoved}"
    return (
        f"{worst}; where rounding hardly matters, {found['plateau']:.3g} times in the median, of "
        f"{found['spectral_norm']:.3g} that its derivative allows.{unmoved}"
    )
