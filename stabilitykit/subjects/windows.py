"""A long text in windows: where each begins, which tokens it predicts, and the logits as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from stabilitykit.subjects.generation import Text, Way
from stabilitykit.subjects.words import Tokenised

if TYPE_CHECKING:
    from stabilitykit.subjects.anatomy import Anatomy
    from stabilitykit.subjects.models import LoadedModel

CHUNK = 64
"""Tokens that are run at once on a window's cache: enough to fill the kernels, few enough to keep their logits."""


@dataclass(frozen=True, slots=True)
class Window:
    """Reads tokens `start` to `end` of a text, predicts `first` to `end`; ends are exclusive.

    What it gives depends on nothing but these tokens: each begins with an empty cache.
    """

    start: int
    first: int
    end: int

    def positions(self, lead: int) -> int:
        """Return the tokens that pass the model: all but the last, behind `lead` special ones."""
        return lead + self.end - 1 - self.start


def windows(tokens: int, width: int, stride: int, lead: int) -> list[Window]:
    """Return windows of at most `width` tokens, `lead` special ones among them, each `stride` behind the one before.

    Together they predict every token once, but a first one that nothing precedes. From the second window on there are
    at least width - stride tokens before each predicted one.
    """
    body = width - lead
    ends = [*range(body, tokens, stride), tokens]
    firsts = [0 if lead else 1, *ends]
    return [Window(k * stride, first, end) for k, (first, end) in enumerate(zip(firsts, ends, strict=False))]


def way(anatomy: Anatomy) -> Way:
    """Return how a window is run: in pieces of CHUNK on its cache, or at once by a model that keeps none."""
    return Way("prefill", chunk=None if anatomy.past is None else CHUNK)


def text_of(loaded: LoadedModel, anatomy: Anatomy, text: Tokenised, window: Window) -> Text:
    """Return a window as a prompt and the tokens that it predicts, which are said already."""
    said = list(text.ids[window.first : window.end])
    found = Text(loaded, [*text.lead, *text.ids[window.start : window.first]], len(said), anatomy)
    found.generated = said
    return found


def heard(text: Text, way: Way) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the logits (n, V) of what was said, in order, in pieces, with the states (n, H) that the head made them of.

    No state where the head is not the model's own last part.
    """
    for logits in text.forced(way):
        yield logits, None if text.state is None else text.state[-len(logits) :]
