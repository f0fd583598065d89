"""Do two recordings have the same bits, and if not: which token, which stage, how close was the call?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.numerics.statistics import wilson
from stabilitykit.numerics.survival import Survival, survival
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.traces.agreement import Agreement, agreement
from stabilitykit.traces.comparable import changed_environment, check_comparable
from stabilitykit.traces.comparison_rows import (
    Shared,
    bisections_of,
    environment_rows,
    kind_rows,
    operation_rows,
    prompt_rows,
    stage_rows,
)
from stabilitykit.traces.comparison_words import sentence
from stabilitykit.traces.recording import Recording

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class TraceComparison(Measurement[Recording]):
    """Compare a recording with `reference`, another recording of the same model, tokenizer and prompts.

    Free-running: each text follows its own tokens, and all steps up to and including the first differing token are
    compared, since until then both read the same. Teacher-forced (one side forced on the other's tokens): all steps.
    Bits are compared by digest, stage by stage in the order in which they run; the first that differs is where the two
    part. Recordings of different dtypes are two configurations: tokens and probabilities are compared, bits are not.
    Over all prompts: the share that diverged with Wilson's interval, and the Kaplan-Meier curve of the tokens that
    agree, in which texts that ended in agreement count as watched so far, also by kind of prompt.

    `distinct`: two recordings whose operators give equal bits (equal probes) are one device, so that agreement proves
    nothing: verdict `not-distinct` instead of `pass`. Readings about a divergence name its prompt, token, stage, module
    and, from operation logs, operation. A text that never diverged has its length as `divergence_index`, a bound.

    Rows (`part`): prompt (also in tables/divergence.csv), survival, kind, stage, operation (of the steps that both
    recorded them of), environment. Arrays: `map` (steps,
    stages) of the prompt that parts first, 1 where bits differ. IncomparableError with a table of what is not the same.
    No model runs. Source: the study's comparison, with ids for words, the step that decides for the one before it, and
    censored texts counted.
    """

    reference: Recording | None = None
    distinct: bool = False

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("divergence_index", "token", "higher", "earliest token, from 0, at which two texts part"),
        Metric("share_diverged", "share", "lower", "share of prompts whose texts part"),
        Metric("agreeing_tokens", "tokens", "higher", "tokens that agree, restricted mean of the survival curve"),
        Metric("differing_stages", "stages", "lower", "digests that differ, over all steps and prompts"),
        Metric("compared_stages", "stages", "neither", "digests that were compared"),
        Metric("first_step", "token", "higher", "earliest step with a differing digest"),
        Metric("argmax_disagreements", "tokens", "lower", "steps at which both would say different tokens"),
        Metric("margin_at_divergence", "logit", "neither", "largest margin by which a run chose where texts part"),
        Metric("margin_at_divergence_ulp", "ULP", "neither", "the same in ULP of the chosen logit"),
        Metric("explained_divergences", "share", "higher", "share of divergences at which the margins moved as far"),
        Metric("max_kl", "nat", "lower", "largest KL divergence of the next token, a lower bound"),
        Metric("min_overlap", "share", "higher", "smallest Jaccard index of the top lists"),
        Metric("prompts", "prompts", "neither", "prompts that were compared"),
        Metric("tokens", "tokens", "neither", "steps that were compared"),
    )
    needs: ClassVar[type[Measurable]] = Recording
    requires: ClassVar[Mapping[str, str]] = {"differing_stages": "<=0", "share_diverged": "<=0"}
    causes: ClassVar[tuple[str, ...]] = (
        "another processor, library or thread count that sums in another order",
        "elementwise functions (exp, SiLU, softmax) of another vector library",
        "weights at addresses of another alignment, which choose other matrix kernels",
        "a near-tie in a 16-bit dtype, which any of these decides",
    )

    def cost(self, subject: Recording) -> Cost:
        """Return nothing: no model runs."""
        return Cost()

    def parameters(self) -> dict[str, Any]:
        """Return what was compared with."""
        other = self._reference()
        return {"reference": other.folder or other.describe()["name"], "probe": other.probe, "distinct": self.distinct}

    @property
    def title(self) -> str:
        """The measurement as one would type it."""
        folder = self._reference().folder
        return f"TraceComparison(read_recording({folder!r}))" if folder else "TraceComparison(reference)"

    def find(self, subject: Recording) -> Finding:
        """Check that the two may be compared, then compare."""
        reference = self._reference()
        check_comparable(reference, subject)
        shared = Shared.of(reference, subject)
        forced = "forced" in (reference.mode, subject.mode)
        found = [
            agreement(a, b, shared.indices, forced=forced)
            for a, b in zip(reference.generations, subject.generations, strict=True)
        ]
        bisections = bisections_of(reference, subject)
        prompts = prompt_rows(found, shared, reference, subject, bisections)
        kept = survival([one.agreed for one in found], [one.divergence is not None for one in found])
        verdict = self._verdict(found, shared, reference, subject)
        environment = changed_environment(reference, subject)
        return Finding(
            self._values(found, prompts, kept),
            sentence(verdict, found, prompts, shared, reference, subject, environment),
            verdict=verdict,
            rows=(
                *prompts,
                *_survival_rows(kept),
                *kind_rows(found),
                *stage_rows(found, shared),
                *operation_rows(reference, bisections),
                *environment_rows(environment),
            ),
            arrays=_map(found),
            worst=_worst(prompts),
            about={"reference_probe": reference.probe, "missing_stages": shared.missing},
        )

    def _reference(self) -> Recording:
        if self.reference is None:
            raise UsageError("TraceComparison needs the recording to compare with: reference=read_recording(DIR)")
        return self.reference

    def _verdict(self, found: Sequence[Agreement], shared: Shared, a: Recording, b: Recording) -> str:
        if any(one.divergence is not None or one.flips.any() for one in found):
            return "differs"
        if shared.indices is None:
            return "measured"
        if shared.missing or any(one.first is not None for one in found):
            return "differs"
        return "not-distinct" if self.distinct and a.probe == b.probe else "pass"

    def _values(self, found: Sequence[Agreement], prompts: Sequence[Row], kept: Survival) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        parted = [one for one in found if one.divergence is not None]
        earliest = min(prompts, key=lambda row: (row["divergence_index"] is None, row["agreed"]))
        low, high = wilson(len(parted), len(found))
        values: dict[str, float | Reading] = {
            "divergence_index": Reading(schema["divergence_index"], earliest["agreed"], place=_place(earliest)),
            "share_diverged": Reading(schema["share_diverged"], len(parted) / len(found), low, high),
            "agreeing_tokens": kept.mean,
            "argmax_disagreements": int(sum(one.flips.sum() for one in found)),
            "max_kl": max((float(one.kl.max()) for one in found if one.steps), default=0.0),
            "min_overlap": min((float(one.overlap.min()) for one in found if one.steps), default=1.0),
            "prompts": len(found),
            "tokens": sum(one.steps for one in found),
        }
        if found[0].differs is not None:
            values["differing_stages"] = int(sum(one.differs.sum() for one in found if one.differs is not None))
            values["compared_stages"] = int(sum(one.differs.size for one in found if one.differs is not None))
            if some := [row for row in prompts if row["first_step"] is not None]:
                first = min(some, key=lambda row: (row["first_step"], row["number"]))
                values["first_step"] = Reading(schema["first_step"], first["first_step"], place=_place(first))
        if decided := [one for one in parted if one.divergence is not None and one.divergence < one.steps]:
            margins = [(one.margins[-1].max(), one.margins_ulp[-1].max()) for one in decided]
            values["margin_at_divergence"] = float(max(margin for margin, _ in margins))
            values["margin_at_divergence_ulp"] = float(max(ulps for _, ulps in margins))
            values["explained_divergences"] = sum(one.is_explained for one in decided) / len(decided)
        return values


def _place(row: Row) -> dict[str, str]:
    """Return the columns of results.csv that name a prompt's divergence and first difference."""
    named = {
        "prompt": row["prompt"],
        "token": row["divergence_index"],
        "stage": row["stage"],
        "module": row["module"],
        "layer": row["block"],
        "op": row["op"],
    }
    return {name: str(value) for name, value in named.items() if value not in (None, "")}


def _survival_rows(kept: Survival) -> list[Row]:
    return [
        {
            "part": "survival",
            "tokens": step,
            "share": float(kept.share[step]),
            "low": float(kept.low[step]),
            "high": float(kept.high[step]),
            "at_risk": int(kept.at_risk[step]),
        }
        for step in range(len(kept.share))
    ]


def _map(found: Sequence[Agreement]) -> dict[str, NDArray[Any]]:
    """Return where bits differ, of the prompt that parts first."""
    if found[0].differs is None:
        return {}
    first = min(found, key=lambda one: (one.first is None, one.first or (0, 0), one.agreed))
    return {"map": np.asarray(first.differs, dtype=np.uint8)}


def _worst(prompts: Sequence[Row]) -> Worst | None:
    parted = [row for row in prompts if row["divergence_index"] is not None and row["token"] is not None]
    if not parted:
        return None
    row = min(parted, key=lambda row: (row["divergence_index"], row["number"]))
    sides = [f"{row[word]!r} ({row[name]}) by {_logit(row[margin])}" for word, name, margin in _SIDES]
    return Worst(f"token {row['divergence_index']} of {row['prompt']!r}", "reference says", sides[0], "this", sides[1])


_SIDES = (("token", "token_id", "margin"), ("other_token", "other_token_id", "other_margin"))


def _logit(value: float) -> str:
    return "no logit" if value is None or math.isnan(value) else f"{value:.3g} logit"
