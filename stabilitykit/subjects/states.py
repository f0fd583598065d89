"""States inside a model, read at many places in one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stabilitykit.subjects.sites import Tap, locate

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


def read(subject: CausalLMSubject, X: Tensor, sites: Sequence[str], whole: bool) -> dict[str, Tensor]:
    """Run (B, H) once to the end and return the state at each site, (B, M), or (B, T, M) if `whole`.

    States are copied as they pass: a later operation in place would rewrite them. A module called several times
    gives its last state. What has no vector a row and token is left out. Uncounted.
    """
    found: dict[str, Tensor] = {}
    tokens = subject.tokens_run

    def keep(site: str) -> Callable[[Tensor], None]:
        def reader(state: Tensor) -> None:
            if (rows := by_token(state, len(X), tokens)) is not None:
                found[site] = (rows if whole else rows[:, -1]).clone()

        return reader

    with torch.no_grad(), ExitStack() as hooks:
        for site in sites:
            if site != "logits":
                hooks.enter_context(_tap(subject, site).reading(keep(site), strict=False))
        logits = subject.run_through(X, head="logits" in sites)
    if "logits" in sites:  # the head runs for the last token alone
        found["logits"] = logits if whole else logits[:, -1]
    return {site: found[site] for site in sites if site in found}


def _tap(subject: CausalLMSubject, site: str) -> Tap:
    # The final norm's output is the last hidden state bit for bit, which is how it was found.
    return Tap(subject.anatomy.final_norm) if site == "post_norm" else locate(site, subject.anatomy, subject.model)


def by_token(state: Tensor, batch: int, tokens: int) -> Tensor | None:
    """Return a state as (B, T, M), also where rows and tokens are flattened into one axis; None if it has neither."""
    if state.dim() >= 3 and state.shape[:2] == (batch, tokens):
        return state.flatten(2)
    if state.dim() >= 2 and state.shape[0] == batch * tokens:
        return state.reshape(batch, tokens, -1)
    return None
