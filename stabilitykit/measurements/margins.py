"""Which tokens of a text hang by a thread, and how likely another device says something else?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.measurements.advice import advise, percent
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.decisions import Decisions, decide
from stabilitykit.measurements.margin_rows import Row, prompt_rows, token_rows, way_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.forecast import Forecast, Prior, any_of, forecast, pooled
from stabilitykit.numerics.rounding import Floats
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.generation import Text, Way, widened
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel

Prompt = str | Sequence[int]

WAYS = (
    Way("decode", 2),
    Way("prefill"),
    Way("prefill", 2),
    Way("prefill", 8),
    Way("prefill", chunk=16),
    Way("prefill", chunk=3),
    Way("prefill", attention="math"),
    Way("prefill", attention="eager"),
    Way("prefill", threads=1),
)
"""Batch shapes, paths, attention kernels and threads that any process has at hand; some may give the same bits."""


@dataclass(frozen=True, eq=False)
class Margins(Measurement[LoadedModel]):
    """Generate up to `tokens` tokens of each prompt greedily, and forecast which of them another device changes.

    The reference decodes with a cache, batch 1, ambient kernels; of equal largest logits the lowest id is taken. Each
    of `ways` then computes the same tokens again (teacher forcing: one question at every token, also after a flip). At
    token t the margin over rival r is m = z_t - z_r, exact, in logits; its noise is how it differs between
    ways with different bits, pooled over all tokens; `numerics.forecast` states the model and its assumptions. The
    chance that another device takes another token is 1 - prod (1 - p_r) over the `rivals` next candidates, and that it
    changes the text 1 - prod over tokens: events taken for independent. Bounds are one-sided, at `confidence`, and add
    up those of the tokens as if all were at theirs. A flip that a way showed is a fact, and counted as such.

    The assumption that matters: another device is one more draw of the noise that these ways show. Rounding that is
    re-rolled is; another dtype, quantisation or a wrong kernel is not. Where no way changes a bit nothing is forecast.

    `wide` adds a float32 copy of the model: what it says of the same tokens, no device. Rows (`part`): prompt, ranked
    by forecast; token; way; advice. Arrays, over all tokens N: `margins` (ways + 1, N, rivals), `argmax` (ways + 1, N),
    `tokens`, `prompt`, `forecast`, `high`, `noise`. UsageError for prompts or counts that cannot be meant. Cost: one
    forward a token and `Way.rows` for each way; less where a text ends early. Source: margins that expose batch flips,
    MarginGate (arXiv 2605.30218); variances pooled as by Smyth 2004.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 64
    ways: Sequence[Way] = WAYS
    rivals: int = 3
    at_risk: float = 0.05
    wide: bool = False
    confidence: float = 0.95

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("min_margin_over_noise", "noise", "higher", "smallest top-two margin over its own noise"),
        Metric("expected_flips", "tokens", "lower", "tokens that another device is expected to change, of all prompts"),
        Metric("prompts_at_risk", "prompts", "lower", "prompts whose text another device changes too likely, or did"),
        Metric("flips_seen", "tokens", "lower", "tokens that some way of computing changed in this process"),
        Metric("exact_ties", "tokens", "lower", "tokens whose largest logit several ids share"),
        Metric("max_flip_probability", "probability", "lower", "chance that another device changes the riskiest token"),
        Metric("max_prompt_risk", "probability", "lower", "chance that it changes the riskiest prompt's text"),
        Metric("min_margin", "logit", "higher", "smallest difference between the two largest logits"),
        Metric("min_margin_ulp", "ULP", "higher", "the same in ULP of the largest logit"),
        Metric("expected_with_exact_head", "tokens", "lower", "flips expected with the head alone in a wide dtype"),
        Metric("noise", "logit", "lower", "root mean square of the margins' noise, pooled over all tokens"),
        Metric("noise_freedom", "devices", "neither", "weight of that pool beside a token's own ways"),
        Metric("wide_flips", "tokens", "lower", "tokens that a float32 copy of the model would not take"),
        Metric("prompts", "prompts", "neither", "prompts that were continued"),
        Metric("tokens", "tokens", "neither", "tokens that were generated"),
        Metric("ways", "ways", "neither", "ways of computing them, the reference included"),
        Metric("distinct_ways", "ways", "neither", "different bits that these gave, in the text where they were most"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "logits in a 16-bit dtype, whose grid makes exact ties",
        "a prompt that leaves open what comes next",
        "a batch shape, cache path or attention kernel that changes from run to run",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        if isinstance(self.prompts, str) or not self.prompts:
            raise UsageError("prompts is a list of texts or of lists of token ids, with at least one")
        for name, least in (("tokens", 1), ("rivals", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)} is too few; give at least {least}")
        for name in ("at_risk", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must lie strictly between 0 and 1, not {getattr(self, name)!r}")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the most rows that it may take: texts that end early take fewer, and so do ways a model lacks."""
        rows = 0
        for prompt in self.prompts:
            text = isinstance(prompt, str) and subject.tokenizer is not None
            length = len(subject.tokenizer(prompt).input_ids if text and subject.tokenizer else prompt)
            rows += self.tokens + sum(way.rows(length, self.tokens) for way in self.ways) + self.wide
        return Cost(forwards=rows)

    def find(self, subject: LoadedModel) -> Finding:
        """Generate, compute again, pool the noise, forecast."""
        anatomy = find(subject.model)
        texts = [Text(subject, prompt, self.tokens, anatomy) for prompt in self.prompts]
        ways = texts[0].ways(self.ways)
        wide = widened(subject.model) if self.wide else None
        decisions = []
        with bar(len(texts), "margins", "prompt") as progress:
            for text in texts:
                decisions.append(decide(text, ways, self.rivals, wide))
                progress.update()
        return self.judged(subject, decisions)

    def judged(self, subject: LoadedModel, decisions: Sequence[Decisions]) -> Finding:
        """Return the finding from what was decided at each token."""
        prior = pooled([_flat(one, one.margins) for one in decisions])
        forecasts = [self._forecast(one, prior) for one in decisions]
        labels = [prompt if isinstance(prompt, str) else f"ids {list(prompt)}" for prompt in self.prompts]
        tokens = token_rows(subject, labels, decisions, forecasts)
        prompts = prompt_rows(subject, labels, decisions, tokens, self.at_risk)
        ways = way_rows(decisions)
        exact_head = self._with_exact_head(decisions)
        return Finding(
            {**self._values(prompts, tokens, prior, decisions), "expected_with_exact_head": exact_head},
            _sentence(prompts, tokens, self.at_risk),
            verdict="differs" if any(row["seen"] for row in tokens) else "measured",
            rows=(
                *prompts,
                *tokens,
                *ways,
                *advise(prompts, tokens, ways, self.at_risk, exact_head),
            ),
            arrays=_arrays(decisions, forecasts),
            worst=_worst(tokens),
            noise=f"{prior.scale:.3g} logit, pooled over {len(tokens)} tokens computed in {len(ways)} ways",
            about={"ways": [row["way"] for row in ways]},
        )

    def _forecast(self, one: Decisions, prior: Prior) -> Forecast:
        """Return the forecast of a text's tokens, (T,): the first rival's noise, and the chances of any rival."""
        shape = one.rival_first.shape
        spacing = np.broadcast_to(one.spacing[:, None], shape)
        found = forecast(_flat(one, one.margins), spacing.ravel(), one.rival_first.ravel(), prior, self.confidence)
        any_rival = [any_of(getattr(found, name).reshape(shape)) for name in ("probability", "low", "high")]
        return Forecast(found.noise.reshape(shape)[:, 0], *any_rival)

    def _with_exact_head(self, decisions: Sequence[Decisions]) -> float:
        """Return the flips expected if the head alone were exact: the states are as they are, the logits' grid is none.

        nan where a head is no matrix.
        """
        groups = [_flat(one, one.head_margins) for one in decisions if one.head_margins is not None]
        if len(groups) < len(decisions):
            return math.nan
        prior, expected = pooled(groups), 0.0
        for one, margins in zip(decisions, groups, strict=True):
            nothing = np.zeros(margins.shape[1])
            found = forecast(margins, nothing, nothing.astype(bool), prior, self.confidence)
            expected += float(any_of(found.probability.reshape(one.rival_first.shape)).sum())
        return expected

    def _values(
        self, prompts: Sequence[Row], tokens: Sequence[Row], prior: Prior, decisions: Sequence[Decisions]
    ) -> dict[str, float | Reading]:
        sums = {name: math.fsum(row[name] for row in tokens) for name in ("forecast", "low", "high")}
        schema = {metric.name: metric for metric in self.metrics}
        wide = [row["wide_token_id"] != row["token_id"] for row in tokens if row["wide_token_id"] is not None]
        values: dict[str, float | Reading] = {
            "expected_flips": Reading(schema["expected_flips"], sums["forecast"], sums["low"], sums["high"]),
            "prompts_at_risk": sum(row["at_risk"] for row in prompts),
            "flips_seen": sum(row["seen"] > 0 for row in tokens),
            "exact_ties": sum(row["tied"] > 1 for row in tokens),
            "noise": prior.scale,
            "noise_freedom": prior.freedom,
            "wide_flips": sum(wide) if self.wide else math.nan,
            "prompts": len(prompts),
            "tokens": len(tokens),
            "ways": len(decisions[0].bits),
            "distinct_ways": max(len(one.distinct) for one in decisions),
        }
        for column in ("margin_over_noise", "margin", "margin_ulp"):
            row = min(tokens, key=itemgetter(column))
            values[f"min_{column}"] = Reading(schema[f"min_{column}"], row[column], place=_place(row))
        riskiest = {"max_flip_probability": max(tokens, key=itemgetter("forecast")), "max_prompt_risk": prompts[0]}
        for name, row in riskiest.items():
            values[name] = Reading(schema[name], row["forecast"], row["low"], row["high"], _place(row))
        return values


def _flat(one: Decisions, margins: Floats) -> Floats:
    """Return the margins (W + 1, T, R) of ways with different bits, (n, T * R)."""
    return margins[one.distinct].reshape(len(one.distinct), -1)


def _place(row: Row) -> dict[str, str]:
    where = {"token": str(row["position"])} if "position" in row else {}
    return {"prompt": str(row["prompt"]), **where}


def _worst(tokens: Sequence[Row]) -> Worst:
    row = max(tokens, key=lambda row: (row["forecast"], row["seen"]))
    where = f"token {row['position']} of {row['prompt']!r}"
    sides = (f"{row[name]!r} ({row[f'{name}_id']})" for name in ("token", "rival"))
    taken, rival = sides
    return Worst(where, "takes", taken, f"{row['margin']:.3g} logit before", rival)


def _arrays(decisions: Sequence[Decisions], forecasts: Sequence[Forecast]) -> dict[str, NDArray[Any]]:
    lengths = [len(one.tokens) for one in decisions]
    return {
        "margins": np.concatenate([one.margins for one in decisions], axis=1),
        "argmax": np.concatenate([one.argmax for one in decisions], axis=1),
        "tokens": np.concatenate([one.tokens for one in decisions]),
        "prompt": np.repeat(np.arange(len(decisions)), lengths),
        "forecast": np.concatenate([one.probability for one in forecasts]),
        "high": np.concatenate([one.high for one in forecasts]),
        "noise": np.concatenate([one.noise for one in forecasts]),
    }


def _sentence(prompts: Sequence[Row], tokens: Sequence[Row], at_risk: float) -> str:
    risky = [row for row in prompts if row["at_risk"]]
    expected = math.fsum(row["forecast"] for row in tokens)
    seen = sum(row["seen"] > 0 for row in tokens)
    ties = sum(row["tied"] > 1 for row in tokens)
    first = prompts[0]
    some = f"{expected:.2g}" if expected >= 0.001 else "none"
    said = (
        f"Another device is expected to change {some} of {len(tokens)} tokens: {len(risky)} of {len(prompts)} prompts "
        f"are more likely than {percent(at_risk)} to say something else, or have done so; "
    )
    facts = f"here {seen} tokens flipped and {ties} are exact ties."
    worst = f" The riskiest prompt is {first['prompt']!r}, at {percent(first['forecast'])}." if risky else ""
    return f"{said}{facts}{worst}"
