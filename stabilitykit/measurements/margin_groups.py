"""Margins set apart by kind and by role: what each group has, and by how much they differ, question by question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stabilitykit.numerics.clusters import Estimate, cluster_means, clustered
from stabilitykit.numerics.rounding import Floats
from stabilitykit.prompts import NO_ROLE

Row = Mapping[str, Any]

STATISTICS = (
    "median_margin",
    "mean_margin",
    "first_margin",
    "min_margin",
    "median_margin_ulp",
    "mean_probability_margin",
    "first_probability_margin",
    "tie_share",
    "near_tie_share",
    "tokens",
)
"""Columns of a prompt that are compared; the first is the one that readings are made of."""


def kind_rows(prompts: Sequence[Row], kinds: Sequence[str], confidence: float, seed: int) -> Iterator[Row]:
    """Yield each statistic of each kind, the mean over questions, with its interval clustered by question.

    `naive_low` and `naive_high` take each prompt for a question of its own, as if the roles told anything new.
    """
    for kind in kinds:
        own = [row for row in prompts if row["kind"] == kind]
        for name in STATISTICS:
            found = _estimates(own, None, name, confidence, seed)
            about = {"part": "kind", "kind": kind, "statistic": name, "prompts": len(own)}
            yield {**about, "questions": len({row["question"] for row in own}), **found}


def difference_rows(prompts: Sequence[Row], kinds: Sequence[str], confidence: float, seed: int) -> Iterator[Row]:
    """Yield each statistic of the first kind less that of each other one."""
    first = [row for row in prompts if row["kind"] == kinds[0]]
    for kind in kinds[1:]:
        other = [row for row in prompts if row["kind"] == kind]
        for name in STATISTICS:
            about = {"part": "difference", "kind": kinds[0], "less": kind, "statistic": name}
            yield {**about, **_estimates(first, other, name, confidence, seed)}


def role_rows(prompts: Sequence[Row], confidence: float, seed: int) -> Iterator[Row]:
    """Yield how each role moves a statistic of the same question: with the role less without, a pair a question."""
    plain = {row["question"]: row for row in prompts if row["role"] == NO_ROLE}
    for role in dict.fromkeys(row["role"] for row in prompts if row["role"] != NO_ROLE):
        own = [row for row in prompts if row["role"] == role]
        for name in STATISTICS:
            moved = np.array([row[name] - plain[row["question"]][name] for row in own])
            about = {"part": "role", "role": role, "statistic": name, "questions": len(own)}
            yield {**about, **_named(clustered(moved, confidence=confidence, seed=seed))}


def group_rows(prompts: Sequence[Row]) -> Iterator[Row]:
    """Yield what all prompts of one kind in one role have: tokens, margins, ties."""
    for kind, role in dict.fromkeys((row["kind"], row["role"]) for row in prompts):
        own = [row for row in prompts if (row["kind"], row["role"]) == (kind, role)]
        tokens = [row["tokens"] for row in own]
        yield {
            "part": "group",
            "kind": kind,
            "role": role,
            "prompts": len(own),
            **{name: math.fsum(row[name] for row in own) / len(own) for name in STATISTICS},
            "tokens_least": min(tokens),
            "tokens_most": max(tokens),
        }


def _estimates(first: Sequence[Row], other: Sequence[Row] | None, name: str, confidence: float, seed: int) -> Row:
    sides = [first] if other is None else [first, other]
    by_question = [cluster_means([row[name] for row in side], [row["question"] for row in side]) for side in sides]
    alone: list[Floats] = [np.array([row[name] for row in side], dtype=np.float64) for side in sides]
    naive = clustered(*alone, confidence=confidence, seed=seed)
    found = _named(clustered(*by_question, confidence=confidence, seed=seed))
    return {**found, "naive_low": naive.low, "naive_high": naive.high}


def _named(found: Estimate) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high}
