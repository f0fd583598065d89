"""One answer, step by step: how far the token that is taken stands before the next one, in logits, ULP, probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.measurements.decisions import grid
from stabilitykit.measurements.first_states import TOP, keep
from stabilitykit.measurements.last_states import largest, word
from stabilitykit.numerics.bits import spacing
from stabilitykit.prompts import Labelled
from stabilitykit.subjects.generation import Text

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said to one prompt: a row a step, a row for each of the first tokens, and a row over all of it."""

    prompt: Row
    steps: tuple[Row, ...]
    top: tuple[Row, ...]


def answered(text: Text, number: int, labelled: Labelled) -> Answer:
    """Answer a prompt greedily. Cost: one row a token."""
    about = labelled.place(number)
    steps: list[Row] = []
    first: dict[str, Any] = {}
    top: tuple[Row, ...] = ()
    for step, logits in enumerate(text.greedy()):
        if not step:
            keep(text, logits)
            first, top = _spread(logits), tuple(_top(text, logits, about))
        steps.append({"part": "token", **about, "step": step, **_step(text, logits)})
    return Answer(_whole(text, about, labelled, steps, first), tuple(steps), top)


def _step(text: Text, logits: Tensor) -> Row:
    """Return what decided one token. The rival is the first of the others, equal ones by id."""
    one, two = logits.topk(2).values.unbind()
    taken = text.generated[-1]
    rival = next(token for token in (logits == two).nonzero()[:2, 0].tolist() if token != taken)
    margin = float(one.double() - two.double())
    whole = logits.double().logsumexp(0)
    return {
        "token_id": taken,
        "token": word(text.loaded, taken),
        "rival_id": rival,
        "rival": word(text.loaded, rival),
        "margin": margin,
        "margin_ulp": margin / float(spacing(one.to(grid(logits)))),
        "probability_margin": float((one.double() - whole).exp() - (two.double() - whole).exp()),
        "tied": margin == 0,
        "near_tie": margin <= float(spacing(one.to(torch.bfloat16)).double()),
    }


def _spread(logits: Tensor) -> dict[str, float]:
    """Return how the logits of the first token are spread over the vocabulary."""
    z = logits.double().cpu().numpy()
    quarters = np.quantile(z, (0.25, 0.5, 0.75)).tolist()
    names = ("least", "q1", "median", "q3", "most", "mean", "sd")
    found = (float(z.min()), *quarters, float(z.max()), float(z.mean()), float(z.std()))
    return {f"logit_{name}": one for name, one in zip(names, found, strict=True)}


def _top(text: Text, logits: Tensor, about: Mapping[str, Any]) -> Iterator[Row]:
    chances = logits.double().softmax(0)
    for rank, token in enumerate(largest(logits, TOP), 1):
        found = {"logit": float(logits[token]), "probability": float(chances[token])}
        yield {"part": "top", **about, "rank": rank, "token_id": token, "token": word(text.loaded, token), **found}


def _whole(text: Text, about: Mapping[str, Any], labelled: Labelled, steps: list[Row], first: Row) -> Row:
    margins = [row["margin"] for row in steps]
    chances = [row["probability_margin"] for row in steps]
    ulps = [row["margin_ulp"] for row in steps]
    tokenizer: Any = text.loaded.tokenizer
    return {
        "part": "prompt",
        **about,
        "prompt": labelled.text,
        "prompt_tokens": len(text.ids),
        "tokens": len(steps),
        "answer": tokenizer.decode(text.generated),
        "median_margin": float(np.median(margins)),
        "mean_margin": math.fsum(margins) / len(margins),
        "first_margin": margins[0],
        "min_margin": min(margins),
        "median_margin_ulp": float(np.median(ulps)),
        "min_margin_ulp": min(ulps),
        "mean_probability_margin": math.fsum(chances) / len(chances),
        "first_probability_margin": chances[0],
        "tie_share": sum(row["tied"] for row in steps) / len(steps),
        "near_tie_share": sum(row["near_tie"] for row in steps) / len(steps),
        **first,
    }
