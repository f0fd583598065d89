"""What to do about texts that hang by a thread, each with the numbers that speak for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_NAMED = 3


def advise(
    prompts: Sequence[Row], tokens: Sequence[Row], ways: Sequence[Row], at_risk: float, exact_head: float
) -> list[Row]:
    """Return a row an advice, in order of use; `kind` names it, `advice` is a sentence or two.

    `exact_head`: the flips expected with the head in a wide dtype, nan if unknown. None where no prompt is at risk.
    """
    if not any(row["at_risk"] for row in prompts):
        return []
    said = [*_robust(prompts), *_cut(prompts, at_risk), *_pin(ways), *_wide(tokens), *_ties(tokens, exact_head)]
    return [{"part": "advice", "kind": kind, "advice": sentence} for kind, sentence in said]


def _robust(prompts: Sequence[Row]) -> Iterator[tuple[str, str]]:
    safe = [row for row in reversed(prompts) if not row["at_risk"]]
    if safe:
        named = ", ".join(repr(row["prompt"]) for row in safe[:_NAMED])
        most = max(row["high"] for row in safe[:_NAMED])
        yield (
            "robust prompts",
            f"Of {len(prompts)} prompts {len(safe)} are not at risk; the safest, at most {percent(most)}: {named}.",
        )


def _cut(prompts: Sequence[Row], at_risk: float) -> Iterator[tuple[str, str]]:
    risky = [row for row in prompts if row["at_risk"]]
    for row in [row for row in risky if row["keep"]][:_NAMED]:
        yield (
            "cut",
            f"Compare only the first {row['keep']} of {row['tokens']} tokens of {row['prompt']!r}: the risk falls from "
            f"{percent(row['forecast'])} to {percent(row['kept_risk'])}.",
        )
    if hopeless := sum(not row["keep"] for row in risky):
        yield "replace", f"{hopeless} prompts are above {percent(at_risk)} at their first token; no cut helps them."


def _pin(ways: Sequence[Row]) -> Iterator[tuple[str, str]]:
    own = [row for row in ways if row["bits_of"] == row["way"]]
    flipping = sorted((row for row in own if row["flips"]), key=lambda row: -row["flips"])
    if flipping:
        counted = ", ".join(f"{row['way']} {row['flips']}" for row in flipping[:_NAMED])
        yield "pin", f"Pin how the text is computed; against one token at a time alone these changed tokens: {counted}."
    same = [row["way"] for row in ways if row["bits_of"] != row["way"]]
    if same:
        yield "free", f"Nothing to pin between ways with equal bits: {'; '.join(_groups(ways))}."


def _groups(ways: Sequence[Row]) -> Iterator[str]:
    for row in ways:
        same = [other["way"] for other in ways if other["bits_of"] == row["way"]]
        if len(same) > 1:
            yield " = ".join(same)


def _wide(tokens: Sequence[Row]) -> Iterator[tuple[str, str]]:
    known = [row for row in tokens if row["wide_token_id"] is not None]
    if known:
        other = [row for row in known if row["wide_token_id"] != row["token_id"]]
        least = min(abs(row["wide_margin"]) for row in known)
        yield (
            "wider dtype",
            f"A float32 copy takes another token in {len(other)} of {len(known)} places, and its smallest margin is "
            f"{least:.2g} logit; a test in float32 decides by that margin, not by the grid of 16 bits.",
        )


def _ties(tokens: Sequence[Row], exact_head: float) -> Iterator[tuple[str, str]]:
    tied = [row for row in tokens if row["tied"] > 1]
    expected = math.fsum(row["forecast"] for row in tokens)
    if tied and expected:
        share = math.fsum(row["forecast"] for row in tied) / expected
        row = max(tied, key=lambda row: row["forecast"])
        yield (
            "ties",
            f"{len(tied)} tokens are exact ties, decided by the lower id, such as {row['token']!r} against "
            f"{row['rival']!r}; they make {percent(share)} of the flips expected.",
        )
    if expected and exact_head < expected:
        yield (
            "wider head",
            f"With the head alone in a wider dtype {exact_head:.2g} flips are expected in place of {expected:.2g}; the "
            "rest is noise in the states, which only a wider dtype of the whole model removes.",
        )


def percent(share: float) -> str:
    """Return a probability as people read it: no more digits than it has, and never a certain one."""
    if 0 < share < 1e-4:
        return "< 0.01 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.{3 if share >= 0.1 else 2}g} %"
