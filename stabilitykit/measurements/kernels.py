"""Is a kernel right, and does it stay the same where mathematics says that it must?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stabilitykit.measurements import trials
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.judged import Judged, Place, judge, saved
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.trials import Plan
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.draws import DRAWS, Draw
from stabilitykit.subjects.kernel import Function, Kernel
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.signature import Size

SIZES = (
    Metric("max_ulp", "ULP", "lower", "largest distance from the true result rounded once; large near zero"),
    Metric("max_scaled_ulp", "ULP", "lower", "largest error in ULP of the largest true element of its row"),
    Metric("excess", "ratio", "lower", "largest error over what rounding, or one ULP of the inputs, would excuse"),
    Metric("not_finite", "elements", "lower", "elements of one run that are not finite where the truth is"),
)
MEDIAN = Metric("median_ulp", "ULP", "lower", "median over runs of the median distance of what is not correct there")
CORRECT = Metric("correctly_rounded", "share", "higher", "elements equal to the true result rounded once")
AGAIN = Metric("repeat_differing_bits", "elements", "lower", "elements of which any bit differs when run again")
COMPANY = {"batch": "between a row alone and in its batch", "split": "in two halves", "stride": "in another layout"}
CHANGES = {
    kind: (
        Metric(f"{kind}_differing_bits", "elements", "lower", f"elements of which any bit differs {words}"),
        Metric(f"{kind}_max_ulp", "ULP", "lower", f"largest difference {words}; large near zero"),
        Metric(f"{kind}_max_scaled_ulp", "ULP", "lower", f"largest difference {words}, in ULP of the largest element"),
    )
    for kind, words in COMPANY.items()
}
COLUMNS = ("differing_bits", "changed_max_ulp", "changed_max_scaled_ulp")


@dataclass(frozen=True, eq=False)
class KernelAccuracy(Measurement[Kernel]):
    """Judge every run of a kernel against true float64, and runs that must agree against each other.

    For each shape and draw, `tries` sets of inputs. The truth is `reference`, else the kernel's own formula, run in
    float64 on the CPU: without `reference` a wrong formula is not found, only wrong arithmetic. `Accuracy` has the
    formulas. The first try of each draw is also run again, by rows alone, in two halves and in other memory layouts.
    One row a run. Arrays `worst_input_0`.. hold the inputs of the run with the largest excess, every bit of them.

    An element that is not finite makes the verdict `invalid` and the sizes nan; what could not be compared, such as a
    batch that a kernel does not have, is nan as well. UsageError for empty shapes or draws, UnsupportedError without a
    truth. Cost for each shape and draw: 6 calls a try, the reference's 5 among them, and 3 to 11 for the other runs.
    Source: the error in units of what an input ULP does is a backward error, Wilkinson 1963.
    """

    shapes: Sequence[Size] = ()
    draws: Sequence[str | Draw] = DRAWS
    tries: int = 4
    seed: int = 0
    reference: Function | None = None

    metrics: ClassVar[tuple[Metric, ...]] = (
        *(*SIZES, MEDIAN, CORRECT, AGAIN),
        *(metric for three in CHANGES.values() for metric in three),
        Metric("runs", "runs", "neither", "runs of the kernel that were judged"),
        Metric("refused", "runs", "neither", "runs in a memory layout that the kernel refused"),
    )
    needs: ClassVar[type[Measurable]] = Kernel
    causes: ClassVar[tuple[str, ...]] = (
        "an accumulator narrower than it should be, or a constant of another value",
        "an intermediate that overflows or cancels",
        "a tile or split size chosen by the batch",
        "strides that are assumed and not read",
    )

    def __post_init__(self) -> None:
        """Refuse what tries nothing."""
        self._plan().check()

    def _plan(self) -> Plan:
        return Plan(self.shapes, self.draws, self.tries, self.seed, self.reference)

    def cost(self, subject: Kernel) -> Cost:
        """Exact, in calls of the kernel and of the reference."""
        batches = [subject.lengths(size).get(subject.batch_axis or "", 1) for size in self.shapes]
        others = sum(trials.calls(subject, batch) - 1 for batch in batches)
        return Cost(calls=len(self.draws) * others + self._plan().count * (1 + trials.TRUTHS))

    def find(self, subject: Kernel) -> Finding:
        """Run, judge, and keep the rows of all runs and the inputs of the worst."""
        rows: list[Place] = []
        worst: list[Judged] = []
        refused = 0
        with bar(self._plan().count, "kernel", "trial") as progress:
            for trial in self._plan().trials(subject):
                for one in judge(subject, trial):
                    if one is None:
                        refused += 1
                        continue
                    rows.append(one.row(subject))
                    worst = [max([*worst, one], key=lambda kept: kept.badness)]
                progress.update()
        return Finding(
            {**_values(rows), "runs": len(rows), "refused": refused},
            _sentence(subject, rows),
            verdict=_verdict(rows),
            rows=tuple(rows),
            arrays=saved(worst[0]),
            worst=worst[0].worst(subject),
            noise=noise_sentence(rows),
        )


def worst_reading(metric: Metric, rows: Sequence[Place], column: str) -> Reading:
    """Return the worst value of a column with the place where it is; nan without a row."""
    readings = [Reading(metric, row[column], place=place_of(row)) for row in rows if column in row]
    return max(readings, key=lambda reading: reading.badness, default=Reading(metric, math.nan))


def place_of(row: Mapping[str, object]) -> dict[str, str]:
    """Return the columns of a row that say where it is."""
    return {name: str(row[name]) for name in ("shape", "draw", "try", "variant") if row.get(name, "") != ""}


def noise_sentence(rows: Sequence[Place]) -> str:
    """Say how far the truth itself can be trusted, and where least."""
    worst = max(rows, key=lambda row: float(row["truth_noise"]))
    return (
        f"one float64 ULP of every input moves the reference by at most {worst['truth_noise']:.2g} scaled ULP "
        f"(shape {worst['shape']}, draw {worst['draw']})"
    )


def _values(rows: Sequence[Place]) -> dict[str, float | Reading]:
    whole = [row for row in rows if row["run"] == "whole"]
    elements = sum(row["elements"] for row in whole)
    values: dict[str, float | Reading] = {metric.name: worst_reading(metric, rows, metric.name) for metric in SIZES}
    values[MEDIAN.name] = float(np.median([row["median_ulp"] for row in whole]))
    values[CORRECT.name] = sum(row["correct"] for row in whole) / elements if elements else math.nan
    values[AGAIN.name] = worst_reading(AGAIN, [row for row in rows if row["run"] == "repeat"], "differing_bits")
    for kind, metrics in CHANGES.items():
        of_kind = [row for row in rows if row["run"] == kind]
        for metric, column in zip(metrics, COLUMNS, strict=True):
            values[metric.name] = worst_reading(metric, of_kind, column)
    return values


def _verdict(rows: Sequence[Place]) -> str:
    if any(row["not_finite"] for row in rows):
        return "invalid"
    return "differs" if any(row.get("differing_bits") for row in rows) else "measured"


def _sentence(kernel: Kernel, rows: Sequence[Place]) -> str:
    broken = [row for row in rows if row["not_finite"]]
    if broken:
        row = broken[0]
        place = ", ".join(f"{name} {value}" for name, value in place_of(row).items())
        return (
            f"{kernel.name} is not finite in {len(broken)} of {len(rows)} runs, first at y[{row['index']}], which is "
            f"{row['output']} where float64 has {row['truth']:.9g} ({place})."
        )
    whole = [row for row in rows if row["run"] == "whole"]
    elements, correct = (sum(row[name] for row in whole) for name in ("elements", "correct"))
    worst = max(rows, key=lambda row: float(row["excess"]))
    scaled = max(row["max_scaled_ulp"] for row in rows)
    return (
        f"{kernel.name} rounds {correct} of {elements} elements as float64 rounded once; its error is at most "
        f"{scaled:.3g} scaled ULP, and {worst['excess']:.3g} times what rounding or one ULP of the inputs would excuse "
        f"(shape {worst['shape']}, draw {worst['draw']}). {_invariance(rows)}"
    )


def _invariance(rows: Sequence[Place]) -> str:
    """Say in which company the bits are the same, and in which not."""
    words = {
        "repeat": "when run again",
        "batch": "by rows alone",
        "split": "in two halves",
        "stride": "in other layouts",
    }
    compared = [kind for kind in words if any(row["run"] == kind for row in rows)]
    changed = [kind for kind in compared if any(row["run"] == kind and row["differing_bits"] for row in rows)]
    if not changed:
        return f"Its bits are the same {_listed([words[kind] for kind in compared])}."
    other = [words[kind] for kind in compared if kind not in changed]
    same = f", and the same {_listed(other)}" if other else ""
    return f"Its bits differ {_listed([words[kind] for kind in changed])}{same}."


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
