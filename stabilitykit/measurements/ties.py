"""Where do two tokens tie, how far is that from the prompt, and is it a tie of the function or of its rounding?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.tie_point import TiePoint, reading_logits
from stabilitykit.measurements.tie_solver import EQUAL, GRADIENTS
from stabilitykit.measurements.tie_store import tie_of
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject

_CHUNK = 8192
"""Rows of the embedding table compared at once."""


@dataclass(frozen=True, eq=False)
class Tie(Measurement):
    """The input x at which two tokens have equal logits, reached from x0 by `tie_point`, which says how.

    `pair` (a, b): token ids, default the two largest logits of x0. `gap` = z_a - z_b at x in the model's own bits,
    `gap_ulp` = |gap| in ULP of the larger logit, `oracle_gap` = z_a - z_b of the same function at the same x in true
    float64: what of the tie is rounding. `tie_distance` = |x - x0| and `relative_distance` that over |x0|;
    `nearest_embedding` is the distance from x to the nearest row of the embedding table, whose token is in its place.
    `equal_probabilities` is 1 where softmax in the logits' dtype gives both tokens the same number: with
    `equal="probabilities"` that is what was looked for.

    Rows: every input tried, in order, `step`, `kind` (newton, beyond, segment, chain, around), `gap`, `gap_ulp`,
    `distance`. Arrays, from which the state can be rebuilt: `x` and `x0` (H,) as float64, which holds them exactly,
    `pair`, `logits`, `token_ids`. nan where a subject has no float64 twin or no embedding table.

    UsageError for a pair that cannot be meant; UnsupportedError where there is no tie to be had, with the reason.
    Cost: up to 10 gradients and 40 batches, as a rule half of it; nothing where the tie is known already; and the
    float64 twin's self-test. Source: the study's experiment 6, parts 1a (logits) and 1b (probabilities).
    """

    pair: tuple[int, int] | None = None
    equal: str = "logits"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("gap_ulp", "ULP", "lower", "difference of the two logits at the tie, in ULP of the larger"),
        Metric("gap", "logit", "neither", "z_a - z_b at the tie"),
        Metric("oracle_gap", "logit", "neither", "z_a - z_b at the tie in true float64"),
        Metric("start_gap", "logit", "neither", "z_a - z_b at the prompt"),
        Metric("tie_distance", "input", "higher", "how far the embedding moved from the prompt's to the tie"),
        Metric("relative_distance", "", "higher", "that distance over the length of the embedding"),
        Metric("nearest_embedding", "input", "neither", "distance from the tie to the nearest token's embedding"),
        Metric("equal_probabilities", "", "neither", "1 where softmax gives both tokens the same number"),
        Metric("third_gap", "logit", "neither", "how far below the pair the next token is at the tie"),
        Metric("forwards", "rows", "lower", "rows that solving the tie took"),
        Metric("backwards", "rows", "lower", "gradients that solving the tie took"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "logits so coarse that no input makes them equal: a narrower dtype, a cap or a scale of the head",
        "a prompt that was near a tie from the start, if the distance is small: its next token hangs on rounding",
    )

    def __post_init__(self) -> None:
        """Refuse an unknown kind of equality."""
        if self.equal not in EQUAL:
            raise UsageError(f"equal={self.equal!r} is not one of {', '.join(EQUAL)}")

    def cost(self, subject: Subject) -> Cost:
        """As a rule: the solver, and the twin."""
        return solving(subject) + Cost(forwards=4 * subject.batch)

    def find(self, subject: Subject) -> Finding:
        """Solve the tie, or take it from the store, and look at where it lies."""
        subject = reading_logits(subject)
        tie = tie_of(subject, self.pair, equal=self.equal)
        oracle = oracle_gap(subject, tie)
        nearest, token = nearest_embedding(subject, tie)
        place = {"token": token} if token else {}
        third = min(tie.logits) - tie.other[1]
        values: dict[str, float | Reading] = {
            "gap_ulp": tie.gap_ulp,
            "gap": tie.gap,
            "oracle_gap": oracle,
            "start_gap": tie.gap0,
            "tie_distance": tie.distance,
            "relative_distance": tie.relative_distance,
            "nearest_embedding": Reading(self.metrics[6], nearest, place=place),
            "equal_probabilities": float(tie.equal_probabilities),
            "third_gap": third if math.isfinite(third) else math.nan,
            "forwards": tie.forwards,
            "backwards": tie.backwards,
        }
        return Finding(
            values,
            _sentence(tie, names(subject, tie.pair), oracle),
            rows=tuple({"step": step, **row} for step, row in enumerate(tie.trace)),
            arrays=state(subject, tie),
            about={"pair": list(tie.pair)},
        )


def solving(subject: Subject) -> Cost:
    """Return what solving a tie takes as a rule, of at most 40 batches; nothing where it is known already."""
    return Cost(forwards=24 * subject.batch, backwards=GRADIENTS)


def state(subject: Subject, tie: TiePoint) -> dict[str, NDArray[Any]]:
    """Return the arrays of a tie; float64 holds every float of the narrower dtypes."""
    return {
        "x": tie.x.double().numpy(),
        "x0": tie.x0.double().numpy(),
        "pair": np.array(tie.pair),
        "logits": np.array(tie.logits),
        "token_ids": np.array(getattr(subject, "ids", []), dtype=np.int64),
    }


def oracle_gap(subject: Subject, tie: TiePoint) -> float:
    """Return z_a - z_b at the tie in true float64; nan without a twin."""
    try:
        z = subject.at(tie.x, proved=False).in_float64().baseline[0]
    except UnsupportedError:
        return math.nan
    return float(z[tie.pair[0]] - z[tie.pair[1]])


def nearest_embedding(subject: Subject, tie: TiePoint) -> tuple[float, str]:
    """Return the distance of x to the nearest token's embedding and that token; nan without a table."""
    if not isinstance(subject, CausalLMSubject) or subject.rows == "all":
        return math.nan, ""
    table, best = subject.anatomy.embedding, (math.inf, -1)
    x = tie.x.double().to(subject.x0.device)
    for ids in torch.split(torch.arange(len(table.weight), device=x.device), _CHUNK):  # type: ignore[arg-type]
        with torch.no_grad():
            distances = (table(ids).double() - x).norm(dim=1)
        place = int(distances.argmin())
        best = min(best, (float(distances[place]), int(ids[place])))
    return best[0], names(subject, (best[1], best[1]))[0]


def names(subject: Subject, pair: tuple[int, int]) -> tuple[str, str]:
    """Return both tokens as text in quotes, or by number where there is no tokenizer."""
    tokenizer = subject.loaded.tokenizer if isinstance(subject, CausalLMSubject) else None
    said = [f"token {token}" if tokenizer is None else repr(tokenizer.decode([token])) for token in pair]
    return said[0], said[1]


def _sentence(tie: TiePoint, tokens: tuple[str, str], oracle: float) -> str:
    exact = "to the last bit" if tie.gap == 0 else f"to {tie.gap_ulp:g} ULP"
    what = "logits" if tie.equal == "logits" else "probabilities"
    reached = exact if tie.equal == "logits" else "as far as softmax tells" if tie.equal_probabilities else exact
    true = "" if math.isnan(oracle) else f"; in true float64 {abs(oracle):.3g} of {abs(tie.gap0):.3g} logits are left"
    return (
        f"{tokens[0]} and {tokens[1]} have equal {what} {reached} at an embedding {tie.distance:.3g} away "
        f"({tie.relative_distance:.1%} of its length), found with {tie.backwards} gradients and "
        f"{len(tie.trace)} inputs{true}."
    )
