"""What norm and head are given along a text, with the logits they made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.subjects.generation import Text, finite
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.readout import NormAndHead, hearing

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

Prompt = str | Sequence[int]


@dataclass(frozen=True, eq=False)
class LastStates:
    """T positions of one text: what the final norm read (`before`, (T, H)), what the head read (`after`), its logits.

    `logits` (T, V) are the head's own, before whatever cap or scale the model adds. `prompt` is what the text is
    called, `number` its place in the list, `ids` (T,) the token that is read at each position, `positions` its place in
    the text. `stream`: what each block returned, (L, H) a position, where that was asked for.
    """

    prompt: str
    number: int
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    before: Tensor
    after: Tensor
    logits: Tensor
    stream: tuple[Tensor, ...] = ()

    def place(self, row: int) -> dict[str, str | int]:
        """Return the columns that say where a position is."""
        return {"prompt": self.prompt, "number": self.number, "position": self.positions[row]}


def check_prompts(prompts: Sequence[Prompt], **counts: int) -> None:
    """Raise UsageError for prompts that are no list with at least one, and for counts below 1."""
    if isinstance(prompts, str) or not prompts:
        raise UsageError("prompts is a list of texts or of lists of token ids, with at least one")
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name}={count} is too few; give at least 1")


def generated(
    loaded: LoadedModel, tool: NormAndHead, prompts: Sequence[Prompt], tokens: int, *, stream: bool = False
) -> Iterator[LastStates]:
    """Continue each prompt greedily and yield what was read at each step, as it was computed: with a cache, batch 1.

    Cost: one forward a token.
    """
    for number, prompt in enumerate(prompts):
        text = Text(loaded, prompt, tokens, tool.anatomy, listens=False)
        with hearing(tool.anatomy, stream=stream) as heard:
            steps = sum(1 for _ in text.greedy())
        start = len(text.ids) - 1
        read = (text.ids + text.generated)[start : start + steps]
        before, after, logits = (
            torch.stack([states[-1] for states in calls]) for calls in (heard.before, heard.after, heard.made)
        )
        yield LastStates(
            named(prompt),
            number,
            tuple(read),
            tuple(range(start, start + steps)),
            *matching(tool, before, after),
            finite(logits),
            tuple(torch.stack([state[-1] for state in states]) for states in heard.stream),
        )


def whole(loaded: LoadedModel, tool: NormAndHead, prompt: Prompt, number: int, first: Sequence[int]) -> LastStates:
    """Run a prompt at once, after the ids `first`, and return what was read at every position. Cost: one forward."""
    ids = token_ids(loaded, tool.anatomy, prompt) if prompt else []
    if list(ids[: len(first)]) != list(first):
        ids = token_ids(loaded, tool.anatomy, [*first, *ids])
    loaded.counter.forwards += 1
    loaded.counter.calls += 1
    with hearing(tool.anatomy) as heard, torch.no_grad():
        loaded.model(input_ids=torch.tensor([ids], device=loaded.model.device))
    places = tuple(range(len(ids)))
    states = matching(tool, heard.before[-1], heard.after[-1])
    return LastStates(named(prompt), number, tuple(ids), places, *states, finite(heard.made[-1]))


def matching(tool: NormAndHead, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states; UnsupportedError where they are not of the width of the head's rows."""
    width = tool.weight.shape[1]
    if before.shape[-1] != width or after.shape[-1] != width or len(before) != len(after):
        raise UnsupportedError(
            f"the head's rows have {width} components, the states around the final norm {before.shape[-1]} and "
            f"{after.shape[-1]}: no angle between them"
        )
    return before, after


def named(prompt: Prompt) -> str:
    """Return the name of a prompt in tables; that of the empty one says so."""
    if isinstance(prompt, str):
        return prompt or "(empty)"
    return f"ids {list(prompt)}" if prompt else "(empty)"


def largest(logits: Tensor, count: int) -> list[int]:
    """Return the ids of the largest logits (V,), equal ones by id."""
    found: list[int] = logits.sort(descending=True, stable=True).indices[:count].tolist()
    return found


def word(loaded: LoadedModel, token: int) -> str:
    """Return the text of one token, empty without a tokenizer."""
    return "" if loaded.tokenizer is None else str(loaded.tokenizer.decode([token]))
