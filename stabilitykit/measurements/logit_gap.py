"""The difference of two logits of the model's own head: what decides between two tokens, and how noisy that is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.rounding import Floats
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True)
class LogitGap:
    """D(x) = z_a - z_b for the two tokens of `pair`, of a subject whose outputs are logits.

    Its bits are those of the whole head: a product of two rows has others (on SmolLM2 in float32 every second logit, by
    one unit in its last place), and near a tie a last bit is the answer. See `pair_logits` for what gives them. D is a
    float64 number, exact up to its own rounding.
    """

    subject: Subject
    pair: tuple[int, int]

    def of(self, Z: Tensor) -> Floats:
        """Return D for each row of logits (K, V), (K,) float64."""
        a, b = self.pair
        gaps = Z[:, a].double() - Z[:, b].double()
        return gaps.cpu().numpy()

    @cached_property
    def baseline(self) -> Floats:
        """D(x0) in every slot, (B,)."""
        return self.of(self.subject.baseline)

    @cached_property
    def gradient(self) -> Tensor | None:
        """Return dD/dx at x0, (H,) float64 on the CPU, None where the subject has no reverse derivative. One product.

        For a model whose logits are the head's own rows, it is J' (w_a - w_b); a scale or cap of the model is in it.
        """
        u = torch.zeros_like(self.subject.baseline[:1])
        u[0, self.pair[0]], u[0, self.pair[1]] = 1, -1
        try:
            return self.subject.vjp(u)[0].double().cpu()
        except UnsupportedError:
            return None

    @cached_property
    def noise(self) -> float:
        """Return the largest difference of D between mathematically equal evaluations of x0, in logits."""
        gaps = [self.of(self.subject.finite(Z)) for _, Z in self.subject.equivalents()]
        return float(max(gap.max() for gap in gaps) - min(gap.min() for gap in gaps))


def names(subject: Subject, pair: tuple[int, int]) -> list[str]:
    """Return the texts of two tokens as the tokenizer decodes them, their numbers where there is none."""
    tokenizer = getattr(getattr(subject, "loaded", None), "tokenizer", None)
    return [str(token) if tokenizer is None else str(tokenizer.decode([token])) for token in pair]
