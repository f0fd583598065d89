"""Last states next to the head's rows and next to one another: cosines of the first tokens, neighbours, distances."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.first_states import FirstState
from stabilitykit.measurements.last_states import word
from stabilitykit.numerics.nearest import Nearest, nearest, row_cosines
from stabilitykit.numerics.pairwise import pairs, spread, square, unit
from stabilitykit.numerics.rounding import Floats
from stabilitykit.prompts import NO_ROLE, Labelled
from stabilitykit.subjects.models import LoadedModel

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class States:
    """The first states of P labelled prompts, next to the rows of a head W (V, H).

    `X` (P, H) in float64; `near`: the nearest rows of W; `cosine` (1 - cos) and `euclidean` (P, P): their distances.
    """

    loaded: LoadedModel
    asked: tuple[Labelled, ...]
    first: list[FirstState]
    W: Tensor
    X: Floats
    near: Nearest
    cosine: Floats
    euclidean: Floats


def compared(
    loaded: LoadedModel, asked: tuple[Labelled, ...], first: list[FirstState], W: Tensor, neighbours: int
) -> States:
    """Take the distances of states; UnsupportedError where the head's rows have another width."""
    if first[0].state.numel() != W.shape[1]:
        raise UnsupportedError(
            f"the head's rows have {W.shape[1]} components, the states {first[0].state.numel()}: no angle between them"
        )
    X = np.stack([one.state.double().numpy() for one in first])
    apart = pairs(X)
    both = (square(one, len(X)) for one in (apart.cosine, apart.euclidean))
    return States(loaded, asked, first, W, X, nearest(W, X, neighbours), *both)


def top_rows(states: States) -> Iterator[Row]:
    """Yield the first tokens of each prompt with the cosine of the state and their rows."""
    for number, (labelled, first) in enumerate(zip(states.asked, states.first, strict=True)):
        cosines = row_cosines(states.W, first.ids, states.X[number]).tolist()
        for rank, (token, logit, cosine) in enumerate(zip(first.ids, first.logits, cosines, strict=True), 1):
            found = {"rank": rank, "token_id": token, "token": word(states.loaded, token), "logit": logit}
            yield {"part": "row", **labelled.place(number), **found, "cosine": cosine}


def pair_rows(states: States, similar: Floats) -> Iterator[Row]:
    """Yield the cosine of each pair of rows of a prompt's first tokens, from `similarities`."""
    for number, (labelled, first) in enumerate(zip(states.asked, states.first, strict=True)):
        for one, two in itertools.combinations(range(len(first.ids)), 2):
            names = {"token": word(states.loaded, first.ids[one]), "other": word(states.loaded, first.ids[two])}
            found = {"rank": one + 1, "other_rank": two + 1, **names}
            cosine = float(similar[number, one + 1, two + 1])
            yield {"part": "pair", **labelled.place(number), **found, "cosine": cosine}


def similarities(states: States) -> Floats:
    """Return the cosines between each state and the rows of its first tokens, (P, 1 + k, 1 + k), the state first."""
    found = []
    for x, first in zip(states.X, states.first, strict=True):
        U = unit(np.vstack([x, states.W[list(first.ids)].double().cpu().numpy()]))
        found.append(U @ U.T)
    return np.stack(found)


def state_rows(states: States) -> Iterator[Row]:
    """Yield how long each state is, what it says and which row is nearest to it, by cosine."""
    for number, (labelled, first) in enumerate(zip(states.asked, states.first, strict=True)):
        h, cosines = states.X[number], states.near.cosines[number]
        token, neighbour = first.ids[0], int(states.near.ids[number, 0])
        yield {
            "part": "state",
            **labelled.place(number),
            "prompt": labelled.text,
            "norm": float(np.linalg.norm(h)),
            "mean": float(h.mean()),
            "sd": float(h.std()),
            "least": float(h.min()),
            "most": float(h.max()),
            "token_id": token,
            "token": word(states.loaded, token),
            "nearest_id": neighbour,
            "nearest": word(states.loaded, neighbour),
            "nearest_cosine": float(cosines[0]),
            "neighbours_mean": float(cosines.mean()),
            "neighbours_sd": float(cosines.std()),
        }


def neighbour_rows(states: States) -> Iterator[Row]:
    """Yield the rows of the head that are nearest to each state."""
    for number, labelled in enumerate(states.asked):
        ids, cosines = (array[number].tolist() for array in (states.near.ids, states.near.cosines))
        for rank, (token, cosine) in enumerate(zip(ids, cosines, strict=True), 1):
            said = {"rank": rank, "token_id": token, "token": word(states.loaded, token), "cosine": cosine}
            yield {"part": "neighbour", **labelled.place(number), **said}


def distance_rows(states: States) -> Iterator[Row]:
    """Yield how the distances of groups of pairs are spread; no state is paired with itself."""
    asked = states.asked
    left, right = np.triu_indices(len(asked), 1)
    for name, wanted in _GROUPS.items():
        chosen = np.array([wanted(asked[i], asked[j]) for i, j in zip(left, right, strict=True)], dtype=bool)
        if chosen.any():
            for kind, D in (("cosine", states.cosine), ("euclidean", states.euclidean)):
                yield {"part": "distance", "pairs": name, "distance": kind, **spread(D[left, right][chosen])}


_GROUPS: Mapping[str, Callable[[Labelled, Labelled], bool]] = {
    "all": lambda a, b: True,
    "same question": lambda a, b: a.question == b.question,
    "same kind, no role": lambda a, b: a.kind == b.kind and a.role == b.role == NO_ROLE,
    "other kind, no role": lambda a, b: a.kind != b.kind and a.role == b.role == NO_ROLE,
    "other question, no role": lambda a, b: a.question != b.question and a.role == b.role == NO_ROLE,
    "same role": lambda a, b: a.role == b.role != NO_ROLE,
}
"""Which pairs of prompts are looked at together."""
