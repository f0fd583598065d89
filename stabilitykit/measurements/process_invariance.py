"""Does a fresh process give the same bits?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.determinism import relatives
from stabilitykit.measurements.invariance import Case, Invariance, check_lengths, repeated, where
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.differences import difference
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import changes, environment
from stabilitykit.subjects.launch import shown
from stabilitykit.subjects.replica import in_fresh_process
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class ProcessInvariance(Invariance):
    """Compare outputs computed here with those of fresh processes that load the model again.

    For every relative of the subject (its prompt cut to each of `lengths`, on both paths), alone in its batch:
    `processes` new Python processes load the same weights, proved by digest, with the same number of threads, and
    answer. Memory addresses, import order and what else this process has run are other ones there. `environ` adds
    variables to them, such as `{"ATEN_CPU_CAPABILITY": "default"}`: then it is another device that answers, and the
    column `changed` says which fields of the numeric environment differ. Rows: process, path, length, changed,
    differing_bits, share, max_ulp, max_scaled_ulp, l2, bits_equal. UnsupportedError for what no other process can load,
    and where one dies. Cost: each relative 2 forwards and one a process, which also loads the model.
    Source: the study ran one script twice and compared files; what two processes share was not recorded.
    """

    processes: int = 2
    lengths: tuple[int, ...] = (1, 3, 8)
    environ: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0

    place: ClassVar[tuple[str, ...]] = ("process", "path", "length")
    sides: ClassVar[tuple[str, str]] = ("here", "there")
    draws: ClassVar[str] = "processes"
    causes: ClassVar[tuple[str, ...]] = (
        "weights or inputs at addresses of another alignment, which choose other vector kernels",
        "a setting of this process (threads, precision flags, attention kernel) that a fresh one does not have",
        "kernels that are tuned or compiled when a process starts",
    )

    def __post_init__(self) -> None:
        """Refuse what compares nothing."""
        check_lengths(self.lengths)
        if self.processes < 1:
            raise UsageError(f"processes={self.processes} compares nothing; give at least 1")

    def cost(self, subject: Subject) -> Cost:
        """Exact; what loading takes is not counted."""
        return Cost(forwards=relatives(subject, self.lengths) * (2 + self.processes))

    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the prompt at each length on each path."""
        if not isinstance(subject, CausalLMSubject):
            raise UnsupportedError(f"{subject.name} is no language model, so no other process can load it")
        return list(subject.relatives(self.lengths))

    def compared(self, variants: Sequence[Subject]) -> list[Case]:
        """Ask every process for all variants: each loads the model once."""
        asked = [one for one in variants if isinstance(one, CausalLMSubject)]
        here = [repeated(one, "other process") for one in asked]
        ours, cases = environment(asked[0].loaded), []
        with bar(self.processes, "fresh processes", "process") as progress:
            for process in range(1, self.processes + 1):
                replica = in_fresh_process(asked, self.environ, self.timeout)
                changed = _changed(ours, replica.environment)
                for one, left, right in zip(asked, here, replica.outputs, strict=True):
                    row = {"process": process, **where(one), "changed": changed}
                    cases.append((row, difference(left.cpu(), right)))
                progress.update()
        return cases

    def counted(self, cases: Sequence[Case]) -> tuple[int, int]:
        """Return how many processes differ anywhere: the cases of one of them are not independent."""
        return len({row["process"] for row, one in cases if not one.identical}), self.processes

    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say in how many cases bits differ, and what is known to be different there."""
        there = f"{self.processes} fresh process{'es'[: 2 * (self.processes > 1)]}"
        there += f" under {shown(self.environ)}" if self.environ else ""
        changed = next((row["changed"] for row, _ in cases if row["changed"]), "")
        known = f" Fields of the numeric environment that differ: {changed}." if changed else ""
        if not differing:
            return f"{there[0].upper()}{there[1:]} gave the same bits in all {len(cases)} cases.{known}"
        return f"In {there} {len(differing)} of {len(cases)} outputs have other bits.{known}"

    def name(self, where: Mapping[str, Any]) -> str:
        """Return e.g. `y (decode of 3 tokens, process 1)`."""
        return f"y ({where['path']} of {where['length']} tokens, process {where['process']})"


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return the fields that decide bits and differ, as `cpu_capability: AVX2 -> DEFAULT`."""
    return "; ".join(f"{name}: {left} -> {right}" for name, left, right in changes(ours, theirs, ("identity",)))
