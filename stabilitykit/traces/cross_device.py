"""Does this model say the same, and with the same bits, on another device?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.prompts import GENERATION_PROMPTS, Prompt
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.traces.compare import TraceComparison
from stabilitykit.traces.drift import Drift
from stabilitykit.traces.elsewhere import setting_named
from stabilitykit.traces.record import record
from stabilitykit.traces.recorded import Ask, recorded, recorded_elsewhere
from stabilitykit.traces.recording import Generation, Recording


@dataclass(frozen=True, eq=False)
class CrossDevice(Measurement[LoadedModel]):
    """Record here and on another device, and compare; readings, rows and verdicts are those of `TraceComparison`.

    The other device is `against`, a recording that was made on it (then its prompts are continued, as many tokens as
    it has), or else a fresh process on this machine under `setting`: one of `CPU_SETTINGS`, whose kernels are really
    other ones, or `cuda:N`. `forced`: the other device reads our tokens, so that every step of both is about the same
    input, also after a first flip. Two settings whose operators give the same bits are one device: `not-distinct`.
    UnsupportedError if the process dies, TimedOutError if it does not answer, IncomparableError for a recording of
    something else. Cost: two rows a token on either side; the process also loads the model.
    """

    setting: str = "cpu-ref"
    prompts: Sequence[Prompt | str | Sequence[int]] = GENERATION_PROMPTS
    tokens: int = 96
    level: str = "module"
    forced: bool = False
    against: Recording | None = None

    metrics: ClassVar[tuple[Metric, ...]] = TraceComparison.metrics
    needs: ClassVar[type[Measurable]] = LoadedModel
    requires: ClassVar[Mapping[str, str]] = TraceComparison.requires
    causes: ClassVar[tuple[str, ...]] = TraceComparison.causes

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the most rows that both sides may take: texts that end early take fewer."""
        if self.against is not None:
            return Cost(forwards=sum(2 * one.steps for one in self.against.generations) + 1)
        return Cost(forwards=2 * (len(self.prompts) * 2 * self.tokens + 1))

    def parameters(self) -> dict[str, Any]:
        """Return the fields; of a recording, where it lies."""
        kept = {name: value for name, value in super().parameters().items() if name != "against"}
        return {**kept, "against": None if self.against is None else self.against.folder}

    def find(self, subject: LoadedModel) -> Finding:
        """Record on both sides, and compare."""
        reference, other = self.recordings(subject)
        return TraceComparison(reference, distinct=True).find(other)

    def recordings(self, subject: LoadedModel, states: str = "none") -> tuple[Recording, Recording]:
        """Return the recording to compare with and the other: that of `against` and ours, or ours and the device's."""
        if self.against is not None:
            return self.against, _like(subject, self.against, self.forced, states)
        ask = Ask(self.prompts, self.tokens, self.level, states)
        here, setting = recorded(subject, ask), setting_named(self.setting)
        there = recorded_elsewhere(subject, setting, ask)
        if not self.forced:
            return here, there
        if all(_same_text(*pair) for pair in zip(here.generations, there.generations, strict=True)):
            return here, replace(there, mode="forced")  # it has read our tokens already: they were its own
        return here, recorded_elsewhere(subject, setting, ask, here)


@dataclass(frozen=True, eq=False)
class CrossDrift(CrossDevice):
    """How far are the states on another device, and where do the two come to prefer other tokens?

    As `CrossDevice`, with the vectors of every stage; readings and rows are those of `Drift`. UnsupportedError for an
    `against` that keeps none. Memory: the vectors of all stages of all tokens, 1.6 MB a token for SmolLM2.
    """

    prompts: Sequence[Prompt | str | Sequence[int]] = GENERATION_PROMPTS[:1]
    tokens: int = 48

    metrics: ClassVar[tuple[Metric, ...]] = Drift.metrics
    requires: ClassVar[Mapping[str, str]] = Drift.requires
    causes: ClassVar[tuple[str, ...]] = Drift.causes

    def find(self, subject: LoadedModel) -> Finding:
        """Record on both sides, vectors too, and measure how far they are apart."""
        if self.against is not None and not any(one.states for one in self.against.generations):
            raise UnsupportedError(
                f"the recording in {self.against.folder} keeps digests only; record it with --record-states all"
            )
        reference, other = self.recordings(subject, "all")
        return Drift(reference, subject).find(other)


def _same_text(one: Generation, other: Generation) -> bool:
    return bool(np.array_equal(one.tokens, other.tokens))


def _like(subject: LoadedModel, other: Recording, forced: bool, states: str) -> Recording:
    """Return a recording here of what another one is of."""
    tokens = max(one.steps for one in other.generations)
    forced = forced or other.mode == "forced"
    return record(subject, other, max(tokens, 1), level=other.level, states=states, forced=forced)
