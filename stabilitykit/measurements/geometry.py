"""How do the last states of prompts lie: next to one another, to the head's rows, and with and without a role?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.first_states import first_states
from stabilitykit.measurements.role_drift import agreement, drift_rows, role_rows
from stabilitykit.measurements.state_rows import (
    compared,
    distance_rows,
    neighbour_rows,
    pair_rows,
    similarities,
    state_rows,
    top_rows,
)
from stabilitykit.measurements.tying import (
    Tying,
    correlation,
    distances_of,
    histograms,
    row_lengths,
    sample_rows,
    sampled,
    tying,
)
from stabilitykit.numerics.projection import plane_of
from stabilitykit.prompts import QUESTIONS, ROLES, Prompt, Role, crossed
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.chat import SAID, check_form, form_of, question_ids
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import matrix_of_head

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Geometry(Measurement[LoadedModel]):
    """Take the state that the head reads behind each prompt, once normed, and compare it with others, in float64.

    Distances are 1 - cos and |a - b|, from differences that do not cancel, of all pairs of prompts, none with itself.
    *Role drift* is the distance of a question's state in a role from that without one. The five first tokens, by the
    model's own logits, give the cosines of state and row and of each pair of rows; `nearest` rows of the head are those
    of largest cosine over the whole vocabulary, all products in float64. The map is the plane of the first two
    principal axes. Embedding and head are tied if every bit is equal; of `sample` tokens, drawn over the vocabulary
    with `seed`, the distances in both are compared.

    `questions`, `roles` and `form` are those of `PromptSuite`, whose states are used where they are there. Rows
    (`part`): state, row, pair, neighbour, distance, drift, role, matrix, sample. Arrays: `states` (P, H), `cosine` and
    `euclidean` (P, P), `similarity` (P, 6, 6), `plane` (P, 2), `dimension_mean` and `dimension_sd` (H,), `sample`, and
    `*_edges` with `*_joint`, how often distances in embedding and head go together. UnsupportedError for a head without
    a matrix of the state's width, or a model without a tokenizer. Cost: a forward for each prompt that nobody asked
    about before; P V H products. Source: notebooks on roles, embeddings and their distances.
    """

    questions: Sequence[Prompt] = QUESTIONS
    roles: Sequence[Role] = ROLES
    nearest: int = 10
    sample: int = 3000
    form: str = "auto"
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("state_cosine", "cosine", "neither", "mean over pairs of different questions without a role"),
        Metric("row_cosine", "cosine", "neither", "mean of states with the rows of their five first tokens"),
        Metric("row_pair_cosine", "cosine", "neither", "mean of these rows with one another"),
        Metric("nearest_cosine", "cosine", "neither", "mean of states with their nearest row of the head"),
        Metric("nearest_is_first", "share", "neither", "prompts whose nearest row is the token of the largest logit"),
        Metric("role_drift_median", "1 - cosine", "neither", "median distance of a state in a role from that without"),
        Metric("role_drift_max", "1 - cosine", "lower", "largest distance of a state in a role from that without"),
        Metric("drift_over_question", "ratio", "neither", "mean role drift over the mean distance of other questions"),
        Metric("drift_agreement", "correlation", "neither", "rank correlation of role drifts by cosine and by length"),
        Metric("plane_share", "share", "neither", "variance of the states that the two axes of the map show"),
        Metric("tied", "yes or no", "neither", "1 if embedding and head are equal bit for bit"),
        Metric("one_storage", "yes or no", "neither", "1 if they are one piece of memory"),
        Metric("differing_rows", "rows", "neither", "rows of embedding and head that differ; nan for other shapes"),
        Metric("distance_correlation", "correlation", "neither", "of cosine distances in embedding and head"),
        Metric("mean_norm", "state", "neither", "mean length of the states"),
        Metric("prompts", "prompts", "neither", "prompts whose states are compared"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = ("a role or a template that changes what the last token attends to",)

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        crossed(self.questions, self.roles)
        check_form(self.form)
        for name, least in (("nearest", 1), ("sample", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)} is too few; give at least {least}")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a prompt; none for one that was asked about before."""
        return Cost(forwards=len(self.questions) * (1 + len(self.roles)))

    def find(self, subject: LoadedModel) -> Finding:
        """Compute the states, and compare."""
        form = form_of(subject, self.form)
        W = matrix_of_head(subject)
        anatomy = find(subject.model)
        asked = crossed(self.questions, self.roles)
        ids = [question_ids(subject, anatomy, one.text, form) for one in asked]
        states = compared(subject, asked, first_states(subject, anatomy, ids), W, self.nearest)
        similar = similarities(states)
        rows: list[Row] = [*state_rows(states), *top_rows(states), *pair_rows(states, similar), *neighbour_rows(states)]
        drifts = drift_rows(states)
        rows += [*distance_rows(states), *drifts, *role_rows(drifts, [row for row in rows if row["part"] == "row"])]
        matrices, arrays, tie = self._matrices(anatomy.embedding.weight.detach(), W)  # type: ignore[operator]
        rows += matrices
        plane = plane_of(states.X)
        arrays |= {
            "states": states.X,
            "cosine": states.cosine,
            "euclidean": states.euclidean,
            "similarity": similar,
            "plane": plane.scores,
            "dimension_mean": states.X.mean(axis=0),
            "dimension_sd": states.X.std(axis=0),
        }
        values = self._values(rows, tie, float(plane.shares.sum()))
        return Finding(
            values,
            _sentence(values, tie, form),
            rows=tuple(rows),
            arrays=arrays,
            about={"form": form, "tying": tie.kind, "plane_shares": plane.shares.tolist()},
        )

    def _matrices(self, E: Tensor, W: Tensor) -> tuple[list[Row], dict[str, NDArray[Any]], Tying]:
        """Return what is said of embedding and head, by themselves and in a sample of tokens."""
        tie = tying(E, W)
        one = tie.kind != "apart"
        matrices = {"embedding": W if one else E, "head": W}
        ids = sampled(min(len(E), len(W)), self.sample, self.seed)
        found = distances_of(matrices, ids)
        between = {
            kind: correlation(*(getattr(one, kind) for one in found.values())) for kind in ("cosine", "euclidean")
        }
        lengths = row_lengths(W)
        rows: list[Row] = [
            {"part": "matrix", "matrix": "embedding", "digest": tie.embedding_digest, "tying": tie.kind}
            | (lengths if one else row_lengths(E)),
            {"part": "matrix", "matrix": "head", "digest": tie.head_digest, "tying": tie.kind}
            | {**lengths, "differing_elements": tie.differing_elements},
            *({**row, "correlation": between[row["distance"]]} for row in sample_rows(found)),
        ]
        return rows, {"sample": ids, **histograms(found, "cosine"), **histograms(found, "euclidean")}, tie

    def _values(self, rows: Sequence[Row], tie: Tying, plane: float) -> dict[str, float | Reading]:
        parts: dict[str, list[Row]] = {}
        for row in rows:
            parts.setdefault(row["part"], []).append(row)
        return {
            **self._of_pairs(parts),
            **_mean("row_cosine", parts["row"], "cosine"),
            **_mean("row_pair_cosine", parts["pair"], "cosine"),
            **_mean("nearest_cosine", parts["state"], "nearest_cosine"),
            **_mean("mean_norm", parts["state"], "norm"),
            "nearest_is_first": float(np.mean([row["nearest_id"] == row["token_id"] for row in parts["state"]])),
            "plane_share": plane,
            "tied": int(tie.kind != "apart"),
            "one_storage": int(tie.kind == "storage"),
            "differing_rows": tie.differing_rows,
            "distance_correlation": parts["sample"][0]["correlation"],
            "prompts": len(parts["state"]),
        }

    def _of_pairs(self, parts: Mapping[str, Sequence[Row]]) -> dict[str, float | Reading]:
        """Return what takes two questions, or a role: nothing where there is neither."""
        values: dict[str, float | Reading] = {}
        asked = {"pairs": "other question, no role", "distance": "cosine"}
        others = [row["mean"] for row in parts.get("distance", []) if asked.items() <= row.items()]
        if others:
            values["state_cosine"] = 1 - others[0]
        drifts = parts.get("drift", [])
        if drifts:
            far = [row["cosine"] for row in drifts]
            row = max(drifts, key=itemgetter("cosine"))
            (metric,) = (metric for metric in self.metrics if metric.name == "role_drift_max")
            place = {"prompt": row["question"], "kind": row["kind"], "role": row["role"]}
            values["role_drift_max"] = Reading(metric, row["cosine"], place=place)
            values["role_drift_median"] = float(np.median(far))
            values["drift_agreement"] = agreement(drifts)
            if others and others[0]:
                values["drift_over_question"] = float(np.mean(far)) / others[0]
        return values


def _mean(name: str, rows: Sequence[Row], column: str) -> dict[str, float]:
    return {name: float(np.mean([row[column] for row in rows]))}


def _sentence(values: Mapping[str, float | Reading], tie: Tying, form: str) -> str:
    kinds = {
        "storage": "Embedding and head are one piece of memory.",
        "bits": "Embedding and head are equal bit for bit, in two pieces of memory.",
        "apart": "Embedding and head are different.",
    }
    said = f"Asked {SAID[form]}, states have a mean cosine of {values['row_cosine']:.2g} with their first tokens' rows"
    if "drift_over_question" in values:
        said += f"; a role moves them {values['drift_over_question']:.2g} times as far as another question does"
    said += (
        f"; the nearest row is the first token's for {values['nearest_is_first']:.0%} of {values['prompts']} prompts"
    )
    return f"{said}. {kinds[tie.kind]}"
