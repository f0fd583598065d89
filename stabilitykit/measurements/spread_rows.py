"""A prediction taken apart, as tidy rows: the tokens at the top, the spread, the components, the largest column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.measurements.last_states import LastStates, word
from stabilitykit.numerics.components import Curve, beyond_normal, entropy, needed
from stabilitykit.numerics.rounding import Floats
from stabilitykit.subjects.generation import first_largest
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead

Row = Mapping[str, Any]


def top_rows(loaded: LoadedModel, states: LastStates, k: int) -> Iterator[Row]:
    """Yield the k largest logits of every position, equal ones by id; `odds` are those over the next one."""
    for row, logits in enumerate(states.logits):
        z = logits.double()
        order = z.sort(descending=True, stable=True).indices[: k + 1].tolist()
        lse = float(z.logsumexp(0))
        for rank, token in enumerate(order[:k]):
            following = order[rank + 1] if rank + 1 < len(order) else None
            yield {
                "part": "top",
                **states.place(row),
                "input_id": states.ids[row],
                "input": word(loaded, states.ids[row]),
                "rank": rank + 1,
                "token_id": token,
                "token": word(loaded, token),
                "logit": float(z[token]),
                "probability": math.exp(float(z[token]) - lse),
                "odds": math.nan if following is None else _odds(float(z[token] - z[following])),
            }


def _odds(difference: float) -> float:
    """Return exp of a difference of logits; inf where that is no float64."""
    return math.exp(difference) if difference < 709 else math.inf


def spread_row(loaded: LoadedModel, tool: NormAndHead, states: LastStates, error: float) -> Row:
    """Return how the last state's components and its logits are spread; sd with n - 1 for h, n for the logits' many."""
    h, z = states.after[-1].double().numpy(), states.logits[-1].double()
    first, second = z.sort(descending=True, stable=True).indices[:2].tolist()
    nats = float(entropy(z))
    return {
        "part": "spread",
        **states.place(-1),
        "components": len(h),
        **{f"hidden_{name}": value for name, value in _spread(h).items()},
        "outliers": beyond_normal(h),
        **{f"logit_{name}": value for name, value in _spread(z.numpy()).items()},
        "top_id": first,
        "top": word(loaded, first),
        "top_probability": float((z[first] - z.logsumexp(0)).exp()),
        "odds": _odds(float(z[first] - z[second])),
        "entropy": nats,
        "entropy_share": nats / math.log(len(tool.weight)),
        "head_error": error,
    }


def _spread(x: Floats) -> dict[str, float]:
    return {"least": float(x.min()), "mean": float(x.mean()), "most": float(x.max()), "sd": float(x.std(ddof=1))}


def component_rows(states: LastStates, found: Curve, shares: Sequence[float]) -> list[Row]:
    """Return a row a share of the probability: how many components it needs."""
    rows: list[Row] = []
    for share in shares:
        plain, rescaled = needed(found.plain, share), needed(found.rescaled, share)
        rows.append(
            {
                "part": "components",
                **states.place(-1),
                "share": share,
                "k_first": plain.first,
                "k_stay": plain.stay,
                "k_first_rescaled": rescaled.first,
                "k_stay_rescaled": rescaled.stay,
                "components": len(found.order),
                "first_share": plain.first / len(found.order),
                "stay_share": plain.stay / len(found.order),
                "line_margin": min(plain.margin, rescaled.margin),
            }
        )
    return rows


def grandmother_rows(loaded: LoadedModel, tool: NormAndHead, states: LastStates, count: int) -> list[Row]:
    """Return what the column of the largest positive component says of the token at the top, and its two ends.

    `alone`: the token is the column's own first one, so that one component speaks for it. `contribution`: its weight
    times the component, a part of its logit.
    """
    h = states.after[-1].double()
    component, token = int(h.argmax()), first_largest(states.logits[-1])
    column = tool.weight[:, component].double().cpu()
    weight, logit = float(column[token]), float(states.logits[-1][token])
    rank = int((column > weight).sum()) + 1
    row = {
        "part": "grandmother",
        **states.place(-1),
        "component": component,
        "value": float(h[component]),
        "token_id": token,
        "token": word(loaded, token),
        "weight": weight,
        "rank": rank,
        "alone": rank == 1,
        "contribution": weight * float(h[component]),
        "contribution_share": weight * float(h[component]) / logit if logit else math.nan,
    }
    return [row, *column_rows(loaded, column, component, count, states.place(-1))]


def column_rows(
    loaded: LoadedModel, column: Tensor, component: int, count: int, place: Mapping[str, Any]
) -> Iterator[Row]:
    """Yield the tokens with the largest and the smallest weights of a column of the head (V,)."""
    order = torch.from_numpy(np.argsort(column.numpy(), kind="stable"))
    for side, ids in (("top", order.flip(0)[:count]), ("bottom", order[:count])):
        for rank, token in enumerate(ids.tolist()):
            yield {
                "part": "column",
                **place,
                "component": component,
                "side": side,
                "rank": rank + 1,
                "token_id": token,
                "token": word(loaded, token),
                "weight": float(column[token]),
            }
