"""The predictions of a document in a few numbers and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from stabilitykit.measurements.token_predictions import COSINES
from stabilitykit.measurements.word_rows import Row, Scan
from stabilitykit.numerics.forecast import Forecast
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst

Values = dict[str, float | Reading]


def readings(rows: Sequence[Row], scan: Scan, flips: Forecast, schema: Mapping[str, Metric]) -> Values:
    """Return the readings of a document's words."""
    value, low, high = (math.fsum(chances.tolist()) for chances in (flips.probability, flips.low, flips.high))
    return {
        **_accuracy(rows, scan),
        **_likelihood(rows, scan),
        **_margins(rows, scan, schema),
        "expected_flips": Reading(schema["expected_flips"], value, low, high),
        **{f"mean_{name}": math.fsum(row[name] for row in rows) / len(rows) for name in COSINES},
        "positions": sum(window.positions(len(scan.text.lead)) for window in scan.plan),
        "study_positions": sum(len(scan.text.lead) + word.first for word in scan.words),
    }


def _accuracy(rows: Sequence[Row], scan: Scan) -> Values:
    return {
        "words": len(rows),
        "tokens": len(scan.tokens.target),
        "accuracy": sum(row["match"] for row in rows) / len(rows),
        "first_token_accuracy": sum(row["rank"] == 1 for row in rows) / len(rows),
        "token_accuracy": float(scan.tokens.greedy.mean()),
        "median_rank": float(np.median([row["rank"] for row in rows])),
    }


def _likelihood(rows: Sequence[Row], scan: Scan) -> Values:
    total = math.fsum(scan.tokens.nll.tolist())
    chances = [row["probability"] for row in rows]
    return {
        "perplexity": math.exp(total / len(scan.tokens.target)),
        "bits_per_character": total / math.log(2) / scan.characters,
        "median_probability": float(np.median(chances)),
        "mean_probability": math.fsum(chances) / len(chances),
    }


def _margins(rows: Sequence[Row], scan: Scan, schema: Mapping[str, Metric]) -> Values:
    found: Values = {
        "fragile_share": sum(row["fragile"] for row in rows) / len(rows),
        "exact_ties": int((scan.tokens.tied > 1).sum()),
        "noise": scan.noise.scale,
    }
    for column in ("margin", "margin_ulp"):
        row = min(rows, key=itemgetter(f"weakest_{column}"))
        place = {"word": str(row["number"])}
        found[f"min_{column}"] = Reading(schema[f"min_{column}"], row[f"weakest_{column}"], place=place)
    return found


def worst(rows: Sequence[Row]) -> Worst:
    """Return the word whose first prediction is the nearest to another."""
    row = min(rows, key=itemgetter("weakest_margin"))
    before = f"{row['weakest_margin']:.3g} logit before"
    return Worst(
        f"word {row['number']}, {row['word']!r}", "predicts", repr(row["weakest"]), before, repr(row["weakest_rival"])
    )


def sentence(name: str, values: Mapping[str, Any]) -> str:
    """Return what was found, in words."""
    return (
        f"Of {values['words']} words of {name} {values['accuracy']:.1%} are predicted whole, at a perplexity of "
        f"{values['perplexity']:.3g} a token; {values['fragile_share']:.2%} hang by a margin that rounding may decide."
    )
