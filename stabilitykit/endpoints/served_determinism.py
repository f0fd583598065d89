"""Does a server say the same again at temperature 0, alone and among other requests?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stabilitykit.endpoints.endpoint import Endpoint, Request
from stabilitykit.endpoints.load import Sample, gone, together, waves
from stabilitykit.endpoints.seeds import Seeds, ask_seeds
from stabilitykit.endpoints.served import Served
from stabilitykit.endpoints.served_rows import level_rows, prompt_rows, request_rows, text_rows
from stabilitykit.endpoints.served_words import sentence, verdict
from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.statistics import rate_bound
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Row, Worst
from stabilitykit.subjects.measurable import Measurable

_MOST = 512


@dataclass(frozen=True, eq=False)
class ServedDeterminism(Measurement[Endpoint]):
    """Completions at temperature 0, each prompt `repeats` times alone and at least so often under each load.

    `concurrency`: how many requests are sent at the same moment, each level in waves; the next wave starts when the
    last request of one is answered. The prompts take turns within a wave, so that a wave as a rule has several. The
    reference of a prompt is its most common completion alone. A *flip* is another completion than that: another text,
    other tokens, or another reason to stop. `flip_rate` = flips / answered requests under load, between its
    one-sided exact bounds at `confidence`; `flip_rate_alone` likewise, the reference itself left out.

    Where the server gives logprobs, the first token that differs, the reference's margin there (the two largest
    logprobs' difference, in nats) and the largest change of a logprob are exact as the server tells them; else the
    token is found by asking for fewer tokens. `seed` is tried at temperature 1 on the first prompt.

    Rows (`part`): level, prompt, request, text. A failed request is counted and never sent again; when the connection
    is lost the rest is not asked. The verdict is "differs" after a flip, else "invalid" if the connection was lost, a
    level had no answer or nothing was said, and always if the answers name several models. UsageError for what cannot
    be meant. Cost: see `cost`, and log2(tokens) requests for each prompt that flips on a server without logprobs.
    Source: SGLang's test_deterministic (unique outputs over trials), vLLM's test of a needle among other prompts, both
    without their retries.
    """

    prompts: Sequence[str] = ()
    tokens: int = 64
    repeats: int = 8
    concurrency: Sequence[int] = (2, 4, 8)
    seed: int = 0
    confidence: float = 0.95

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("unique_completions", "completions", "lower", "most different completions of one prompt, alone"),
        Metric("unique_under_load", "completions", "lower", "most different completions of one prompt, under load"),
        Metric("flip_rate_alone", "share", "lower", "requests alone that differ from the most common completion"),
        Metric("flip_rate", "share", "lower", "requests under load that differ from the completion alone"),
        Metric("flips_from_batch", "requests", "higher", "fewest requests at once among which one differs; inf: none"),
        Metric("first_differing_token", "token", "neither", "earliest token, from 0, at which a completion differs"),
        Metric("first_differing_character", "character", "neither", "earliest character, from 0, that differs"),
        Metric("margin_at_flip", "nat", "lower", "largest margin alone of a token that flipped"),
        Metric("min_margin", "nat", "higher", "smallest margin of a token alone: where a flip is to be expected"),
        Metric("logprob_change", "nat", "lower", "largest change of a logprob before completions part"),
        Metric("seed_honoured", "", "higher", "1: one seed draws the same again, 0: it does not"),
        Metric("seed_honoured_under_load", "", "higher", "1: it does so among other requests too, 0: it does not"),
        Metric(
            "speed_up", "", "neither", "largest gain of requests at once over one by one; 1: no batching to be seen"
        ),
        Metric("under_way", "requests", "neither", "most requests that waited for an answer at one moment"),
        Metric("requests", "requests", "neither", "requests that were sent at temperature 0"),
        Metric("failed", "requests", "lower", "of these, requests without an answer"),
        Metric("models", "models", "lower", "different models that the answers name"),
    )
    needs: ClassVar[type[Measurable]] = Endpoint
    causes: ClassVar[tuple[str, ...]] = (
        "kernels whose sums depend on the batch: the server's batch-invariant mode is off, or incomplete",
        "prefix caching or chunked prefill, which compute the same tokens in other shapes",
        "several replicas behind one address, on other devices or of other versions",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        if isinstance(self.prompts, str) or not self.prompts or not all(isinstance(p, str) and p for p in self.prompts):
            raise UsageError("prompts is a list of texts with at least one, none of them empty")
        if self.tokens < 1 or self.repeats < 2:
            raise UsageError(f"tokens={self.tokens}, repeats={self.repeats}: give at least 1 token and 2 repeats")
        levels = list(self.concurrency)
        if not levels or levels != sorted(set(levels)) or levels[0] < 2 or levels[-1] > _MOST:
            raise UsageError(f"concurrency {self.concurrency!r} is no ascending list of numbers from 2 to {_MOST}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must lie strictly between 0 and 1, not {self.confidence!r}")

    def cost(self, subject: Endpoint) -> Cost:
        """Return the requests: alone, under load, six about the seed with a wave of the largest level, and a first."""
        loaded = sum(level * len(waves(len(self.prompts), self.repeats, level)) for level in self.concurrency)
        return Cost(calls=1 + len(self.prompts) * self.repeats + loaded + 5 + self.concurrency[-1])

    def find(self, subject: Endpoint) -> Finding:
        """Ask alone, then under each load, then with seeds."""
        served = Served(self.prompts, self.concurrency, *self._samples(subject))
        seeds = (
            Seeds((), (), ())
            if served.lost
            else ask_seeds(subject, self.prompts[0], self.tokens, self.seed, self.concurrency[-1])
        )
        levels, prompts = level_rows(served, self.confidence), prompt_rows(served, subject)
        return Finding(
            self._values(served, seeds, levels, prompts),
            sentence(served, seeds, levels, prompts, self.confidence),
            verdict=verdict(served),
            rows=(*levels, *prompts, *request_rows(served), *text_rows(served)),
            worst=_worst(prompts),
            about={
                "models": sorted(served.models),
                "fingerprints": sorted(served.fingerprints),
                "logprobs": any(answer.tokens is not None for answer in served.answers),
            },
        )

    def _samples(self, endpoint: Endpoint) -> tuple[list[Sample], str]:
        """Return the samples of the plan, and why it was broken off, "" if it was not."""
        requests = [Request(prompt, self.tokens) for prompt in self.prompts]
        plan = [(1, wave) for wave in waves(len(requests), self.repeats, 1)]
        plan += [(level, wave) for level in self.concurrency for wave in waves(len(requests), self.repeats, level)]
        found: list[Sample] = []
        with bar(sum(len(wave) for _, wave in plan), "endpoint", "request") as progress:
            for number, (level, wave) in enumerate(plan):
                replies = together(endpoint, [requests[prompt] for prompt in wave])
                found += [Sample(prompt, level, number, reply) for prompt, reply in zip(wave, replies, strict=True)]
                progress.update(len(wave))
                if lost := gone(replies):
                    return found, lost
        return found, ""

    def _values(
        self, served: Served, seeds: Seeds, levels: Sequence[Row], prompts: Sequence[Row]
    ) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        flipped = [row["concurrency"] for row in levels if row["flips"]]
        values: dict[str, float | Reading] = {
            "flips_from_batch": min(flipped, default=math.inf),
            "seed_honoured": seeds.honoured,
            "seed_honoured_under_load": seeds.honoured_under_load,
            "speed_up": _largest(levels, "speed_up"),
            "under_way": _largest(levels, "under_way"),
            "requests": len(served.samples),
            "failed": sum(row["failed"] for row in levels),
            "models": len(served.models),
        }
        for name, alone in (("flip_rate_alone", True), ("flip_rate", False)):
            rows = [row for row in levels if (row["concurrency"] == 1) == alone]
            flips, trials = (sum(row[column] for row in rows) for column in ("flips", "compared"))
            values[name] = _rate(schema[name], flips, trials, self.confidence)
        picked = {
            "unique_completions": ("unique_alone", max),
            "unique_under_load": ("unique_under_load", max),
            "first_differing_token": ("first_differing_token", min),
            "first_differing_character": ("first_differing_character", min),
            "margin_at_flip": ("margin_at_flip", max),
            "min_margin": ("min_margin", min),
            "logprob_change": ("logprob_change", max),
        }
        for name, (column, choose) in picked.items():
            known = [(row[column], row["prompt"]) for row in prompts if not math.isnan(row[column])]
            value, prompt = choose(known, default=(math.nan, ""))
            values[name] = Reading(schema[name], value, place={"prompt": prompt} if known else {})
        return values


def _rate(metric: Metric, flips: int, trials: int, confidence: float) -> Reading:
    """Return the share with its two one-sided exact bounds; nan where too few answered."""
    if trials < 1:
        return Reading(metric, math.nan)
    low, high = 1 - rate_bound(trials - flips, trials, confidence), rate_bound(flips, trials, confidence)
    return Reading(metric, flips / trials, low, high)


def _largest(rows: Sequence[Row], column: str) -> float:
    return max((row[column] for row in rows if not math.isnan(row[column])), default=math.nan)


def _worst(prompts: Sequence[Row]) -> Worst | None:
    flipped = [row for row in prompts if not math.isnan(row["first_differing_character"]) or row["flips"]]
    if not flipped:
        return None
    row = min(flipped, key=lambda row: (-row["flips"], row["number"]))
    place = f"token {row['first_differing_token']:.0f}" if row["first_differing_token"] >= 0 else "some token"
    return Worst(f"{place} of {row['prompt']!r}", "alone", repr(row["goes_on"]), "else", repr(row["goes_on_else"]))
