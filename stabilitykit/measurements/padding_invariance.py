"""Does an answer depend on the padding beside the prompt?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.invariance import Case, Invariance, check_lengths, on_prefill, repeated, where
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.differences import difference
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.schedules import padded
from stabilitykit.subjects.subject import Subject

CONTENTS = ("pad token", "other tokens")


@dataclass(frozen=True, eq=False)
class PaddingInvariance(Invariance):
    """Compare a prompt alone with the same prompt beside padding that an attention mask hides.

    For the prompt cut to each of `lengths`: with a mask of ones and no padding; and with each of `pads` hidden tokens
    on each of `sides_padded`, once filled with the tokenizer's padding token (or the end token, or token 0) and once
    with random tokens. On the left, positions count from the prompt's first token. Reference: the prompt alone without
    a mask, batch 1. What is hidden must not matter: `leaks` counts the places where the two fillings give different
    bits. Zero where padding only changes kernels; anything else has read what it must not. Rows: path, length, side,
    pads, content, differing_bits, share, max_ulp, max_scaled_ulp, l2, bits_equal, leaks. UnsupportedError for what is
    no language model or takes no mask. Cost: each length 3 forwards, and 2 for each side and number of pads.
    """

    lengths: tuple[int, ...] = (1, 3, 5, 8, 13)
    pads: tuple[int, ...] = (1, 4, 12)
    sides_padded: tuple[str, ...] = ("right", "left")

    metrics: ClassVar[tuple[Metric, ...]] = (
        *Invariance.metrics,
        Metric("leaks", "cases", "lower", "paddings whose hidden tokens change a bit of the output"),
    )
    place: ClassVar[tuple[str, ...]] = ("path", "length", "side", "pads", "content")
    sides: ClassVar[tuple[str, str]] = ("alone", "padded")
    causes: ClassVar[tuple[str, ...]] = (
        "another attention kernel: with a mask the causal fast path is left",
        "a matrix kernel chosen by the number of rows",
        "a mask or position that is off by one, if leaks are not 0 or the difference is not of rounding size",
    )

    def __post_init__(self) -> None:
        """Refuse paddings that are none."""
        check_lengths(self.lengths)
        if not self.pads or min(self.pads) < 1:
            raise UsageError(f"pads={self.pads}: padding has at least 1 token; the mask alone is always tried")
        if not self.sides_padded or set(self.sides_padded) - {"left", "right"}:
            raise UsageError(f"sides_padded={self.sides_padded}: a side is left or right")

    def cost(self, subject: Subject) -> Cost:
        """Exact."""
        return Cost(forwards=len(self.lengths) * (3 + 2 * len(self.pads) * len(self.sides_padded)))

    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the prompt at each length, whole."""
        if not isinstance(subject, CausalLMSubject):
            raise UnsupportedError(f"{subject.name} is no language model, so it has no prompt to pad")
        return on_prefill(subject, self.lengths)

    def cases(self, subject: Subject) -> Iterator[Case]:
        """Yield the mask alone, then every padding with both contents."""
        assert isinstance(subject, CausalLMSubject)
        alone, most = repeated(subject, "padding"), max(self.pads)
        filled = dict(zip(CONTENTS, _fillings(subject, most), strict=True))
        unpadded = {**where(subject), "side": "none", "pads": 0, "content": "mask alone", "leaks": False}
        yield unpadded, difference(alone, padded(subject, "right", filled["pad token"][:0]))
        for side in self.sides_padded:
            for pads in self.pads:
                outputs = {content: padded(subject, side, filled[content][:pads]) for content in CONTENTS}
                leaks = not bits_equal(*outputs.values())
                for content, output in outputs.items():
                    row = {**where(subject), "side": side, "pads": pads, "content": content, "leaks": leaks}
                    yield row, difference(alone, output)

    def further(self, cases: Sequence[Case]) -> Mapping[str, float | Reading]:
        """Return the number of paddings that leak."""
        return {"leaks": _leaks(cases)}

    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say in how many cases bits differ, and whether what is hidden is read."""
        if not differing:
            return f"The prompt has the same bits alone and beside padding in all {len(cases)} cases."
        leaks = _leaks(cases)
        read = (
            f"In {leaks} paddings what the mask hides changes the answer."
            if leaks
            else "What the mask hides never changes a bit, so this is a choice of kernels and not a leak."
        )
        return f"Beside padding the prompt has other bits in {len(differing)} of {len(cases)} cases. {read}"

    def name(self, where: Mapping[str, Any]) -> str:
        """Return e.g. `y (3 tokens, 4 pads on the left, pad token)`."""
        beside = f"{where['pads']} pads on the {where['side']}, " if where["pads"] else ""
        return f"y ({where['length']} tokens, {beside}{where['content']})"


def _leaks(cases: Sequence[Case]) -> int:
    """Return how many paddings leak; each has a case for either content."""
    return sum(bool(row["leaks"]) for row, _ in cases) // len(CONTENTS)


def _fillings(subject: CausalLMSubject, count: int) -> tuple[Tensor, Tensor]:
    """Return the embeddings (count, H) of the padding token, and of random tokens."""
    tokenizer = subject.loaded.tokenizer
    known = [getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id")]
    pad = next((token for token in known if isinstance(token, int)), 0)
    vocabulary = len(subject.anatomy.embedding.weight)  # type: ignore[arg-type]
    drawn = np.random.Generator(np.random.PCG64(count)).integers(0, vocabulary, size=count)
    with torch.no_grad():
        ids = torch.tensor([[pad] * count, drawn.tolist()], device=subject.x0.device)
        padding, others = subject.anatomy.embedding(ids)
    return padding, others
