"""How much of a small step survives when the input is rounded to its dtype? Arithmetic alone, no model is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, each, number_within, products_for, resolve
from stabilitykit.measurements.gain_cells import gains
from stabilitykit.measurements.gain_readings import nearest
from stabilitykit.measurements.noise_models import floating
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.numerics.bits import name_of, ulp_distance
from stabilitykit.numerics.decimals import apart_at
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.resolution import LOST, step_columns, thresholds
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.subject import Subject

DTYPES = ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
SCALES = ("eps", "eps*sigma")
BINS = ((0, 0), (1, 1), (2, 3), (4, 15), (16, 255), (256, 65535), (65536, None))

_METRICS = (
    Metric(
        "eps_first_move", "input", "lower", "shortest step that moves any coordinate of the input, in its own dtype"
    ),
    Metric("eps_half_moved", "input", "lower", "shortest step that moves half of the coordinates that can move"),
    Metric("eps_aligned", "input", "lower", "step from which on the realised step has cosine 0.99 with its direction"),
    Metric("alignment", "", "higher", "cosine of the realised step and its direction, at the chosen length"),
    Metric("realised_ratio", "", "neither", "length of the realised step over that asked for, there"),
    Metric("coords_moved", "coordinates", "higher", "input coordinates that the step moves, there"),
)
_SCHEMA = {metric.name: metric for metric in _METRICS}


@dataclass(frozen=True, eq=False)
class Representability(Measurement):
    """What rounding to a dtype leaves of the step x0 -> x0 + epsilon * unit * d, for several dtypes and lengths.

    `direction`: as for FirstChange; `scale="eps*sigma"` makes the step |J d| / |d| times as long, as the study did. x0
    is rounded to each dtype first. Rows of part "step": `realised_norm`, `realised_ratio`, `alignment`, `coords_moved`,
    `max_relative_error` and `mean_relative_error` of delta_i against its share of the step, coordinates by how many
    ULP they moved (`ulp_0`, `ulp_1`, `ulp_2_3` ..), and `decimal_q`, coordinates whose value rounded to q decimals
    differs, for q = 1 .. 15 (rounded correctly from the exact value). Rows of part "threshold", lengths in input units:

        eps_first_move: the first step, a float64, at which a coordinate of the rounded input has another value
        eps_half_moved: the first at which half of the coordinates with d_i != 0 have
        eps_aligned: below it the alignment falls under 0.99, for the last time as steps shrink; found on 8 steps an
        octave and then narrowed to adjacent float64 numbers

    The first leaves out exact zeros of x0, which move at once, by subnormal numbers; `eps_first_move_any` counts them,
    and `zeros` says how many there are. Readings are those of the subject's own
    dtype, worst over directions; the last three at the step nearest to `at`. UsageError for parameters that mean
    nothing; a dtype that cannot hold x0 has a row that says so. Cost: no forward but those of singular vectors that are
    named; "eps*sigma" takes a product a direction. O(H) a step and dtype, and some 100 roundings of x a threshold.
    Source: the study's experiment 3.
    """

    epsilons: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
    unit: str = "rel"
    dtypes: Sequence[str] = DTYPES
    direction: Directions = "v1"
    scale: str = "eps"
    at: float = 1e-5

    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    causes: ClassVar[tuple[str, ...]] = (
        "a step shorter than the dtype's spacing at the input: take a longer one or a wider dtype",
        "an input with larger coordinates, where floats are farther apart",
    )

    def __post_init__(self) -> None:
        """Refuse what means nothing, in one sentence."""
        check_unit(self.unit)
        if isinstance(self.epsilons, str) or not self.epsilons or not all(_positive(e) for e in self.epsilons):
            raise UsageError(f"epsilons={self.epsilons!r}: give at least one length, all positive and finite")
        if isinstance(self.dtypes, str) or not self.dtypes:
            raise UsageError(f"dtypes={self.dtypes!r}: give a list of names such as ['float32', 'bfloat16']")
        for name in self.dtypes:
            floating(name)
        if self.scale not in SCALES:
            raise UsageError(f"scale {self.scale!r} is not one of {', '.join(SCALES)}")
        if not _positive(self.at):
            raise UsageError(f"at={self.at!r} is not a positive number")

    def cost(self, subject: Subject) -> Cost:
        """The baseline and products of singular vectors that are named; for "eps*sigma" a product a direction."""
        given = each(self.direction)
        numbers = [number_within(one, subject) for one in given]
        products = products_for(numbers, subject) + (len(given) if self.scale == "eps*sigma" else 0)
        return Cost(forwards=subject.batch if any(numbers) else 0, backwards=products)

    def find(self, subject: Subject) -> Finding:
        """Round every step in every dtype, and find the three thresholds of each."""
        directions, labels = resolve(self.direction, subject)
        own = name_of(subject.x0.dtype)
        factors = gains(subject, directions) if self.scale == "eps*sigma" else [1.0] * len(labels)
        if any(math.isnan(factor) for factor in factors):
            raise UnsupportedError(f"{subject.name} has no forward derivative for scale='eps*sigma'; use scale='eps'")
        lengths = [epsilon * length_of(self.unit, subject) for epsilon in self.epsilons]
        rows = [
            row
            for dtype in dict.fromkeys((own, *self.dtypes))
            for label, d, factor in zip(labels, directions, factors, strict=True)
            for row in self._rows(subject.x0.cpu().to(floating(dtype)), d.cpu(), [factor * s for s in lengths], label)
        ]
        return Finding(
            _readings([row for row in rows if row["dtype"] == own], self.at),
            _sentence(rows, own, self.epsilons),
            rows=tuple(rows),
            arrays={"directions": directions.double().cpu().numpy(), "x0": subject.x0.double().cpu().numpy()},
        )

    def _rows(self, x0: Tensor, d: Tensor, steps: Sequence[float], label: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of one dtype and direction."""
        place = {"dtype": name_of(x0.dtype), "direction": label}
        try:
            lattice = Lattice(x0, d)
        except InvalidError as error:
            yield {"part": "threshold", **place, "verdict": "unsupported", "reason": str(error)}
            return
        for epsilon, s in zip(self.epsilons, steps, strict=True):
            yield {"part": "step", **place, "epsilon": epsilon, **step_row(lattice, s)}
        yield {"part": "threshold", **place, **thresholds(lattice), "verdict": "measured"}


def step_row(lattice: Lattice, s: float) -> dict[str, Any]:
    """Return what rounding makes of one step; a step to where the dtype has no numbers is unsupported."""
    x0, x = lattice.x0, lattice.at(s)
    wanted = s * lattice.direction.double()
    nominal = float(wanted.norm())
    if not bool(torch.isfinite(x.double()).all()):
        return {"eps_abs": nominal, "verdict": "unsupported", "reason": f"the step leaves {name_of(x0.dtype)}"}
    delta = x.double() - x0.double()
    asked = wanted != 0
    errors = ((delta - wanted).abs() / wanted.abs())[asked]
    return {
        "eps_abs": nominal,
        **step_columns(delta, nominal, lattice.direction),
        "max_relative_error": float(errors.max()) if len(errors) else math.nan,
        "mean_relative_error": float(errors.mean()) if len(errors) else math.nan,
        **_histogram(ulp_distance(x0, x)),
        **apart_at(x0, x),
        "verdict": "measured",
    }


def _histogram(moves: Tensor) -> dict[str, int]:
    """Return how many coordinates moved by how many ULP."""
    return {
        _bin_name(low, high): int(((moves >= low) & (moves <= (math.inf if high is None else high))).sum())
        for low, high in BINS
    }


def _bin_name(low: int, high: int | None) -> str:
    return f"ulp_{low}" if low == high else f"ulp_{low}_up" if high is None else f"ulp_{low}_{high}"


def _readings(rows: Sequence[Mapping[str, Any]], at: float) -> dict[str, float | Reading]:
    """Return the worst of each column over the directions."""
    found: dict[str, float | Reading] = {}
    measured = [row for row in rows if row["verdict"] == "measured"]
    limits = [row for row in measured if row["part"] == "threshold"]
    steps = [row for row in measured if row["part"] == "step"]
    taken = nearest(steps, at) if steps else []
    for name in _SCHEMA:
        kept = limits if name.startswith("eps_") else taken
        placed = [
            Reading(_SCHEMA[name], row[name], place={"direction": row["direction"]} | _epsilon(row)) for row in kept
        ]
        if placed:
            found[name] = max(placed, key=lambda reading: reading.badness)
    return found


def _epsilon(row: Mapping[str, Any]) -> dict[str, str]:
    return {"epsilon": f"{row['epsilon']:g}"} if "epsilon" in row else {}


def _sentence(rows: Sequence[Mapping[str, Any]], own: str, epsilons: Sequence[float]) -> str:
    """Say from which step on the own dtype keeps a direction, and where each dtype loses all."""
    kept = [row for row in rows if row["part"] == "threshold" and row["verdict"] == "measured"]
    mine = max((row["eps_aligned"] for row in kept if row["dtype"] == own), default=math.nan)
    said = (
        f"In {own} a step keeps its direction (cosine {LOST}) down to a length of {mine:.3g}"
        if not math.isnan(mine)
        else f"In {own} no step keeps its direction (cosine {LOST})"
    )
    others = dict.fromkeys(row["dtype"] for row in kept if row["dtype"] != own)
    lengths = {one: max(row["eps_aligned"] for row in kept if row["dtype"] == one) for one in others}
    listed = ", ".join(f"{length:.3g} in {dtype}" for dtype, length in lengths.items())
    return f"{said}; the length is {listed}." if listed else f"{said}."


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
