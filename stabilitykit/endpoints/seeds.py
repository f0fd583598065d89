"""Whether a server draws the same tokens again when it is given the same seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stabilitykit.endpoints.endpoint import Endpoint, Reply, Request
from stabilitykit.endpoints.load import together

SAME, OTHER = 3, 2


@dataclass(frozen=True, slots=True)
class Seeds:
    """Replies at temperature 1: to one seed again and again, to other seeds, and to the one seed under load."""

    same: Sequence[Reply]
    other: Sequence[Reply]
    loaded: Sequence[Reply]

    @property
    def honoured(self) -> float:
        """1 if one seed gives one completion and others give others, 0 if it gives several, nan if it cannot be told.

        It cannot where a request failed, and where other seeds say the same: then nothing was drawn.
        """
        texts = [_said(reply) for reply in self.same]
        if None in texts or not texts:
            return math.nan
        if len(set(texts)) > 1:
            return 0.0
        others = {_said(reply) for reply in self.other}
        return 1.0 if others - {None, *texts} else math.nan

    @property
    def honoured_under_load(self) -> float:
        """1 if the seed gives the same completion to all of many requests at once, 0 if not, nan as above."""
        texts = [_said(reply) for reply in self.loaded]
        if self.honoured != 1 or None in texts or not texts:
            return math.nan
        return float(set(texts) == {_said(self.same[0])})

    @property
    def sentence(self) -> str:
        """What was found."""
        if not self.same:
            return "Whether a seed is honoured was not asked."
        failed = next((reply.error for reply in self.same if reply.answer is None), "")
        if failed:
            return f"Whether a seed is honoured is not known: a request with one {failed}."
        if self.honoured == 0:
            return "`seed` is not honoured: one seed gives several completions at temperature 1."
        if math.isnan(self.honoured):
            return "Whether `seed` is honoured cannot be told: other seeds say the same, so nothing was drawn."
        loaded = {1.0: "alone and under load", 0.0: "alone, but not under load"}
        return f"`seed` is honoured {loaded.get(self.honoured_under_load, 'alone')}."


def ask_seeds(endpoint: Endpoint, prompt: str, tokens: int, seed: int, level: int) -> Seeds:
    """Ask one seed `SAME` times and `OTHER` further seeds once, alone, and then the one seed `level` times at once."""
    request = Request(prompt, tokens, 1.0, seed)
    same = [endpoint.ask(request) for _ in range(SAME)]
    other = [endpoint.ask(replace(request, seed=seed + step)) for step in range(1, OTHER + 1)]
    return Seeds(same, other, together(endpoint, [request] * level) if level > 1 else [])


def _said(reply: Reply) -> object:
    return None if reply.answer is None else reply.answer.said
