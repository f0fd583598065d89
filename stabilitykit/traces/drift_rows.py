"""How far two recordings are apart, as tidy rows: along the tokens, and along the stages of one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from stabilitykit.numerics.angles import turn
from stabilitykit.numerics.bits import is_infinite, is_nan
from stabilitykit.numerics.differences import Difference
from stabilitykit.traces.aligned import NORM, Aligned

Row = Mapping[str, Any]


def token_rows(pair: Aligned) -> Iterator[Row]:
    """Yield a row a step, the one of the divergence being the last: how far apart the states are that the head reads.

    `embedding_equal` says whether both started from the same input, `predicted_a` and `predicted_b` what they said.
    """
    for step in range(pair.compared):
        yield {
            "part": "token",
            **pair.place(step),
            "stage": NORM,
            "token_id": int(pair.a.tokens[step]),
            "predicted_a": int(pair.a.predicted[step]),
            "predicted_b": int(pair.b.predicted[step]),
            "word_a": pair.words.get(int(pair.a.predicted[step]), ""),
            "word_b": pair.words.get(int(pair.b.predicted[step]), ""),
            "same_token": bool(pair.a.predicted[step] == pair.b.predicted[step]),
            "embedding_equal": pair.equal("embed", step) if "embed" in pair.a.states else None,
            **sizes(pair, NORM, step),
        }


def stage_rows(pair: Aligned) -> Iterator[Row]:
    """Yield a row a stage of the step that is looked into, in the order in which they run.

    `amplification` is the relative L2 over that of the stage before, `growth` of a block's output over that of the
    block before; empty where that one is 0.
    """
    before = block = 0.0
    for order, stage in enumerate(pair.stages):
        found = sizes(pair, stage.name, pair.step)
        now = found["relative_l2"]
        yield {
            "part": "stage",
            **pair.place(pair.step),
            "at_divergence": pair.divergence is not None,
            "order": order,
            "stage": stage.name,
            "block": stage.block,
            "submodule": stage.part,
            **found,
            "amplification": _ratio(now, before),
            "growth": _ratio(now, block) if stage.part == "block" else None,
        }
        before = now
        block = now if stage.part == "block" else block


def _ratio(now: float, before: float) -> float | None:
    return now / before if before and math.isfinite(before) else None


def sizes(pair: Aligned, stage: str, step: int) -> dict[str, Any]:
    """Return how far b's state is from a's; bits and ULP are empty for two dtypes, whose values are compared."""
    a, b = pair.pair(stage, step)
    found, same, angle = pair.difference(stage, step), pair.same_dtype(stage), turn(a, b)
    changed = found.differing_bits if same else found.differing_values
    return {
        "bit_equal": found.identical if same else None,
        "elements": found.elements,
        "changed": changed,
        "changed_share": changed / found.elements if found.elements else 0.0,
        "l2": found.l2,
        "relative_l2": found.relative_l2,
        "angle": angle.degrees,
        "one_minus_cosine": angle.one_minus_cosine,
        "max_abs": found.max_abs,
        "max_ulp": found.max_ulp if same else None,
        "median_ulp": found.median_ulp if same else None,
        "max_scaled_ulp": found.max_scaled_ulp if same else None,
        **not_numbers(a, b, found),
    }


def not_numbers(a: Tensor, b: Tensor, found: Difference) -> dict[str, int]:
    """Return the counts of what has no distance: NaN and infinities of each side, and how they differ."""
    return {
        "not_finite_a": int((is_nan(a) | is_infinite(a)).sum()),
        "not_finite_b": int((is_nan(b) | is_infinite(b)).sum()),
        "signed_zeros": found.signed_zeros,
        "nan_payload": found.nan_payload,
        "nan_mismatch": found.nan_mismatch,
    }
