"""Along one direction, at the scale of one float: where does the output move, how far, and what does calculus say?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, products_of, resolve
from stabilitykit.measurements.smooth import crossover, ratio, secant_scan, smooth_changes
from stabilitykit.measurements.stairs import Climb, Treads, climb, enumerated, on_grid
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.subject import Subject

STUDY_START, STUDY_STEP = 1e-6 + 1815 * 2e-13, 3 * 2e-14
"""The study's first step and its grid, absolute numbers found on one model of hidden size 4096."""

SCALES = tuple(10.0 ** (half / 2) for half in range(-28, -3))
"""Step lengths of the scan for the crossover, relative to |x0|: two a decade from 1e-14 to 1e-2."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Staircase(Measurement):
    """The exact staircase of the output along x(s) = x0 + s d: each distinct input once, in order, from `start` on.

    With `step=None` the inputs are listed breakpoint by breakpoint: `n` distinct ones, or those up to `stop`. With a
    `step` the grid start, start + step, ... of n steps is taken instead (accumulated, as the study did) and equal
    inputs are grouped. `start`, `stop` and `step` are lengths in `unit`: "ulp" (median spacing of x0), "rel" (|x0|) or
    "abs"; d is used as given. Let dx_k = x_k - x_(k-1) and dy_k = y_k - y_(k-1) belong to neighbouring inputs. Each dy
    is taken within one slot, and every output twice: `unexplained_changes` counts the bits that changed though the
    input did not. `jump_over_smooth` compares |dy| with |J dx|; `gain` is |J d| / |d|.

    A second part scans single steps of `scales` |x0| (absolute if x0 = 0): the secant slope |y(s) - y0| / |x(s) - x0|,
    and `crossover_scale`, the smallest scale where it is within `tolerance` of `gain` there and at the next scale.
    nan: no such scale, or no derivatives.

    Dense coordinates, such as exact zeros, have too many floats to list. With `dense="hold"` a list leaves them where
    they are (d is 0 there; `held` says how many) and stays exact; with "sample", and on a grid, they move and `exact`
    is 0.

    Arrays: `s_first`, `s_last`, `output_jump` (m,), `directions` (1, H). UsageError for impossible lengths or several
    directions. Cost: 2 B (ceil(m / B) + 1) rows, the scan, m products and a noise floor. Source: the study's
    experiment 14, of whose 501 inputs about 20 were distinct.
    """

    direction: Directions = "v1"
    start: float = 0.0
    step: float | None = None
    n: int = 128
    stop: float | None = None
    unit: str = "ulp"
    scales: tuple[float, ...] = SCALES
    tolerance: float = 0.1
    dense: Literal["hold", "sample"] = "hold"
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("inputs", "inputs", "neither", "distinct inputs on the stretch"),
        Metric("outputs", "outputs", "neither", "distinct outputs; more than there are where slots round differently"),
        Metric("jumps", "jumps", "neither", "neighbouring inputs whose outputs differ in any bit"),
        Metric("absorbed", "share", "neither", "share of input changes that leave every output bit as it is"),
        Metric("jump_median", "output", "lower", "median L2 size of a jump"),
        Metric("jump_max", "output", "lower", "largest L2 size of a jump"),
        Metric("jump_over_noise", "", "lower", "largest jump over the noise floor"),
        Metric("jump_over_smooth", "", "lower", "median of jump over |J dx|, the change that calculus predicts"),
        Metric("first_jump", "input", "neither", "first step s at which the output jumps"),
        Metric("spacing_median", "input", "neither", "median distance in s from one jump to the next"),
        Metric("secant_slope", "output/input", "neither", "first to last output over first to last input"),
        Metric("gain", "output/input", "neither", "|J d| / |d|: the slope in exact arithmetic for tiny steps"),
        Metric("crossover_scale", "|x0|", "lower", "smallest scanned step whose secant slope agrees with the gain"),
        Metric("islands", "islands", "neither", "returns to the baseline's identical bits after the first change"),
        Metric("island_share", "share", "neither", "share of the inputs from the first change on that lie on islands"),
        Metric("unexplained_changes", "outputs", "lower", "outputs whose bits changed though their input did not"),
        Metric("held", "coordinates", "neither", "dense coordinates that the direction leaves where they are"),
        Metric("exact", "share", "higher", "1 if no distinct input of the stretch was left out, else 0"),
    )
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"unexplained_changes": "<= 0"}
    causes: ClassVar[tuple[str, ...]] = (
        "a kernel that is not deterministic, if outputs changed without their input",
        "a kernel, dtype or path with more rounding noise, if the jumps grew",
        "a flatter or steeper model at this input, if the gain or the crossover moved",
    )

    @classmethod
    def study(cls, direction: Directions = "v1") -> Staircase:
        """Return the study's own question: 500 absolute steps of 6e-14 from 1.000363e-6, rounded in float32."""
        return cls(direction, start=STUDY_START, step=STUDY_STEP, n=500, unit="abs", rule="p32")

    def __post_init__(self) -> None:
        """Refuse a stretch that is none."""
        check_unit(self.unit)
        if self.dense not in ("hold", "sample"):
            raise UsageError(f"dense={self.dense!r} is neither 'hold' nor 'sample'")
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if not isinstance(self.n, int) or self.n < 1:
            raise UsageError(f"n={self.n!r} is no number of inputs or steps; give at least 1")
        if not (0 <= self.start < math.inf):
            raise UsageError(f"start={self.start!r} is no step; give a finite number, at least 0")
        if self.step is not None and self.stop is not None:
            raise UsageError("a staircase has a step or a stop: a grid ends after n steps, an exact list at the stop")
        if self.step is not None and not (0 < self.step < math.inf):
            raise UsageError(f"step={self.step!r} leads nowhere; give a positive number, or None to list every input")
        if self.stop is not None and not self.stop > self.start:
            raise UsageError(f"stop={self.stop!r} does not lie beyond start={self.start!r}")
        if not all(0 < scale < math.inf for scale in self.scales) or list(self.scales) != sorted(set(self.scales)):
            raise UsageError(f"scales={self.scales!r}: give positive numbers in ascending order, or ()")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance={self.tolerance!r} is no share between 0 and 1")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: all n inputs distinct; products counted as backwards; the noise floor included."""
        B, inputs = subject.batch, self.n + (self.step is not None)
        walked = 2 * B * (math.ceil(inputs / B) + 1)
        scanned = B * math.ceil(len(self.scales) / B)
        return Cost(forwards=B + walked + scanned + 2 * B + 15, backwards=inputs + products_of(self.direction, subject))

    def find(self, subject: Subject) -> Finding:
        """Walk the stretch, scan the scales, and set both against the derivative and the noise."""
        directions, labels = resolve(self.direction, subject)
        if len(directions) != 1:
            raise UsageError(f"a staircase climbs one direction, not {len(directions)}; measure them one by one")
        lattice, held = self._lattice(subject, directions[0])
        treads = self._treads(lattice, length_of(self.unit, subject))
        climbed = climb(subject, treads.X)
        d = lattice.direction.double().cpu()
        gain = smooth_changes(subject, d[None])[0] / float(d.norm())
        steps = _steps(subject, treads, climbed)
        scan = secant_scan(subject, lattice, self.scales)
        noise = subject.noise_floor()
        values: dict[str, float | Reading] = {
            **_jumps(steps, noise.l2),
            **_returns(steps),
            "outputs": len({row["output"] for row in steps}),
            "secant_slope": ratio(climbed.secant, float((treads.X[-1].double() - treads.X[0].double()).norm())),
            "gain": gain,
            "crossover_scale": crossover(scan, gain, self.tolerance),
            "unexplained_changes": climbed.unexplained,
            "held": held,
            "exact": float(treads.exact),
        }
        return Finding(
            values,
            _sentence(steps, values, self.scales),
            verdict="differs" if climbed.unexplained else "pass",
            rows=(*steps, *scan),
            arrays={
                **{name: np.array([row[name] for row in steps]) for name in ("s_first", "s_last", "output_jump")},
                "directions": d[None].numpy(),
            },
            noise=noise.sentence,
            about={"direction": labels[0]},
        )

    def _lattice(self, subject: Subject, direction: Tensor) -> tuple[Lattice, int]:
        """Return the lattice to climb and the number of dense coordinates that it holds."""
        lattice = Lattice(subject.x0.cpu(), direction.cpu(), self.rule)
        held: list[int] = []
        # Without them the typical coordinate is another one, which may make another one dense.
        while self.dense == "hold" and self.step is None and lattice.dense:
            rest = lattice.direction.clone()
            rest[lattice.dense] = 0
            if not bool(rest.any()):
                return Lattice(subject.x0.cpu(), direction.cpu(), self.rule), 0
            held += lattice.dense
            lattice = Lattice(lattice.x0, rest, self.rule)
        return lattice, len(held)

    def _treads(self, lattice: Lattice, length: float) -> Treads:
        start = self.start * length
        if self.step is None:
            return enumerated(lattice, start, math.inf if self.stop is None else self.stop * length, self.n)
        return on_grid(lattice, list(itertools.accumulate([start, *[self.step * length] * self.n])))


def _steps(subject: Subject, treads: Treads, climbed: Climb) -> list[Row]:
    """Return one row a distinct input, with its step from the one before."""
    X, x0 = treads.X.double(), subject.x0.double().cpu()
    dx = X[1:] - X[:-1]
    lengths = [math.nan, *dx.norm(dim=1).tolist()]
    smooth = [math.nan, *smooth_changes(subject, dx)]
    moved = [0, *(dx != 0).sum(dim=1).tolist()]
    return [
        {
            "part": "step",
            "input": k,
            "s_first": treads.first[k],
            "s_last": treads.last[k],
            "coords_changed": moved[k],
            "input_step": lengths[k],
            "output_jump": at.jump,
            "slope": ratio(at.jump, lengths[k]),
            "smooth_jump": smooth[k],
            "jump_over_smooth": ratio(at.jump, smooth[k]),
            "jumped": at.jumped,
            "changed": at.changed,
            "input_distance": float((X[k] - x0).norm()),
            "output_distance": at.distance,
            "output": at.label,
            "slot": at.slot,
        }
        for k, at in enumerate(climbed.arrivals)
    ]


def _jumps(steps: Sequence[Row], noise: float) -> dict[str, float | Reading]:
    """Return the readings about jumps; nan where there is none to speak of."""
    schema = {metric.name: metric for metric in Staircase.metrics}
    jumps = [row for row in steps if row["jumped"]]
    sizes, places = [row["output_jump"] for row in jumps], [row["s_first"] for row in jumps]
    largest = max(jumps, key=lambda row: row["output_jump"], default=None)
    place = {"s": repr(largest["s_first"]), "slot": str(largest["slot"])} if largest else {}
    top = largest["output_jump"] if largest else math.nan
    changes = len(steps) - 1
    return {
        "inputs": len(steps),
        "jumps": len(jumps),
        "absorbed": 1 - len(jumps) / changes if changes else math.nan,
        "jump_median": _median(sizes),
        "jump_max": Reading(schema["jump_max"], top, place=place),
        "jump_over_noise": Reading(schema["jump_over_noise"], ratio(top, noise), place=place),
        "jump_over_smooth": _median([row["jump_over_smooth"] for row in jumps]),
        "first_jump": places[0] if places else math.nan,
        "spacing_median": _median([b - a for a, b in itertools.pairwise(places)]),
    }


def _returns(steps: Sequence[Row]) -> dict[str, float | Reading]:
    """Return how often and how much the output is back at the baseline's bits after it first left them."""
    changed = [row["changed"] for row in steps]
    after = changed[changed.index(True) :] if True in changed else []
    islands = sum(left and not right for left, right in itertools.pairwise(after))
    return {"islands": islands, "island_share": after.count(False) / len(after) if after else math.nan}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _sentence(steps: Sequence[Row], values: Mapping[str, float | Reading], scales: Sequence[float]) -> str:
    found = {name: value.value if isinstance(value, Reading) else value for name, value in values.items()}
    stretch = f"From s = {steps[0]['s_first']:.6g} to {steps[-1]['s_last']:.6g} the rounded input takes "
    stretch += f"{len(steps)} distinct value{'s'[: len(steps) > 1]}"
    stretch += f" ({found['held']:.0f} dense coordinate{'s'[: found['held'] > 1]} held)" if found["held"] else ""
    if not found["jumps"]:
        return f"{stretch} and the output does not change between them.{_agreed(found, scales)}{_shaken(found)}"
    times = f"{found['jumps']:.0f} time{'s'[: found['jumps'] > 1]}"
    smooth = found["jump_over_smooth"]
    calculus = f", {smooth:.3g} times as far as the derivative predicts" if math.isfinite(smooth) else ""
    agreed = _agreed(found, scales)
    jumps = f"the output jumps {times}, by {found['jump_median']:.3g} in the median{calculus}"
    return f"{stretch} and {jumps}.{agreed}{_shaken(found)}"


def _agreed(found: Mapping[str, float], scales: Sequence[float]) -> str:
    joined = found["crossover_scale"]
    if math.isfinite(joined):
        return f" A single step follows the derivative from {joined:.2g} |x0| on."
    if not scales or math.isnan(found["gain"]):
        return ""
    return f" No single step up to {scales[-1]:.2g} |x0| follows the derivative for long."


def _shaken(found: Mapping[str, float]) -> str:
    count = found["unexplained_changes"]
    if not count:
        return ""
    return (
        f" {count:.0f} outputs changed though their input did not."
        if count > 1
        else " 1 output changed though its input did not."
    )
