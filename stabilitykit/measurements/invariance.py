"""The same output computed in ways that exact arithmetic could not tell apart, compared bit for bit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics import statistics
from stabilitykit.numerics.differences import Difference, difference
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.subject import Subject

BITS = Metric("differing_bits", "elements", "lower", "output elements of which any bit differs, in the worst case")
ULP = Metric("max_ulp", "ULP", "lower", "largest distance of two differing elements in units in the last place")
SCALED = Metric("max_scaled_ulp", "ULP", "lower", "largest difference over the ULP of the largest output element")

Case = tuple[dict[str, Any], Difference]
"""Where an output was computed in another way, and how it differs from the reference."""


@dataclass(frozen=True, eq=False)
class Invariance(Measurement):
    """A reference output against other ways to compute it; a subclass names the ways.

    Rows: the columns of `place`, then differing_bits, share, max_ulp, max_scaled_ulp, l2, bits_equal. An observation:
    it is red where bits differ, and fails as a gate. The reference is computed twice; UsageError if it differs from
    itself, since then nothing can be blamed on the way. Equal bits everywhere are said with their number and with
    `rate_bound`, which takes the cases for independent draws of all that could be compared.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        BITS,
        ULP,
        SCALED,
        Metric("differing_cases", "cases", "lower", "compared outputs of which any bit differs"),
        Metric("cases", "cases", "neither", "outputs compared with the reference"),
        Metric("output_change", "output", "lower", "largest L2 distance from the reference"),
        Metric("rate_bound", "share", "lower", "upper 95% confidence bound on the rate at which such cases differ"),
    )
    requires: ClassVar[Mapping[str, str]] = {"differing_bits": "<= 0"}
    place: ClassVar[tuple[str, ...]]
    """Columns of a row that say which way it was."""
    sides: ClassVar[tuple[str, str]]
    """What the reference and the other output are called beside each other."""
    draws: ClassVar[str] = "cases"
    """What the bound counts."""
    noise: ClassVar[str] = "the reference was computed twice with equal bits, so this is not run-to-run noise"

    @abstractmethod
    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the variants of the subject that have a reference each."""

    def cases(self, subject: Subject) -> Iterator[Case]:
        """Yield every way to compute one variant's output; not needed where `compared` treats variants together."""
        raise NotImplementedError

    @abstractmethod
    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say what was found."""

    @abstractmethod
    def name(self, where: Mapping[str, Any]) -> str:
        """Return the name of the output of one case."""

    def counted(self, cases: Sequence[Case]) -> tuple[int, int]:
        """Return how many of what the bound counts differ, and how many there are."""
        return sum(not one.identical for _, one in cases), len(cases)

    def further(self, cases: Sequence[Case]) -> Mapping[str, float | Reading]:
        """Return readings that a subclass has beside the common ones."""
        return {}

    def compared(self, variants: Sequence[Subject]) -> list[Case]:
        """Return the cases of all variants."""
        cases: list[Case] = []
        with bar(len(variants), self.check_id().replace("_", " "), "prompt") as progress:
            for variant in variants:
                cases += list(self.cases(variant))
                progress.update()
        return cases

    def find(self, subject: Subject) -> Finding:
        """Compare every case."""
        cases = self.compared(self.subjects(subject))
        differing = [case for case in cases if not case[1].identical]
        bound, said = statistics.rate_bound(*self.counted(cases)), self.sentence(differing, cases)
        if not differing:
            said += f" {statistics.sentence(*self.counted(cases))}, if {self.draws} are independent draws."
        where, worst = max(cases, key=lambda case: (case[1].max_scaled_ulp, case[1].differing_bits))
        values: dict[str, float | Reading] = {
            **{metric.name: self._worst_reading(metric, cases) for metric in (BITS, ULP, SCALED)},
            "differing_cases": len(differing),
            "cases": len(cases),
            "output_change": max(one.l2 for _, one in cases),
            "rate_bound": bound,
            **self.further(cases),
        }
        return Finding(
            values,
            said,
            verdict="differs" if differing else "pass",
            rows=tuple({**row, **columns(one)} for row, one in cases),
            worst=worst_place(worst, self.name(where), self.sides) if differing else None,
            noise=self.noise,
        )

    def _worst_reading(self, metric: Metric, cases: Sequence[Case]) -> Reading:
        """Return the largest value of one metric, with the place where it, not another metric, is worst."""
        row, worst = max(cases, key=lambda case: float(getattr(case[1], metric.name)))
        return Reading(metric, getattr(worst, metric.name), place={name: str(row[name]) for name in self.place})


def repeated(subject: Subject, without: str) -> Tensor:
    """Return x0's output alone, (M,), computed twice; UsageError if it differs from itself `without` what is asked."""
    alone = subject.finite(subject.evaluate(subject.copies(1)))
    if not difference(alone, subject.evaluate(subject.copies(1))).identical:
        raise UsageError(f"{subject.name} differs from itself without any {without}; ask RunToRun first")
    return alone[0]


def on_prefill(subject: Subject, lengths: Sequence[int]) -> list[Subject]:
    """Return the prompt at each length, run whole at batch 1."""
    return [one for one in subject.relatives(lengths) if where(one)["path"] == "prefill"]


def where(subject: Subject) -> dict[str, Any]:
    """Return the columns that name a relative: its path and how many tokens it has."""
    description = subject.describe()
    return {"path": description.get("path", ""), "length": len(description.get("token_ids", ())) or 1}


def columns(one: Difference) -> dict[str, Any]:
    """Return a difference as columns of a row."""
    return {
        "differing_bits": one.differing_bits,
        "share": one.differing_bits / one.elements if one.elements else 0.0,
        "max_ulp": one.max_ulp,
        "max_scaled_ulp": one.max_scaled_ulp,
        "l2": one.l2,
        "bits_equal": one.identical,
    }


def worst_place(one: Difference, name: str, sides: tuple[str, str]) -> Worst | None:
    """Return the element that differs most, in decimal and bits; None where only NaNs differ."""
    if one.worst is None:
        return None
    place = ", ".join(map(str, one.worst.index))
    left, right = (
        f"{value:.9g} ({bits})"
        for value, bits in ((one.worst.left, one.worst.left_bits), (one.worst.right, one.worst.right_bits))
    )
    return Worst(f"{name}[{place}]", sides[0], left, sides[1], right)


def check_lengths(lengths: Sequence[int]) -> None:
    """UsageError for no length, or one without a token."""
    if not lengths or min(lengths) < 1:
        raise UsageError(f"lengths={tuple(lengths)}: a prompt has at least 1 token")
