"""Does the same question get the same bits: again, and in other company?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.invariance import (
    BITS,
    ULP,
    Case,
    Invariance,
    check_lengths,
    repeated,
    where,
    worst_place,
)
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics import sequential, statistics
from stabilitykit.numerics.differences import difference
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class RunToRun(Measurement):
    """Run the same input `runs` times after a first, and compare every bit: readings say how many differed.

    Each run is a whole forward of B copies of x0. `rate_bound` is the exact one-sided 95% upper bound on the rate of
    differing runs, under the assumption that runs are independent draws of one machine state: it says nothing about
    another process, load or clock. With `stop_early` the first run that differs ends it, which is enough for a verdict;
    the bounds are then those of `numerics.sequential.first_event`. UsageError for fewer than one run. Cost: at most
    (runs + 1) * B forwards.
    Source: Clopper & Pearson 1934.
    """

    runs: int = 59
    confidence: float = 0.95
    stop_early: bool = False

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("differing_runs", "runs", "lower", "runs in which any output bit differs from the first"),
        Metric("runs", "runs", "neither", "runs compared with the first"),
        Metric("rate_bound", "share", "lower", "upper confidence bound on the rate of differing runs"),
        Metric("distinct_outputs", "outputs", "lower", "different outputs seen, the first included"),
        BITS,
        ULP,
    )
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"differing_runs": "<= 0"}
    causes: ClassVar[tuple[str, ...]] = (
        "an atomic or racing reduction",
        "dropout or noise left on",
        "a buffer that is read before it is written",
    )

    def __post_init__(self) -> None:
        """Refuse a count that proves nothing."""
        if self.runs < 1:
            raise UsageError(f"runs={self.runs} compares nothing; give at least 1")

    def cost(self, subject: Subject) -> Cost:
        """Exact, unless a difference ends it early: one batch a run and one to compare with."""
        return Cost(forwards=(self.runs + 1) * subject.batch)

    def find(self, subject: Subject) -> Finding:
        """Run, compare, count."""
        first = subject.finite(subject.evaluate(subject.copies(subject.batch)))
        outputs, differences = {_key(first)}, []
        with bar(self.runs, "run to run", "run") as progress:
            for _ in range(self.runs):
                again = subject.evaluate(subject.copies(subject.batch))
                outputs.add(_key(again))
                differences.append(difference(first, again))
                progress.update()
                if self.stop_early and not differences[-1].identical:
                    break
        worst = max(differences, key=lambda one: (one.differing_bits, one.max_ulp))
        differing = sum(not one.identical for one in differences)
        rows = tuple(
            {"run": run + 1, "differs": not one.identical, "differing_bits": one.differing_bits, "max_ulp": one.max_ulp}
            for run, one in enumerate(differences)
        )
        return Finding(
            values={
                "differing_runs": differing,
                "runs": len(differences),
                "rate_bound": self._bound(differing, len(differences)),
                "distinct_outputs": len(outputs),
                "differing_bits": worst.differing_bits,
                "max_ulp": worst.max_ulp,
            },
            sentence=f"{self._claim(differing, len(differences))}, if runs are independent draws.",
            verdict="differs" if differing else "pass",
            rows=rows,
            worst=worst_place(worst, "y", ("first", "again")) if differing else None,
        )

    def _bound(self, differing: int, runs: int) -> float:
        if self.stop_early and differing:
            return sequential.first_event(runs, self.confidence)[1]
        return statistics.rate_bound(differing, runs, self.confidence)

    def _claim(self, differing: int, runs: int) -> str:
        if self.stop_early and differing:
            return sequential.sentence(runs, self.runs, self.confidence).capitalize()
        return statistics.sentence(differing, runs, self.confidence)


@dataclass(frozen=True, eq=False)
class BatchInvariance(Invariance):
    """Compare a row computed alone with the same row inside batches: other sizes, slots and neighbours.

    For every relative of the subject (a causal model: its prompt cut to each of `lengths`, on both paths, since kernels
    change with the number of rows and long prompts pass vacuously), for every size: x0 among copies of itself in every
    slot, and among other inputs in the first and last slot. Rows: path, length, size, slot, neighbours, differing_bits,
    share, max_ulp, max_scaled_ulp, l2, bits_equal. UsageError for a size below 2. Cost: each relative two rows
    alone and 3 s in batches of size s.
    Source: He & Thinking Machines 2025 named the cause; sizes and lengths that expose it were measured.
    """

    sizes: tuple[int, ...] = (2, 3, 8)
    lengths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)

    place: ClassVar[tuple[str, ...]] = ("path", "length", "size", "slot", "neighbours")
    sides: ClassVar[tuple[str, str]] = ("alone", "in batch")
    noise: ClassVar[str] = "every row alone was computed twice with equal bits, so this is not run-to-run noise"
    causes: ClassVar[tuple[str, ...]] = (
        "a matrix kernel chosen by the number of rows",
        "a reduction whose order depends on the batch size",
        "attention split by the cache length",
    )

    def __post_init__(self) -> None:
        """Refuse sizes without company."""
        if not self.sizes or min(self.sizes) < 2:
            raise UsageError(f"sizes={self.sizes}: a batch that compares anything has at least 2 rows")
        check_lengths(self.lengths)

    def cost(self, subject: Subject) -> Cost:
        """Exact for a causal model; one relative otherwise."""
        return Cost(forwards=relatives(subject, self.lengths) * (2 + 3 * sum(self.sizes)))

    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the prompt at each length on each path."""
        return list(subject.relatives(self.lengths))

    def cases(self, subject: Subject) -> Iterator[Case]:
        """Yield x0 in every kind of company."""
        alone = repeated(subject, "batch")
        for size in self.sizes:
            for slot, neighbours, row in _in_company(subject, size):
                yield {**where(subject), "size": size, "slot": slot, "neighbours": neighbours}, difference(alone, row)

    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say in how many cases and shapes bits differ."""
        if not differing:
            return f"A row has the same bits alone and in company in all {len(cases)} cases."
        shapes = len({(row["path"], row["length"], row["size"]) for row, _ in differing})
        return (
            f"The same row has other bits in company than alone in {len(differing)} of {len(cases)} cases "
            f"({shapes} combinations of path, prompt length and batch size)."
        )

    def name(self, where: Mapping[str, Any]) -> str:
        """Return e.g. `y (decode of 3 tokens, batch 2, slot 0, among copies)`."""
        path = f"{where['path']} of {where['length']} tokens, " if where["path"] else ""
        return f"y ({path}batch {where['size']}, slot {where['slot']}, among {where['neighbours']})"


def relatives(subject: Subject, lengths: Sequence[int]) -> int:
    """Return how many relatives a subject yields: a causal model one a path and length, any other itself."""
    return len(getattr(subject, "paths", ())) * len(lengths) or 1


def _in_company(subject: Subject, size: int) -> Iterator[tuple[int, str, Tensor]]:
    """Yield (slot, neighbours, output row of x0) for one batch size."""
    rows = subject.evaluate(subject.copies(size))
    for slot in range(size):
        yield slot, "copies", rows[slot]
    for slot in (0, size - 1):
        X = subject.neighbours(size, seed=size)
        X[slot] = subject.x0
        yield slot, "others", subject.evaluate(X)[slot]


def _key(output: Tensor) -> bytes:
    return output.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
