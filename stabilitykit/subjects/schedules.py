"""Other ways to feed one prompt to a causal model: in pieces through its cache, and with padding beside it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.calls import FOREIGN
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.site_call import answer


def in_pieces(subject: CausalLMSubject, pieces: Sequence[int]) -> Tensor:
    """Return the output (M,) at x0, the prompt fed in pieces of so many tokens through a cache of its own.

    `pieces` add up to the prompt's length T; (T,) is the whole prompt with a cache kept. Counted as one forward.
    UnsupportedError where the model keeps no cache.
    """
    name = subject.anatomy.past
    if name is None:
        raise UnsupportedError(f"{subject.name} ({type(subject.model).__name__}) keeps no cache to feed it through")
    parts = list(torch.split(subject.embeddings[None], list(pieces), dim=1))
    with torch.no_grad(), subject.running():
        past: dict[str, Any] = {}
        for part in parts[:-1]:
            arguments = {"inputs_embeds": part.clone(), "use_cache": True, **past}
            past = {name: getattr(subject.anatomy.base(**arguments), name)}
        output = answer(subject, {"inputs_embeds": parts[-1].clone(), "use_cache": True, **past}, 1)
    subject.counter.forwards += 1
    subject.counter.calls += len(parts)
    return subject.finite(output)[0]


def padded(subject: CausalLMSubject, side: str, padding: Tensor) -> Tensor:
    """Return the output (M,) at x0, with the embeddings `padding` (P, H) on one side, masked out.

    On the left the positions of the prompt still count from 0, as generation sets them. No padding: the mask alone.
    Counted as one forward. UnsupportedError where the model does not run with a mask, or has no way to be told
    positions although it counts them itself.
    """
    E, P, T = subject.embeddings, len(padding), len(subject.ids)
    rows = torch.cat([E, padding.to(E)] if side == "right" else [padding.to(E), E])[None]
    mask = torch.ones(1, P + T, dtype=torch.long, device=E.device)
    mask[0, T:] = 0 if side == "right" else 1
    if side == "left":
        mask[0, :P] = 0
    arguments: dict[str, Any] = {"inputs_embeds": rows, "attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(subject.anatomy.base.forward).parameters:
        arguments["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    position = T - 1 if side == "right" and P else -1
    try:
        with torch.no_grad(), subject.running():
            output = answer(subject, arguments, 1, position)
    except FOREIGN as error:
        raise UnsupportedError(
            f"{subject.name} does not run with padding on the {side} ({str(error).splitlines()[0]})"
        ) from error
    subject.counter.forwards += 1
    subject.counter.calls += 1
    return subject.finite(output)[0]
