"""How far a role moves the state behind a question: each role against the same question without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabilitykit.measurements.state_rows import States
from stabilitykit.numerics.correlation import spearman
from stabilitykit.prompts import NO_ROLE

Row = Mapping[str, Any]

KINDS = ("cosine", "euclidean")


def drift_rows(states: States) -> list[Row]:
    """Return each prompt's distance from its question without a role, and its rank among the roles, the furthest first.

    `beyond_mean`: further than the mean of the question's roles, by cosine.
    """
    asked = states.asked
    plain = {one.question: number for number, one in enumerate(asked) if one.role == NO_ROLE}
    rows: list[Row] = []
    for question, base in plain.items():
        own = [n for n, one in enumerate(asked) if one.question == question and one.role != NO_ROLE]
        far = {"cosine": states.cosine[base, own], "euclidean": states.euclidean[base, own]}
        ranks = {
            kind: np.argsort(np.argsort(-values, kind="stable"), kind="stable") + 1 for kind, values in far.items()
        }
        for place, number in enumerate(own):
            rows.append(
                {
                    "part": "drift",
                    **asked[number].place(number),
                    **{kind: float(far[kind][place]) for kind in KINDS},
                    **{f"{kind}_rank": int(ranks[kind][place]) for kind in KINDS},
                    "beyond_mean": bool(far["cosine"][place] > far["cosine"].mean()),
                }
            )
    return rows


def role_rows(drifts: Sequence[Row], tops: Sequence[Row]) -> Sequence[Row]:
    """Return each role's mean drift over the questions, its ranks, and how its states stand to their first tokens."""
    roles = list(dict.fromkeys(row["role"] for row in tops))
    found = []
    for role in roles:
        own = [row for row in drifts if row["role"] == role]
        cosines = np.array([row["cosine"] for row in tops if row["role"] == role])
        drift = {f"{kind}_drift": float(np.mean([row[kind] for row in own])) if own else 0.0 for kind in KINDS}
        said = {"row_cosine_mean": float(cosines.mean()), "row_cosine_sd": float(cosines.std())}
        found.append({"part": "role", "role": role, "questions": len(own), **drift, **said})
    for kind in KINDS:
        order = sorted((row for row in found if row["role"] != NO_ROLE), key=lambda row: -row[f"{kind}_drift"])
        for rank, row in enumerate(order, 1):
            row[f"{kind}_rank"] = rank
    return found


def agreement(drifts: Sequence[Row]) -> float:
    """Return the rank correlation of drifts by cosine and by length; nan for fewer than three."""
    return spearman([row["cosine"] for row in drifts], [row["euclidean"] for row in drifts])
