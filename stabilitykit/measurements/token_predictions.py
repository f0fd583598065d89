"""What a model says at each token of a text that is given: the likeliest tokens, the one that comes, and the margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabilitykit.errors import UsageError
from stabilitykit.measurements.decisions import grid
from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.digest import digest

COSINES = {
    "cosine_1": "state to the first prediction",
    "cosine_2": "state to the second prediction",
    "cosine_target": "state to the token that comes",
    "cosine_1_target": "first prediction to the token that comes",
    "cosine_2_target": "second prediction to the token that comes",
}
"""Between the state that the head is given and the head's rows of tokens, or between two of these rows."""
ROWS = 16
"""Tokens whose logits are widened to float64 at once."""


@dataclass(frozen=True, eq=False)
class TokenPredictions:
    """Of N tokens: `top` (N, K) the likeliest ids, of equal logits the lower id first, and their `logits` (N, K).

    `log_sum` (N,): log of the sum of exp over all logits, in float64, so that p = exp(logit - log_sum); `entropy` (N,)
    of p in nats. `target` (N,): the id that comes, its `target_logit`, and its `rank` from 1. `ulp`: one unit of the
    largest logit in the narrowest dtype that holds all of them. `tied`: how many ids share it. `state_norm` (N,) and
    `cosines` (N, 5), see COSINES: of what the head is given; nan where the head is no matrix.
    """

    top: NDArray[np.int64]
    logits: NDArray[np.float64]
    log_sum: NDArray[np.float64]
    entropy: NDArray[np.float64]
    target: NDArray[np.int64]
    target_logit: NDArray[np.float64]
    rank: NDArray[np.int64]
    ulp: NDArray[np.float64]
    tied: NDArray[np.int64]
    state_norm: NDArray[np.float64]
    cosines: NDArray[np.float64]

    @property
    def nll(self) -> NDArray[np.float64]:
        """-log p of the tokens that come, in nats, (N,)."""
        return np.asarray(self.log_sum - self.target_logit)

    @property
    def margin(self) -> NDArray[np.float64]:
        """The largest logit less the next one, exact, (N,)."""
        return np.asarray(self.logits[:, 0] - self.logits[:, 1])

    @property
    def greedy(self) -> NDArray[np.bool_]:
        """Whether the token that comes is the first prediction, (N,)."""
        return np.equal(self.rank, 1)


def predict(
    pieces: Iterable[tuple[Tensor, Tensor | None]], said: Sequence[int], top: int, head: nn.Module
) -> dict[str, Any]:
    """Return the predictions of the tokens `said` as JSON-plain columns, and the digests of the logits by piece.

    `pieces`: logits (n, V) of these tokens in order, with the states (n, H) that the head was given. UsageError where
    `top` is more than V. O(N V).
    """
    columns: dict[str, list[Any]] = {item.name: [] for item in fields(TokenPredictions)}
    bits, done = [], 0
    for logits, states in pieces:
        if top > logits.shape[1]:
            raise UsageError(f"top={top} is more than the vocabulary, {logits.shape[1]} tokens; give less")
        bits.append(digest(logits))
        unit = grid(logits)
        for begin in range(0, len(logits), ROWS):
            part = slice(begin, min(begin + ROWS, len(logits)))
            target = torch.tensor(said[done : done + part.stop - begin], device=logits.device)
            state = None if states is None else states[part]
            for name, values in _columns(logits[part], target, top, unit, head, state).items():
                columns[name].extend(values.tolist())
            done += len(target)
    return {**columns, "bits": bits}


def joined(plain: Sequence[Mapping[str, Any]]) -> TokenPredictions:
    """Return the predictions of several calls of `predict` as one."""
    return TokenPredictions(
        **{
            item.name: np.array([value for one in plain for value in one[item.name]], dtype=_dtype(item.name))
            for item in fields(TokenPredictions)
        }
    )


def _dtype(name: str) -> type[np.generic]:
    return np.int64 if name in ("top", "target", "rank", "tied") else np.float64


def _columns(
    logits: Tensor, target: Tensor, top: int, unit: torch.dtype, head: nn.Module, states: Tensor | None
) -> dict[str, Tensor]:
    z = logits.double()
    log_sum = z.logsumexp(dim=1)
    p = (z - log_sum[:, None]).exp()
    first = torch.stack([_first(row, top) for row in logits])
    largest = logits.gather(1, first[:, :1])
    own = z.gather(1, target[:, None])
    before = (z == own) & (torch.arange(z.shape[1], device=z.device) < target[:, None])
    return {
        "top": first,
        "logits": z.gather(1, first),
        "log_sum": log_sum,
        "entropy": log_sum - (p * z).sum(dim=1),
        "target": target,
        "target_logit": own[:, 0],
        "rank": 1 + (z > own).sum(dim=1) + before.sum(dim=1),
        "ulp": spacing(largest.to(unit)).double()[:, 0],
        "tied": (logits == largest).sum(dim=1),
        **_geometry(head, states, torch.cat([first[:, :2], target[:, None]], dim=1)),
    }


def _first(row: Tensor, top: int) -> Tensor:
    """Return the ids of the largest logits (V,), of equal ones the lower id first: `topk` promises no order of ties."""
    ids = (row >= row.topk(top).values[-1]).nonzero()[:, 0]
    return ids[row[ids].sort(descending=True, stable=True).indices[:top]]


def _geometry(head: nn.Module, states: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
    """Return the states' norms (n,) and the five cosines (n, 5) with the head's rows of ids (n, 3), in float64."""
    weight = getattr(head, "weight", None)
    if states is None or not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != states.shape[1]:
        nothing = torch.full((len(ids), 1 + len(COSINES)), torch.nan, dtype=torch.float64)
        return {"state_norm": nothing[:, 0], "cosines": nothing[:, 1:]}
    x, rows = states.double(), weight[ids].double()
    norm, lengths = x.norm(dim=1), rows.norm(dim=2)
    to_state = torch.einsum("nh,nkh->nk", x, rows) / (norm[:, None] * lengths)
    to_target = torch.einsum("nh,nkh->nk", rows[:, 2], rows[:, :2]) / (lengths[:, 2:] * lengths[:, :2])
    return {"state_norm": norm, "cosines": torch.cat([to_state, to_target], dim=1)}
