"""What a norm does to the alignment of tokens: their rows' angles and products with the state before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from stabilitykit.numerics.angles import turn


def alignment(W: Tensor, bias: Tensor, before: Tensor, after: Tensor) -> list[Mapping[str, float]]:
    """Return for each row of W (n, d), bias (n,), how it stands to a state before and after the norm, (d,) each.

    `angle_before` and `angle_after` in degrees, `cosine_...` of the same, `logit_...` the product with the bias, in
    float64 (that before is no logit of the model). `rank_...` is the place among these rows, the nearest first.
    """
    turns = [[turn(row, state) for row in W] for state in (before, after)]
    ranks = [_ranks([one.one_minus_cosine for one in found]) for found in turns]
    products = [(W.double() @ state.double() + bias).tolist() for state in (before, after)]
    return [
        {
            "cosine_before": 1 - turns[0][k].one_minus_cosine,
            "cosine_after": 1 - turns[1][k].one_minus_cosine,
            "angle_before": turns[0][k].degrees,
            "angle_after": turns[1][k].degrees,
            "angle_change": turns[1][k].degrees - turns[0][k].degrees,
            "logit_before": products[0][k],
            "logit_after": products[1][k],
            "rank_before": ranks[0][k],
            "rank_after": ranks[1][k],
        }
        for k in range(len(W))
    ]


def _ranks(distances: Sequence[float]) -> list[int]:
    """Return each one's place, the nearest first; of equal ones the first."""
    order = np.argsort(distances, kind="stable").tolist()
    return [order.index(k) + 1 for k in range(len(order))]
