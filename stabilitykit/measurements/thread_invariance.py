"""Does an answer depend on the number of threads?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.determinism import relatives
from stabilitykit.measurements.invariance import Case, Invariance, check_lengths, repeated, where
from stabilitykit.numerics.differences import difference
from stabilitykit.subjects.noise import threads
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class ThreadInvariance(Invariance):
    """Compare the output computed with one number of threads with that of others, in this process.

    For every relative of the subject (a causal model: its prompt cut to each of `lengths`, on both paths): the ambient
    number of threads, the reference, against each of `counts` (None: 1, 2, 4, ... up to the cores this process may
    use). The number is put back afterwards. Other libraries read theirs when they start; a fresh process says more.
    Rows: path, length, threads, differing_bits, share, max_ulp, max_scaled_ulp, l2, bits_equal. UnsupportedError
    off the CPU and where only one number can be tried. Cost: each relative 2 forwards, and one for each other count.
    """

    counts: tuple[int, ...] | None = None
    lengths: tuple[int, ...] = (1, 2, 3, 5, 8, 13)

    place: ClassVar[tuple[str, ...]] = ("path", "length", "threads")
    sides: ClassVar[tuple[str, str]] = ("ambient", "other")
    causes: ClassVar[tuple[str, ...]] = (
        "a reduction that is split among the threads",
        "a matrix-vector kernel that shares its sum over rows by thread",
    )

    def __post_init__(self) -> None:
        """Refuse numbers of threads that are none."""
        check_lengths(self.lengths)
        if self.counts is not None and (not self.counts or min(self.counts) < 1):
            raise UsageError(f"counts={self.counts}: give numbers of threads from 1 up, or None")

    def cost(self, subject: Subject) -> Cost:
        """Exact."""
        return Cost(forwards=relatives(subject, self.lengths) * (2 + len(self.others())))

    def others(self) -> list[int]:
        """Return the numbers of threads that are not the ambient one, smallest first."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        counts = self.counts or [2**k for k in range(cores.bit_length())]
        return sorted({*counts} - {torch.get_num_threads()})

    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the prompt at each length on each path."""
        if subject.x0.device.type != "cpu":
            raise UnsupportedError(f"{subject.name} runs on {subject.x0.device.type}, where CPU threads change nothing")
        if not self.others():
            raise UnsupportedError(f"only {torch.get_num_threads()} thread can be tried here; name others in counts")
        return list(subject.relatives(self.lengths))

    def cases(self, subject: Subject) -> Iterator[Case]:
        """Yield every other number of threads."""
        alone = repeated(subject, "other thread")
        for count in self.others():
            with threads(count):
                output = subject.finite(subject.evaluate(subject.copies(1)))[0]
            yield {**where(subject), "threads": count}, difference(alone, output)

    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say in how many cases bits differ."""
        ambient, tried = torch.get_num_threads(), sorted({row["threads"] for row, _ in cases})
        against = f"{ambient} thread{'s'[: ambient > 1]} against {', '.join(map(str, tried))}"
        if not differing:
            return f"The output has the same bits in all {len(cases)} cases ({against})."
        return (
            f"The number of threads changes bits of the output in {len(differing)} of {len(cases)} cases ({against})."
        )

    def name(self, where: Mapping[str, Any]) -> str:
        """Return e.g. `y (decode of 3 tokens, 2 threads)`."""
        path = f"{where['path']} of {where['length']} tokens, " if where["path"] else ""
        return f"y ({path}{where['threads']} threads)"
