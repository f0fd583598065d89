"""How much does the output really move for a step of the input, and for which steps is it the function's own gain?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, each, number_within, products_of, resolve
from stabilitykit.measurements.gain_cells import (
    Effects,
    Ray,
    effects,
    gains,
    rays,
    rounding_noise,
    steps,
    ulp_moves,
)
from stabilitykit.measurements.gain_readings import METRICS, over_prompts, readings, sentence, windows
from stabilitykit.measurements.responses import distinct
from stabilitykit.measurements.smoothing import Noise, counts, smoothed
from stabilitykit.measurements.steps import check_unit
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.results.metric import Metric
from stabilitykit.results.result import Result, Row
from stabilitykit.subjects.noise import BATCHES
from stabilitykit.subjects.precision import SELF_TEST
from stabilitykit.subjects.subject import Subject

DECADES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
SIGNS = ("both", "+", "-")
MOVES = 8
"""One-ULP moves of the input whose effects, beyond the linear one, are the rounding noise."""


@dataclass(frozen=True, eq=False)
class DirectionalGain(Measurement):
    """|f(x') - f(x0)| over the length of the step, for directions, both signs and a grid of lengths; no averages.

    `directions`: as for FirstChange, and "v_middle", "v_last"; a number beyond the last singular vector means the last.
    `epsilons` in `unit`: "rel" |x0|, "abs" input units, "ulp" median spacing of x0; a step is epsilon * unit * d, d as
    given. Rows (part "cell") hold the nominal length in all three, what rounding left of the step (`realised_norm`,
    `alignment`, `coords_moved`), `gain_nominal` and `gain_realised` = |dy| / |delta|, `sigma` = |J d| / |d|,
    `directional_sigma` = |J delta| / |delta|, `gain_true` at the same delta in true float64, the top tokens, and

        regime: absorbed if delta = 0; linear if |dy - J delta| <= tolerance |J delta|; else rounding if true float64 is
        linear there, and nonlinear if not.

    `noise` adds rows (part "smoothed") of the gain averaged over paired uniform noise, "isotropic" or "along" d, of
    half-width noise_scale * noise_unit: |mean D| / eps (`gain_raw`) and sqrt(max(0, mean of D_i . D_j, i != j)) / eps
    (`gain_smoothed`, its square unbiased) with a 95 % jackknife interval, for nested numbers of draws.

    Readings are taken at the step nearest to `at`, the worst over directions and signs. Arrays: `directions`,
    `epsilons`, `x0`; with `export` also `inputs`, `states`, `logits` of the distinct inputs, x0 first, which the column
    `input` counts, and `y0` of every slot. Over several prompts, rows of part "prompts" have the distribution of each
    cell. UsageError for parameters that mean nothing, InvalidError where x0, run again, gives other bits.
    Cost: a forward, a product and a float64 forward a distinct input; at most 2 n forwards a step for the noise; a
    direction past a quarter of the vectors takes the dense J. Source: the study's experiment 2.
    """

    directions: Directions = ("v1", "v2")
    epsilons: Sequence[float] = DECADES
    unit: str = "rel"
    signs: str = "both"
    at: float = 1e-3
    noise: str | None = None
    noise_scale: float = 0.01
    noise_unit: str = "eps"
    samples: int | Sequence[int] = 64
    seed: int = 0
    oracle: bool = True
    tolerance: float = 0.1
    export: bool = False
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    causes: ClassVar[tuple[str, ...]] = (
        "a step near the dtype's own resolution, where the gain is rounding noise over the step: compare the regime",
        "weights or a prompt at which the model is steeper: compare sigma",
        "a kernel that rounds more: compare rounding_noise",
    )

    def __post_init__(self) -> None:
        """Refuse what means nothing, in one sentence."""
        check_unit(self.unit)
        if isinstance(self.epsilons, str) or not self.epsilons or not all(_positive(e) for e in self.epsilons):
            raise UsageError(f"epsilons={self.epsilons!r}: give at least one length, all positive and finite")
        if self.signs not in SIGNS:
            raise UsageError(f"signs {self.signs!r} is not one of {', '.join(SIGNS)}")
        for name in ("at", "tolerance"):
            if not _positive(getattr(self, name)):
                raise UsageError(f"{name}={getattr(self, name)!r} is not a positive number")
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if self.noise is not None:
            Noise(self.noise, self.noise_scale, self.noise_unit, self.seed)
        counts(self.samples)

    def cost(self, subject: Subject) -> Cost:
        """Expected rows: cells, oracle with its self-test, noise floor, both arms of the noise; and the vectors."""
        wanted = each(self.directions)
        sides = len(wanted) * (2 if self.signs == "both" else 1)
        cells = _full(sides * len(self.epsilons) + MOVES + 1, subject.batch) + subject.batch
        twin = cells + SELF_TEST if self.oracle else 0
        floor = 3 * subject.batch + sum(BATCHES) + 1
        noisy = 0 if self.noise is None else _full(2 * max(counts(self.samples)) * len(self.epsilons), subject.batch)
        vectors = products_of(self.directions, subject)
        return Cost(forwards=cells + twin + floor + sides * noisy, backwards=vectors)

    def find(self, subject: Subject) -> Finding:
        """Run every distinct input once, natively and in true float64, and compare both with J."""
        directions, labels = resolve(_named(self.directions, subject), subject)
        twin, refusal = self._twin(subject)
        lines = rays(subject, directions, labels, self.signs, self.rule)
        grid = [steps(subject, ray, self.epsilons, self.unit) for ray in lines]
        moves = ulp_moves(subject.x0, MOVES, self.seed)
        inputs, which = distinct(torch.cat([subject.x0.cpu()[None], moves, *(moved for moved, _ in grid)]))
        found = effects(subject, twin, inputs, self.export)
        noise = rounding_noise(found, which[1 : MOVES + 1])
        sigma = dict(zip(labels, gains(twin or subject, directions), strict=True))
        plain = [{"part": "cell", **row, "sigma": sigma[row["direction"]]} for _, cells in grid for row in cells]
        rows = windows(
            row
            | {"gain_nominal": float(found.change[n].norm()) / row["eps_abs"], "input": n}
            | found.columns(n, self.tolerance, noise["rounding_noise_max"])
            for row, n in zip(plain, which[MOVES + 1 :], strict=True)
        )
        if self.noise is not None:
            rows += self._smoothed(subject, lines, rows)
        return Finding(
            readings(rows, noise, self.at),
            sentence(rows, self.at, refusal),
            rows=tuple(rows),
            arrays=self._arrays(subject, directions, inputs, found),
            noise=subject.noise_floor().sentence,
            about={"oracle": "true float64" if twin else refusal or "not asked for"},
        )

    def across(self, results: Sequence[Result]) -> tuple[Row, ...]:
        """Return the distribution of each cell over several subjects."""
        return over_prompts(results, self.seed)

    def _twin(self, subject: Subject) -> tuple[Subject | None, str]:
        try:
            return (subject.in_float64(), "") if self.oracle else (None, "")
        except UnsupportedError as error:
            return None, str(error)

    def _smoothed(self, subject: Subject, lines: Sequence[Ray], cells: Sequence[Row]) -> list[dict[str, Any]]:
        """Return rows of the gain averaged over noise, for every cell and every number of draws."""
        noise = Noise(str(self.noise), self.noise_scale, self.noise_unit, self.seed)
        kept = ("direction", "sign", "epsilon", "eps_abs", "eps_rel", "eps_ulp", "sigma")
        rows = []
        for index, ray in enumerate(lines):
            own = cells[index * len(self.epsilons) : (index + 1) * len(self.epsilons)]
            found = smoothed(subject, ray, [cell["eps_abs"] for cell in own], noise, counts(self.samples))
            for cell, answers in zip(own, found, strict=True):
                place = {name: cell[name] for name in kept}
                rows += [{"part": "smoothed", **place, **answer} for answer in answers]
        return rows

    def _arrays(self, subject: Subject, directions: Tensor, inputs: Tensor, found: Effects) -> dict[str, NDArray[Any]]:
        arrays = {
            "directions": directions.double().cpu().numpy(),
            "epsilons": np.array(self.epsilons),
            "x0": subject.x0.double().cpu().numpy(),
        }
        if self.export:
            arrays |= {"y0": subject.baseline.double().cpu().numpy(), "inputs": inputs.double().numpy()}
            arrays |= {name: state.double().numpy() for name, state in found.states.items()}
        return arrays


def _named(directions: Directions, subject: Subject) -> Directions:
    """Return directions with every singular vector by its number, each once."""
    if isinstance(directions, Tensor):
        return directions
    wanted = [(one, number_within(one, subject)) for one in each(directions)]
    named = [f"{'-' * one.startswith('-')}v{number}" if number else one for one, number in wanted]
    return list({repr(one): one for one in named}.values())


def _full(rows: int, batch: int) -> int:
    return math.ceil(rows / batch) * batch


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
