"""From a prompt to token ids, with every way it can go wrong said before the model runs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from stabilitykit.errors import UsageError
from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.models import LoadedModel


def token_ids(loaded: LoadedModel, anatomy: Anatomy, prompt: str | Sequence[int]) -> list[int]:
    """Return the ids of a text (the tokenizer's defaults, no chat template) or the given ids, checked.

    UsageError for an empty prompt, an id outside the embedding, a prompt beyond the model's context (rotary models
    would silently extrapolate), or a text without a tokenizer.
    """
    ids = _encode(loaded, prompt) if isinstance(prompt, str) else [_whole(token) for token in prompt]
    if not ids:
        raise UsageError("the prompt is empty: there is no last token to perturb; give at least one token")
    rows = anatomy.embedding.weight.shape[0]  # type: ignore[index]
    for place, token in enumerate(ids):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < rows:
            raise UsageError(f"token {token!r} at position {place} is not an id from 0 to {rows - 1} of this model")
    if anatomy.max_positions is not None and len(ids) > anatomy.max_positions:
        raise UsageError(
            f"the prompt has {len(ids)} tokens, the model's context {anatomy.max_positions}; shorten the prompt"
        )
    return ids


def _encode(loaded: LoadedModel, prompt: str) -> list[int]:
    if loaded.tokenizer is None:
        raise UsageError(f"{loaded.spec} has no tokenizer; give the prompt as a list of token ids")
    return [int(token) for token in loaded.tokenizer(prompt).input_ids]


def _whole(token: Any) -> Any:
    """Return an id of numpy or torch as the integer that it is, and anything else as it is: it will be refused."""
    try:
        return token if isinstance(token, bool) else operator.index(token)
    except TypeError:
        return token
