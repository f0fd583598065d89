"""Two kernels on the same inputs: how far apart, and which of them is right?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.measurements import trials
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.judged import Judged, Place, array, beside_truth, index_of, saved
from stabilitykit.measurements.kernels import CORRECT, SIZES, noise_sentence, worst_reading
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.trials import Plan, Run, Trial, whole
from stabilitykit.numerics.accuracy import gap
from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.differences import Difference, difference
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.draws import DRAWS, Draw
from stabilitykit.subjects.kernel import Function, Kernel
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.signature import Size

BETWEEN = (
    Metric("differing_bits", "elements", "lower", "elements of which any bit differs, in the worst trial"),
    Metric("max_ulp", "ULP", "lower", "largest distance between a and b; large near zero"),
    Metric("max_scaled_ulp", "ULP", "lower", "largest distance between a and b, in ULP of the largest element of a"),
)
MEDIAN = Metric("median_ulp", "ULP", "lower", "median over trials of the median distance of the elements that differ")
NEARER = (
    Metric("a_nearer", "share", "neither", "of the elements whose values differ, those where a is nearer to float64"),
    Metric("b_nearer", "share", "neither", "of the elements whose values differ, those where b is nearer to float64"),
)
OWN = tuple(metric for metric in SIZES if metric.name in ("max_scaled_ulp", "excess", "not_finite"))


def _of(side: str, metric: Metric) -> Metric:
    return Metric(f"{side}_{metric.name}", metric.unit, metric.better, f"{side}: {metric.description}")


@dataclass(frozen=True, eq=False)
class KernelPair(Measurement[Kernel]):
    """Give two kernels the same inputs: how far apart are they, and which of them is nearer to true float64?

    `other` is the second kernel, b; the one that is asked is a. The truth is `reference`, else a's own formula in
    float64. For each trial: how many elements differ in any bit, their distance as `Difference` has it; of those whose
    values differ, how many are nearer to the truth in a, and in b; and the `Accuracy` of each. One row a trial. Arrays:
    inputs and truth of the trial with the largest scaled distance, and what a and b made of them.

    `not-distinct` if both are one function on one device; `invalid` with an element that is not finite. UsageError if
    signatures, input dtypes or output dtypes differ. Cost: 7 calls a trial, 5 of them of the reference.
    """

    other: Kernel | None = None
    shapes: Sequence[Size] = ()
    draws: Sequence[str | Draw] = DRAWS
    tries: int = 4
    seed: int = 0
    reference: Function | None = None

    metrics: ClassVar[tuple[Metric, ...]] = (
        *(*BETWEEN, MEDIAN, *NEARER),
        *(_of(side, metric) for side in "ab" for metric in (*OWN, CORRECT)),
        Metric("trials", "trials", "neither", "sets of inputs that both were given"),
    )
    needs: ClassVar[type[Measurable]] = Kernel
    causes: ClassVar[tuple[str, ...]] = (
        "another order of summation",
        "another dtype of an accumulator or intermediate",
        "another constant or formula",
    )

    def __post_init__(self) -> None:
        """Refuse a pair of one, and what tries nothing."""
        if not isinstance(self.other, Kernel):
            raise UsageError(f"other={self.other!r} is no Kernel; make the second of the pair with {Kernel.made_by}")
        self._plan().check()

    def _plan(self) -> Plan:
        return Plan(self.shapes, self.draws, self.tries, self.seed, self.reference)

    def cost(self, subject: Kernel) -> Cost:
        """Exact, in calls of both kernels and of the reference."""
        return Cost(calls=self._plan().count * (2 + trials.TRUTHS))

    def find(self, subject: Kernel) -> Finding:
        """Run both on everything, and judge both."""
        assert self.other is not None, "refused on construction"
        _require_alike(subject, self.other)
        rows: list[Place] = []
        worst: list[_Both] = []
        with bar(self._plan().count, "kernel pair", "trial") as progress:
            for trial in self._plan().trials(subject):
                both = _run_both(subject, self.other, trial)
                rows.append(both.row(subject))
                worst = [max([*worst, both], key=lambda kept: kept.badness)]
                progress.update()
        same = self.other.fn is subject.fn and self.other.device == subject.device
        return Finding(
            {**_values(rows), "trials": len(rows)},
            _sentence(subject, self.other, rows, same),
            verdict="not-distinct" if same else _verdict(rows),
            rows=tuple(rows),
            arrays=worst[0].arrays(),
            worst=worst[0].worst(subject, self.other),
            noise=noise_sentence(rows),
            about={"other": self.other.describe()},
        )


@dataclass(frozen=True, eq=False)
class _Both:
    """What two kernels made of one trial."""

    trial: Trial
    a: Judged
    b: Judged
    change: Difference

    @property
    def badness(self) -> tuple[bool, float]:
        return self.change.nan_mismatch > 0, self.change.max_scaled_ulp

    def row(self, kernel: Kernel) -> Place:
        lost = self.change.nan_mismatch > 0
        between = {m.name: math.nan if lost else float(getattr(self.change, m.name)) for m in (*BETWEEN[1:], MEDIAN)}
        own = {
            f"{side}_{name}": value
            for side, one in (("a", self.a), ("b", self.b))
            for name, value in asdict(one.accuracy).items()
            if name in ("correct", *(metric.name for metric in OWN))
        }
        return {
            **self.trial.place,
            "elements": self.change.elements,
            "differing_bits": self.change.differing_bits,
            **between,
            **self.nearer(),
            **own,
            "truth_noise": self.a.noise,
            **self._place(kernel),
        }

    def nearer(self) -> dict[str, int]:
        """Count the elements whose values differ, and those of them where one side is nearer to the truth."""
        truth = self.trial.truth.values
        a, b = (gap(side.output.double(), truth) for side in (self.a, self.b))
        return {
            "differing_values": self.change.differing_values,
            "a_nearer": int(((a < b) & (self.a.output.double() != self.b.output.double())).sum()),
            "b_nearer": int(((b < a) & (self.a.output.double() != self.b.output.double())).sum()),
        }

    def _place(self, kernel: Kernel) -> Place:
        if (worst := self.change.worst) is None:
            return {}
        row, column = worst.index
        index = ", ".join(map(str, index_of(kernel, self.trial, row, column)))
        sides = {"a": worst.left, "a_bits": worst.left_bits, "b": worst.right, "b_bits": worst.right_bits}
        return {"index": index, **sides, "truth": float(self.trial.truth.values[row, column])}

    def worst(self, kernel: Kernel, other: Kernel) -> Worst | None:
        if not (seen := self._place(kernel)):
            return None
        where = ", ".join(f"{name} {value}" for name, value in self.trial.place.items())
        a, b = (f"{seen[side]:.9g} ({seen[f'{side}_bits']})" for side in "ab")
        return Worst(f"y[{seen['index']}], float64 {seen['truth']:.9g} ({where})", kernel.name, a, other.name, b)

    def arrays(self) -> dict[str, NDArray[Any]]:
        kept = saved(self.a)
        return {**kept, "worst_output": array(self.a.output), "worst_other_output": array(self.b.output)}


def _run_both(kernel: Kernel, other: Kernel, trial: Trial) -> _Both:
    outputs = [whole(one, trial) for one in (kernel, other)]
    kernel.counter.calls += 1  # what the other one did was done for this measurement too
    a, b = (beside_truth(trial, Run("whole", "", y, 0, trial.batch), y) for y in outputs)
    return _Both(trial, a, b, difference(*outputs))


def _require_alike(a: Kernel, b: Kernel) -> None:
    for what in ("signature", "dtype", "batch_axis", "fixed"):
        left, right = getattr(a, what), getattr(b, what)
        if left != right:
            said = [name_of(side) if what == "dtype" else str(side) for side in (left, right)]
            raise UsageError(f"{a.name} has {what} {said[0]} and {b.name} {said[1]}; a pair gets the same inputs")


def _values(rows: Sequence[Place]) -> dict[str, float | Reading]:
    values: dict[str, float | Reading] = {metric.name: worst_reading(metric, rows, metric.name) for metric in BETWEEN}
    values[MEDIAN.name] = float(np.median([row["median_ulp"] for row in rows]))
    differing, elements = (sum(row[name] for row in rows) for name in ("differing_values", "elements"))
    for metric in NEARER:
        values[metric.name] = sum(row[metric.name] for row in rows) / differing if differing else math.nan
    for side in "ab":
        for metric in OWN:
            own = _of(side, metric)
            values[own.name] = worst_reading(own, rows, own.name)
        correct = sum(row[f"{side}_correct"] for row in rows)
        values[f"{side}_{CORRECT.name}"] = correct / elements if elements else math.nan
    return values


def _verdict(rows: Sequence[Place]) -> str:
    if any(row["a_not_finite"] or row["b_not_finite"] for row in rows):
        return "invalid"
    return "measured" if any(row["differing_bits"] for row in rows) else "pass"


def _sentence(a: Kernel, b: Kernel, rows: Sequence[Place], same: bool) -> str:
    if same:
        return f"{a.name} and {b.name} are one function on one device: that they agree proves nothing."
    for side, kernel in (("a", a), ("b", b)):
        broken = [row for row in rows if row[f"{side}_not_finite"]]
        if broken:
            where = f"shape {broken[0]['shape']}, draw {broken[0]['draw']}"
            return f"{kernel.name} is not finite in {len(broken)} of {len(rows)} trials, first at {where}."
    differing, elements = (sum(row[name] for row in rows) for name in ("differing_bits", "elements"))
    if not differing:
        return f"{a.name} and {b.name} have the same bits in all {elements} elements of {len(rows)} trials."
    nearer = [sum(row[f"{side}_nearer"] for row in rows) for side in "ab"]
    return (
        f"{a.name} and {b.name} differ in {differing} of {elements} elements, by at most "
        f"{max(row['max_scaled_ulp'] for row in rows):.3g} scaled ULP. Float64 is nearer to {a.name} in {nearer[0]} of "
        f"them and to {b.name} in {nearer[1]}; their errors reach {max(row['a_excess'] for row in rows):.3g} and "
        f"{max(row['b_excess'] for row in rows):.3g} times what rounding would excuse."
    )
