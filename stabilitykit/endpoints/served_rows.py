"""Rows about a server: one a level, prompt, request and distinct text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from stabilitykit.endpoints.answer import Answer, first_character, first_token, logprob_change
from stabilitykit.endpoints.endpoint import Endpoint
from stabilitykit.endpoints.load import Sample, under_way
from stabilitykit.endpoints.places import token_of
from stabilitykit.endpoints.served import Served
from stabilitykit.numerics.statistics import rate_bound
from stabilitykit.results.result import Row

_SHOWN = 60


def level_rows(served: Served, confidence: float) -> list[Row]:
    """Return a row for alone and for each level of load; a level that was not reached has no requests."""
    alone = [one.reply.end - one.reply.start for one in served.at(1) if one.reply.answer is not None]
    return [_level(served, level, fmean(alone) if alone else math.nan, confidence) for level in served.levels]


def _level(served: Served, level: int, alone: float, confidence: float) -> Row:
    samples = served.at(level)
    waves = [[one.reply for one in samples if one.wave == wave] for wave in dict.fromkeys(s.wave for s in samples)]
    flips, compared = sum(map(served.flipped, samples)), served.compared(level)
    seconds = sum(max(one.end for one in wave) - min(one.start for one in wave) for wave in waves)
    answered = sum(one.reply.answer is not None for one in samples)
    errors = Counter(one.reply.error for one in samples if one.reply.error)
    return {
        "part": "level",
        "concurrency": level,
        "requests": len(samples),
        "failed": len(samples) - answered,
        "compared": compared,
        "flips": flips,
        "rate": flips / compared if compared > 0 else math.nan,
        "rate_bound": rate_bound(flips, compared, confidence) if compared > 0 else math.nan,
        "unique": max(map(_unique, _by_prompt(samples)), default=0),
        "under_way": max(map(under_way, waves), default=0),
        "speed_up": alone * answered / seconds if seconds > 0 else math.nan,
        "seconds": seconds,
        "errors": "; ".join(f"{count} x {error}" for error, count in errors.items()),
    }


def prompt_rows(served: Served, endpoint: Endpoint) -> list[Row]:
    """Return a row a prompt; on a server without logprobs the token is asked for, by requests of fewer tokens."""
    return [_prompt(served, endpoint, number) for number in range(len(served.prompts))]


def _prompt(served: Served, endpoint: Endpoint, number: int) -> Row:
    reference = served.references.get(number)
    samples = [*served.of(number, alone=True), *served.of(number, alone=False)]
    flips = [sample for sample in samples if served.flipped(sample)]
    row: dict[str, object] = {
        "part": "prompt",
        "number": number,
        "prompt": served.prompts[number],
        "unique_alone": _unique(served.of(number, alone=True)),
        "unique_under_load": _unique(served.of(number, alone=False)),
        "flips": len(flips),
        "flips_from_batch": min((sample.level for sample in flips), default=math.inf),
        "min_margin": _least(reference.margins if reference else ()),
        "logprob_change": max(_known(_change(reference, sample) for sample in samples), default=math.nan),
    }
    return {**row, **_earliest(served, endpoint, number, flips)}


def _earliest(served: Served, endpoint: Endpoint, number: int, flips: Sequence[Sample]) -> Row:
    """Return where the reference and a flipped completion part first, and how both go on from there."""
    nothing = {"first_differing_token": math.nan, "first_differing_character": math.nan, "margin_at_flip": math.nan}
    reference = served.references.get(number)
    if reference is None or not flips:
        return {**nothing, "goes_on": "", "goes_on_else": ""}
    places = [_place(reference, flip) for flip in flips]
    tokens, characters = ([place[name] for place in places] for name in ("token", "character"))
    character, token = _least(characters), _least(tokens)
    first = places.index(min(places, key=lambda place: _or_inf(place["token"], place["character"])))
    if math.isnan(token) and not math.isnan(character) and not served.lost:
        token = token_of(endpoint, flips[0].reply.request, reference.text, int(character))
    other, cut = flips[first].reply.answer, places[first]["character"]
    start = 0 if math.isnan(cut) else int(cut)
    return {
        "first_differing_token": token,
        "first_differing_character": character,
        "margin_at_flip": max(_known(place["margin"] for place in places), default=math.nan),
        "goes_on": reference.text[start : start + _SHOWN],
        "goes_on_else": other.text[start : start + _SHOWN] if other else "",
    }


def request_rows(served: Served) -> list[Row]:
    """Return a row a request at temperature 0, in the order they were sent; `text` is the number of its text."""
    texts = {key: row["text"] for key, row in _texts(served).items()}
    begun = min((sample.reply.start for sample in served.samples), default=0.0)
    rows: list[Row] = []
    for sample in served.samples:
        reply = sample.reply
        answer, reference = reply.answer, served.references.get(sample.prompt)
        rows.append(
            {
                "part": "request",
                "concurrency": sample.level,
                "wave": sample.wave,
                "number": sample.prompt,
                "differs": served.flipped(sample),
                "text": texts[sample.prompt, answer.said] if answer else -1,
                "finish": answer.finish if answer else "",
                "model": answer.model if answer else "",
                "fingerprint": answer.fingerprint if answer else "",
                "error": reply.error,
                "sent": reply.start - begun,
                "seconds": reply.end - reply.start,
                "logprob_change": _change(reference, sample),
                **{f"differing_{name}": value for name, value in _place(reference, sample).items()},
            }
        )
    return rows


def text_rows(served: Served) -> Sequence[Row]:
    """Return a row for each distinct completion of each prompt, with how often it was given alone and under load."""
    return tuple(_texts(served).values())


def _texts(served: Served) -> dict[tuple[int, object], dict[str, Any]]:
    rows: dict[tuple[int, object], dict[str, Any]] = {}
    for sample in served.samples:
        if (answer := sample.reply.answer) is None:
            continue
        fresh = {"part": "text", "number": sample.prompt, "text": len(rows), "alone": 0, "under_load": 0}
        row = rows.setdefault((sample.prompt, answer.said), {**fresh, "completion": answer.text})
        kind = "alone" if sample.level == 1 else "under_load"
        row[kind] += 1
    return rows


def _place(reference: Answer | None, sample: Sample) -> dict[str, float]:
    """Return the token and character at which a completion leaves the reference, and the margin of that token."""
    answer = sample.reply.answer
    if reference is None or answer is None:
        return {"token": math.nan, "character": math.nan, "margin": math.nan}
    token = first_token(reference, answer)
    within = not math.isnan(token) and token < len(reference.margins)
    return {
        "token": token,
        "character": first_character(reference, answer),
        "margin": reference.margins[int(token)] if within else math.nan,
    }


def _change(reference: Answer | None, sample: Sample) -> float:
    answer = sample.reply.answer
    return math.nan if reference is None or answer is None else logprob_change(reference, answer)


def _by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    return [[one for one in samples if one.prompt == prompt] for prompt in {sample.prompt for sample in samples}]


def _unique(samples: Sequence[Sample]) -> int:
    return len({one.reply.answer.said for one in samples if one.reply.answer is not None})


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _least(values: Iterable[float]) -> float:
    return min(_known(values), default=math.nan)


def _or_inf(*values: float) -> tuple[float, ...]:
    return tuple(math.inf if math.isnan(value) else value for value in values)
