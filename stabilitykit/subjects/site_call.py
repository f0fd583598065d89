"""One call of a causal model with given arguments, read at the subject's site: what every path ends in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.sites import Stopped, at_position

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


def answer(subject: CausalLMSubject, arguments: Mapping[str, Any], batch: int, position: int = -1) -> Tensor:
    """Call the model as it stands and return (B, M) at the subject's site, of the token at `position`; uncounted.

    UnsupportedError if the model does not run the site's module, or something else than a vector a token is there.
    """
    try:
        with subject._tap.stopping():
            state = called(subject, arguments, subject._needs_head, position)
    except Stopped as stopped:
        return at_position(stopped.state, batch, subject.site, position)
    if subject._tap.module is not None:
        raise UnsupportedError(f"{subject.name} does not run the module of site {subject.site!r} in its forward")
    return at_position(state, batch, subject.site, -1 if subject._needs_head else position)


def called(subject: CausalLMSubject, arguments: Mapping[str, Any], head: bool, position: int = -1) -> Tensor:
    """Return the model's own last state (B, T, M) or, with `head`, its logits for one token, (B, 1, M)."""
    if not head:
        state: Tensor = subject.anatomy.base(**arguments).last_hidden_state
        return state
    # The last token as generation asks for it, another one by its index: one row a prompt either way.
    keep = 1 if position == -1 else torch.tensor([position], device=subject.x0.device)
    logits: Tensor = subject.model(**arguments, logits_to_keep=keep).logits
    return logits
