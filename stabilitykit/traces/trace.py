"""Does a generation come back, bit for bit, at every stage of every token? And: keep it, for another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.statistics import rate_bound
from stabilitykit.numerics.statistics import sentence as counted
from stabilitykit.prompts import GENERATION_PROMPTS, Prompt
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.traces.agreement import agreement
from stabilitykit.traces.recorded import Ask, recorded
from stabilitykit.traces.recording import Generation, Recording
from stabilitykit.traces.store import size, write_recording


@dataclass(frozen=True, eq=False)
class Trace(Measurement[LoadedModel]):
    """Record a greedy generation, `repeats` + 1 times, and compare every digest of every stage; see `record`.

    A recording is proved against a plain generation, with nothing that listens; the repetitions are then compared with
    it stage by stage, so that a difference has a place. `folder` keeps the recording for `stabilitykit compare`. Rows:
    a prompt each, with what was said and its smallest margin between the two largest logits. UsageError for prompts or
    counts that cannot be meant, InvalidError where a plain generation does not repeat itself. Cost: two rows a
    token for each time, and with `level="op"` the operations of `steps`. Source: the study's generation scripts, with
    token ids for words and a cache for the whole text again at each token.
    """

    prompts: Sequence[Prompt | str | Sequence[int]] = GENERATION_PROMPTS
    tokens: int = 96
    level: str = "module"
    states: str = "none"
    steps: tuple[int, ...] = (0,)
    repeats: int = 1
    folder: str = ""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("differing_runs", "runs", "lower", "repetitions with any other bit at any stage"),
        Metric("rate_bound", "share", "lower", "upper bound of their rate, at 95% confidence"),
        Metric("differing_stages", "stages", "lower", "digests that differ, over all repetitions"),
        Metric("compared_stages", "stages", "neither", "digests that were compared"),
        Metric("min_margin", "logit", "higher", "smallest difference between the two largest logits"),
        Metric("exact_ties", "tokens", "lower", "tokens whose largest logit several ids share"),
        Metric("tokens", "tokens", "neither", "tokens that were generated"),
        Metric("stages", "stages", "neither", "stages that each step was listened to at"),
        Metric("kilobytes", "kB", "lower", "size of the recording's files, where it was kept"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"differing_runs": "<=0"}
    causes: ClassVar[tuple[str, ...]] = (
        "kernels that add in the order in which threads finish (atomics)",
        "kernels that are tuned by timing when they first run",
        "a sampler where greedy decoding was meant",
    )

    def __post_init__(self) -> None:
        """Refuse what repeats nothing."""
        if self.repeats < 1:
            raise UsageError(f"repeats={self.repeats} compares nothing; give at least 1")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the most rows that it may take: texts that end early take fewer."""
        logs = sum(2 * (step + 1) for step in self.steps) if self.level == "op" else 0
        once = len(self.prompts) * (2 * self.tokens + logs) + 1
        return Cost(forwards=once * (1 + self.repeats))

    def find(self, subject: LoadedModel) -> Finding:
        """Record, keep, record again and compare."""
        ask = Ask(self.prompts, self.tokens, self.level, self.states, self.steps)
        first = recorded(subject, ask)
        if self.folder:
            write_recording(first, self.folder)
        differing, places = [], []
        with bar(self.repeats, "generations again", "run") as progress:
            for _ in range(self.repeats):
                count, place = _differing(first, recorded(subject, ask, again=True))
                differing.append(count)
                places += [place] if place else []
                progress.update()
        runs, sizes = sum(count > 0 for count in differing), sum(one.digests.size for one in first.generations) // 16
        rows = [_row(number, one, first) for number, one in enumerate(first.generations)]
        schema = {metric.name: metric for metric in self.metrics}
        closest = min(rows, key=lambda row: row["min_margin"])
        where = {"prompt": str(closest["prompt"]), "token": str(closest["min_margin_token"])}
        kept = {"kilobytes": size(self.folder) / 1000} if self.folder else {}
        return Finding(
            {
                "differing_runs": Reading(schema["differing_runs"], runs, place=places[0] if places else {}),
                "rate_bound": rate_bound(runs, self.repeats),
                "differing_stages": sum(differing),
                "compared_stages": sizes * self.repeats,
                "min_margin": Reading(schema["min_margin"], closest["min_margin"], place=where),
                "exact_ties": sum(row["exact_ties"] for row in rows),
                "tokens": sum(one.steps for one in first.generations),
                "stages": len(first.stages),
                **kept,
            },
            _sentence(runs, self.repeats, first, places, self.folder),
            verdict="differs" if runs else "pass",
            rows=tuple(rows),
            worst=Worst(f"stage {places[0]['stage']}", "first run", "one", "again", "another") if places else None,
            about={"probe": first.probe, "seconds": dict(first.seconds)},
        )


def _differing(a: Recording, b: Recording) -> tuple[int, dict[str, str]]:
    """Return how many digests differ between two recordings of one model here, and the first place."""
    every = list(range(len(a.stages)))
    count, place = 0, dict[str, str]()
    for one, other in zip(a.generations, b.generations, strict=True):
        found = agreement(one, other, (every, every), forced=False)
        if found.first and found.differs is not None:
            step, stage = found.first
            count += int(found.differs.sum())
            place = place or {"prompt": one.text or "", "token": str(step), "stage": a.stages[stage].name}
    return count, place


def _row(number: int, one: Generation, recording: Recording) -> dict[str, Any]:
    margins = one.margins
    token = int(margins.argmin())
    return {
        "part": "prompt",
        "prompt": one.text or f"ids {list(one.ids)}",
        "number": number,
        "kind": one.kind,
        "tokens": one.steps,
        "text": "".join(recording.word(int(token)) for token in one.tokens),
        "min_margin": float(margins[token]),
        "min_margin_token": token,
        "exact_ties": int(np.count_nonzero(margins == 0)),
    }


def _sentence(runs: int, repeats: int, first: Recording, places: Sequence[Mapping[str, str]], folder: str) -> str:
    tokens, stages = sum(one.steps for one in first.generations), len(first.stages)
    said = f"{tokens} tokens, {stages} stages each, were generated again: {counted(runs, repeats)}."
    if places:
        said += f" The first difference is at stage {places[0]['stage']} of step {places[0]['token']}."
    return f"{said} The recording is in {folder}." if folder else said
