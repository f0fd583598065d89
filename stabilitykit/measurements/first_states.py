"""The state that the first token of an answer is read from, computed once for all who ask about the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.last_states import largest
from stabilitykit.measurements.progress import bar
from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.generation import Text
from stabilitykit.subjects.models import LoadedModel

TOP = 5
"""Candidates for the first token that are kept with their logits."""

Key = tuple[int, tuple[int, ...]]
_KEPT: WeakKeyDictionary[LoadedModel, dict[Key, FirstState]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class FirstState:
    """What the head read behind a prompt, (H,) on the CPU, and the ids and logits of the largest it made of it.

    The state has passed the final norm once. Logits are the model's own, equal ones by id.
    """

    state: Tensor
    ids: tuple[int, ...]
    logits: tuple[float, ...]


def keep(text: Text, logits: Tensor) -> FirstState | None:
    """Return the first state of a text whose first logits (V,) have just come, for later askers too; None without.

    Kept as long as the model is, by its token ids and the number of threads; weights are taken to stay as loaded.
    """
    if text.state is None:
        return None
    ids = largest(logits, TOP)
    found = FirstState(text.state[-1].cpu(), tuple(ids), tuple(float(logits[token]) for token in ids))
    _KEPT.setdefault(text.loaded, {})[_key(text.ids)] = found
    return found


def first_states(loaded: LoadedModel, anatomy: Anatomy, prompts: Sequence[Sequence[int]]) -> list[FirstState]:
    """Return the first states of prompts (token ids). Cost: one forward for each that nobody asked about before.

    UnsupportedError where the head does not read one state a token.
    """
    kept = _KEPT.setdefault(loaded, {})
    with bar(len(prompts), "states", "prompt") as progress:
        for ids in prompts:
            if _key(ids) not in kept:
                text = Text(loaded, ids, 1, anatomy)
                if keep(text, next(text.greedy())) is None:
                    raise UnsupportedError(f"the head of {loaded.spec} does not read one state a token")
            progress.update()
    return [kept[_key(ids)] for ids in prompts]


def _key(ids: Sequence[int]) -> Key:
    return torch.get_num_threads(), tuple(ids)
