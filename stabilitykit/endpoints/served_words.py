"""What a reader is told about a server: the verdict, and the sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stabilitykit.endpoints.seeds import Seeds
from stabilitykit.endpoints.served import Served
from stabilitykit.numerics import statistics
from stabilitykit.results.result import Row

ONE_BY_ONE = 1.25
"""Below this gain in speed, requests at once were as good as computed one by one."""


def invalid(served: Served) -> str:
    """Return why nothing can be claimed, "" if something can."""
    if served.lost:
        return f"Broken off after {len(served.samples)} requests: the server {served.lost}."
    for level in served.levels:
        if served.compared(level) < 1:
            error = next((one.reply.error for one in served.at(level) if one.reply.error), "answered nothing")
            who = "Requests alone" if level == 1 else f"Requests {level} at once"
            return f"{who} have too few answers to compare: the server {error}."
    if len(served.models) > 1:
        names = ", ".join(repr(name) for name in sorted(served.models))
        return f"The answers name {len(served.models)} models ({names}), so they do not come from one."
    if not any(answer.text for answer in served.answers):
        return "Every completion is empty, so there is nothing to compare."
    return ""


def verdict(served: Served) -> str:
    """Return "invalid", "differs" or "measured"; a flip that was seen stays one, whatever was not asked after it."""
    if len(served.models) <= 1 and any(map(served.flipped, served.samples)):
        return "differs"
    return "invalid" if invalid(served) else "measured"


def sentence(served: Served, seeds: Seeds, levels: Sequence[Row], prompts: Sequence[Row], confidence: float) -> str:
    """Return the counts and what they prove, the first flip, the failures, the seed, and what the load was."""
    why = invalid(served)
    parts = [why, _counts(levels, confidence), _first(levels, prompts), _failed(levels), _logprobs(prompts)]
    parts += ["" if served.lost else seeds.sentence, "" if why else _load(levels), _fingerprints(served)]
    return " ".join(part for part in parts if part)


def _counts(levels: Sequence[Row], confidence: float) -> str:
    alone, loaded = ([row for row in levels if (row["concurrency"] == 1) == wanted] for wanted in (True, False))
    said = []
    for who, rows in (("alone", alone), ("under load", loaded)):
        flips, compared = (sum(row[column] for row in rows) for column in ("flips", "compared"))
        if compared > 0:
            said.append(f"{who} {statistics.sentence(flips, compared, confidence)}")
    return f"At temperature 0: {'; '.join(said)}." if said else ""


def _first(levels: Sequence[Row], prompts: Sequence[Row]) -> str:
    from_batch = min((row["concurrency"] for row in levels if row["flips"]), default=0)
    if not from_batch:
        return ""
    start = "Completions differ even alone" if from_batch == 1 else f"They differ from {from_batch} requests at once on"
    placed = [row for row in prompts if not math.isnan(row["first_differing_token"])]
    if not placed:
        return f"{start}."
    row = min(placed, key=lambda row: row["first_differing_token"])
    margin = row["margin_at_flip"]
    near = "" if math.isnan(margin) else f", where the margin alone is at most {margin:.2g} nat"
    return f"{start}; the earliest token is number {row['first_differing_token']:.0f} of {row['prompt']!r}{near}."


def _failed(levels: Sequence[Row]) -> str:
    failed, asked = (sum(row[column] for row in levels) for column in ("failed", "requests"))
    errors = "; ".join(f"{row['concurrency']} at once: {row['errors']}" for row in levels if row["errors"])
    return f"{failed} of {asked} requests have no answer ({errors})." if failed else ""


def _logprobs(prompts: Sequence[Row]) -> str:
    changes = [row["logprob_change"] for row in prompts if not math.isnan(row["logprob_change"])]
    if not changes:
        return "The server gives no logprobs, so margins are not known."
    if not max(changes):
        return "No logprob moved."
    return f"Logprobs of the same tokens moved by up to {max(changes):.2g} nat: the numbers behind the texts differ."


def _load(levels: Sequence[Row]) -> str:
    loaded = [row for row in levels if row["concurrency"] > 1]
    most, gain = max(row["under_way"] for row in loaded), max(row["speed_up"] for row in loaded)
    said = f"At most {most} requests were under way together, {gain:.2g} times as fast as one by one"
    if gain < ONE_BY_ONE:
        return f"{said}: no batching is to be seen, and nothing about batches is shown."
    return f"{said}; which of them the server batched, only it knows."


def _fingerprints(served: Served) -> str:
    count = len(served.fingerprints)
    return f"The answers carry {count} fingerprints: the server's configuration changed." if count > 1 else ""
