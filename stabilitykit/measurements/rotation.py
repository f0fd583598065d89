"""Is it the coordinates, or the direction? The same tiny step along a direction whose entries are moved round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, products_of, resolve
from stabilitykit.measurements.smooth import ratio, smooth_changes
from stabilitykit.measurements.staircase import STUDY_START, STUDY_STEP
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.measurements.turns import Change, Mask, Pair, Turn, changes, histogram, paired, share, turns
from stabilitykit.numerics.concentration import concentration
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.subject import Subject

SITES = ("input", "block0", "output")

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Rotation(Measurement):
    """Compare x(e) = x0 + e d_n with x(e + g): d_n is the direction d turned by n places, for each of several gaps g.

    Circular shifts keep the length of d and move its entries to other coordinates, so the counts tell whether the few
    changed coordinates belong to the input (its floats are finer there) or to the direction (it is larger there).
    `shifts`: so many, spread evenly over the H places, or given ones; with a `step` 0, step, 2 step, ... `magnitude` e
    and `gaps` g are lengths in `unit`: "ulp" (median spacing of x0), "rel" (|x0|) or "abs". For each turn and gap:
    coordinates changed in the rounded input, in the state after block 0 (last token) and in the output, both sides of
    a pair in one slot; a pair of equal inputs is not run.
    `controls` of each kind beside them: entries permuted, signs flipped, random unit vectors.

    `agreement`: share of pairs whose changed input coordinates are those that rounding predicts without the model,
    which must be 1. `concentration_*`, over the shifts at the largest gap: 1 - entropy of the changed places over its
    expectation if they were drawn uniformly: 0 is chance, 1 a single place; `_direction` turns the places back first.
    nan: no blocks, no derivatives, nothing changed. Arrays: `histogram_*` (places,), `directions` (N, H). UsageError
    for impossible lengths. Cost: 2 rows a pair and as many first blocks, N products and a noise floor. Source: the
    study's experiment 11.
    """

    direction: Directions = "v1"
    shifts: int | tuple[int, ...] = 16
    step: int | None = None
    magnitude: float = 2000.0
    gaps: tuple[float, ...] = (0.01, 0.1, 0.2, 0.5, 1.0)
    unit: str = "ulp"
    controls: int = 2
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("shifts", "shifts", "neither", "circular shifts of the direction, none included"),
        *(
            Metric(f"changed_{site}_{kind}", "coordinates", "neither", f"{text} of changed coordinates of {where}")
            for site, where in zip(SITES, ("the rounded input", "block 0's output", "the output"), strict=True)
            for kind, text in (("max", "largest number"), ("median", "median number"))
        ),
        Metric("changed_input_controls", "coordinates", "neither", "median over the controls, for the input"),
        Metric("changed_output_controls", "coordinates", "neither", "median over the controls, for the output"),
        Metric("absorbed", "share", "neither", "share of changed inputs that leave every output bit as it is"),
        Metric("agreement", "share", "higher", "pairs whose changed input coordinates are those predicted"),
        Metric("concentration_input", "", "neither", "changes of the input gather at its coordinates: 0 chance, 1 one"),
        Metric("concentration_direction", "", "neither", "the same, at entries of the direction that turn with it"),
        Metric("concentration_block0", "", "neither", "the same, at coordinates of block 0's output"),
        Metric("concentration_output", "", "neither", "the same, at coordinates of the output"),
        Metric("lattice_radius", "input", "neither", "smallest last step before the rounded input moves at all"),
        Metric("gain", "output/input", "neither", "|J d| / |d| of the direction as it is"),
        Metric("gain_rotated", "output/input", "neither", "median of |J d_n| / |d| over the other shifts"),
        Metric("output_jump", "output", "lower", "largest L2 distance between the outputs of a pair"),
        Metric("jump_over_noise", "", "lower", "output jump over the noise floor"),
    )
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"agreement": ">= 1"}
    causes: ClassVar[tuple[str, ...]] = (
        "a conversion that does not round to nearest even, if prediction and input disagree",
        "exact zeros or tiny coordinates of the embedding, whose floats are finer, if changes gather at a few",
    )

    @classmethod
    def study(cls, direction: Directions = "v1") -> Rotation:
        """Return the study's own question: absolute steps, 1.000363e-6 and 1, 10, 20, 50 and 100 times 6e-14 more."""
        gaps = tuple(jump * STUDY_STEP for jump in (1, 10, 20, 50, 100))
        return cls(direction, step=64, magnitude=STUDY_START, gaps=gaps, unit="abs")

    def __post_init__(self) -> None:
        """Refuse turns and steps that are none."""
        check_unit(self.unit)
        counted = isinstance(self.shifts, int) and self.shifts > 0
        if not counted and not (isinstance(self.shifts, tuple) and _whole(self.shifts)):
            raise UsageError(f"shifts={self.shifts!r}: give how many, or whole numbers of places, at least one")
        if self.step is not None and (not isinstance(self.step, int) or self.step < 1):
            raise UsageError(f"step={self.step!r} is no number of places; give at least 1")
        if not 0 <= self.magnitude < math.inf:
            raise UsageError(f"magnitude={self.magnitude!r} is no length; give a finite number, at least 0")
        if not self.gaps or not all(0 < gap < math.inf for gap in self.gaps):
            raise UsageError(f"gaps={self.gaps!r}: give positive lengths, at least one")
        if not isinstance(self.controls, int) or self.controls < 0:
            raise UsageError(f"controls={self.controls!r} is no number of directions; give at least 0")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: every pair differs in its inputs; products counted as backwards; the noise floor included."""
        count = len(self._shifts(subject)) + 3 * self.controls
        rows = 2 * subject.batch * math.ceil(count * len(self.gaps) / subject.batch)
        screened = rows if subject.depth else 0
        return Cost(
            forwards=rows + 3 * subject.batch + 15,
            backwards=count + products_of(self.direction, subject),
            screened=screened,
        )

    def find(self, subject: Subject) -> Finding:
        """Turn, step, count."""
        directions, labels = resolve(self.direction, subject)
        if len(directions) != 1:
            raise UsageError(f"a rotation turns one direction, not {len(directions)}; measure them one by one")
        turned = turns(directions[0], self._shifts(subject), self.controls, self.seed)
        length = length_of(self.unit, subject)
        pairs = [
            paired(subject.x0, turn, self.magnitude * length, gap * length) for turn in turned for gap in self.gaps
        ]
        found = changes(subject, pairs)
        rows = _rows(subject, turned, pairs, found)
        histograms = _histograms(pairs, found)
        noise = subject.noise_floor()
        values = _readings(rows, histograms, noise.l2)
        return Finding(
            values,
            _sentence(rows, values),
            verdict="pass" if all(row["agrees"] for row in rows) else "differs",
            rows=rows,
            arrays={
                **{f"histogram_{name}": counts for name, (counts, _) in histograms.items()},
                "directions": torch.stack([turn.direction for turn in turned]).numpy(),
            },
            noise=noise.sentence,
            about={"direction": labels[0]},
        )

    def _shifts(self, subject: Subject) -> Sequence[int]:
        H = subject.x0.numel()
        if self.step is not None:
            return range(0, H, self.step)
        if not isinstance(self.shifts, int):
            return self.shifts
        count = min(self.shifts, H)
        return [number * H // count for number in range(count)]


def _whole(numbers: Sequence[Any]) -> bool:
    return len(numbers) > 0 and all(isinstance(number, int) for number in numbers)


def _rows(
    subject: Subject, turned: Sequence[Turn], pairs: Sequence[Pair], found: Sequence[Change | None]
) -> tuple[Row, ...]:
    """Return one row a turn and gap."""
    directions = torch.stack([turn.direction for turn in turned])
    gains = smooth_changes(subject, directions / directions.norm(dim=1, keepdim=True))
    gain = {id(turn): value for turn, value in zip(turned, gains, strict=True)}
    radius = {id(turn): _lattice_radius(subject, turn.direction) for turn in turned}
    return tuple(
        {
            "kind": pair.turn.kind,
            "shift": pair.turn.shift,
            "gap": pair.gap,
            "changed_input": int(pair.input_changed.sum()),
            "predicted_input": int(pair.predicted.sum()),
            "agrees": bool((pair.input_changed == pair.predicted).all()),
            "changed_block0": _count(change.block0) if change else (0 if subject.depth else math.nan),
            "changed_output": _count(change.output) if change else 0,
            "input_step": float((pair.right.double() - pair.left.double()).norm()),
            "output_jump": change.jump if change else 0.0,
            "lattice_radius": radius[id(pair.turn)],
            "gain": gain[id(pair.turn)],
            "slot": change.slot if change else None,
        }
        for pair, change in zip(pairs, found, strict=True)
    )


def _lattice_radius(subject: Subject, direction: Tensor) -> float:
    """Return the last step before a listable coordinate of the rounded input moves; nan if none ever does."""
    nearest = next(Lattice(subject.x0.cpu(), direction).cells(), None)
    return nearest.last_same if nearest else math.nan


def _count(mask: Mask | None) -> float:
    return math.nan if mask is None else int(mask.sum())


def _histograms(
    pairs: Sequence[Pair], found: Sequence[Change | None]
) -> dict[str, tuple[NDArray[np.int64], list[int]]]:
    """Return, for each frame, how many shifts changed each place, and how many places each shift changed.

    At the largest gap alone: what a smaller gap changed is changed by a larger one too, so they are not independent.
    """
    widest = max(pair.gap for pair in pairs)
    turned = [
        (pair, change)
        for pair, change in zip(pairs, found, strict=True)
        if pair.turn.kind == "shift" and pair.gap == widest and change is not None
    ]
    inputs, shifts = [pair.input_changed for pair, _ in turned], [pair.turn.shift for pair, _ in turned]
    return {
        "input": histogram(inputs),
        "direction": histogram(inputs, shifts),
        "block0": histogram([change.block0 for _, change in turned if change.block0 is not None]),
        "output": histogram([change.output for _, change in turned]),
    }


def _readings(
    rows: Sequence[Row], histograms: Mapping[str, tuple[NDArray[np.int64], list[int]]], noise: float
) -> dict[str, float | Reading]:
    turned = [row for row in rows if row["kind"] == "shift"]
    others = [row for row in rows if row["kind"] != "shift"]
    moved = [row for row in turned if row["changed_input"]]
    largest = _largest(turned, "output_jump")
    values: dict[str, float | Reading] = {"shifts": len({row["shift"] for row in turned})}
    for site in SITES:
        values[f"changed_{site}_max"] = _largest(turned, f"changed_{site}", f"changed_{site}_max")
        values[f"changed_{site}_median"] = _median(turned, f"changed_{site}")
    return values | {
        "changed_input_controls": _median(others, "changed_input"),
        "changed_output_controls": _median(others, "changed_output"),
        "absorbed": share([not row["changed_output"] for row in moved]),
        "agreement": share([row["agrees"] for row in rows]),
        **{f"concentration_{name}": concentration(*found) for name, found in histograms.items()},
        "lattice_radius": min(row["lattice_radius"] for row in turned),
        "gain": _median([row for row in turned if not row["shift"]], "gain"),
        "gain_rotated": _median([row for row in turned if row["shift"]], "gain"),
        "output_jump": largest,
        "jump_over_noise": replace(largest, metric=_METRICS["jump_over_noise"], value=ratio(largest.value, noise)),
    }


def _largest(rows: Sequence[Row], column: str, name: str = "") -> Reading:
    """Return the largest value of a column as a reading with its shift and gap; nan only where there is no number."""
    row = max(rows, key=lambda row: -math.inf if math.isnan(row[column]) else row[column])
    return Reading(
        _METRICS[name or column], row[column], place={"shift": str(row["shift"]), "gap": f"{row['gap']:.6g}"}
    )


def _median(rows: Sequence[Row], column: str) -> float:
    return float(np.median([row[column] for row in rows])) if rows else math.nan


def _sentence(rows: Sequence[Row], values: Mapping[str, float | Reading]) -> str:
    found = {name: value.value if isinstance(value, Reading) else value for name, value in values.items()}
    begin = f"Over {found['shifts']:.0f} shifts of the direction, a gap changes {found['changed_input_median']:g} "
    begin += f"coordinates of the input and {found['changed_output_median']:g} of the output in the median"
    here, there = found["concentration_input"], found["concentration_direction"]
    if not math.isfinite(here):
        return f"{begin}; too few changed to say where they gather."
    return (
        f"{begin}. Their concentration is {here:.2g} at coordinates of the input and {there:.2g} at entries of the "
        "direction, where 0 is chance and 1 a single place."
    )


_METRICS = {metric.name: metric for metric in Rotation.metrics}
