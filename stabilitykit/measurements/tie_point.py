"""An input at which two tokens tie, as it is handed on; and what every input on the way to it was found to give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.numerics.bits import spacing
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.subject import Subject


class Seen(NamedTuple):
    """One input that was asked, with its logits (z_a, z_b) and their probabilities, exact, and the ULP of each larger.

    `other` is the best token beside the pair and its logit, (-1, -inf) if there is none.
    """

    x: Tensor
    kind: str
    logits: tuple[float, float]
    ulp: float
    probabilities: tuple[float, float]
    probability_ulp: float
    other: tuple[int, float]

    @property
    def gap(self) -> float:
        """z_a - z_b."""
        return self.logits[0] - self.logits[1]

    @property
    def pair_leads(self) -> bool:
        """Whether both tokens of the pair lie above every other."""
        return min(self.logits) > self.other[1]

    def off(self, equal: str) -> float:
        """Return how far from equal: in ULP of the larger logit, or of the larger probability."""
        if equal == "logits":
            return abs(self.gap) / self.ulp
        a, b = self.probabilities
        return abs(a - b) / self.probability_ulp


def read(x: Tensor, z: Tensor, pair: tuple[int, int], kind: str) -> Seen:
    """Return what the logits z (M,) of x say about the pair; probabilities are softmax(z) in z's own dtype."""
    chosen, p = z[list(pair)], torch.softmax(z, dim=-1)[list(pair)]
    others = z.double()
    others[list(pair)] = -math.inf
    third = int(others.argmax()) if z.numel() > 2 else -1
    a, b = chosen.double().tolist()
    pa, pb = p.double().tolist()
    leader = float(others.max())
    return Seen(x, kind, (a, b), float(spacing(chosen).max()), (pa, pb), float(spacing(p).max()), (third, leader))


@dataclass(frozen=True)
class TiePoint:
    """An input x (H,) at which tokens a and b of `pair` are as equal as was found, and where it was reached from.

    `logits` are (z_a, z_b) in slot `slot` of the subject's batch on its path, exact; `ulp` is the spacing of the
    larger one. `trace` has one entry for every input tried, in order. `forwards` and `backwards` count rows.
    """

    x: Tensor
    x0: Tensor
    pair: tuple[int, int]
    equal: str
    logits: tuple[float, float]
    ulp: float
    probabilities: tuple[float, float]
    other: tuple[int, float]
    residual: float
    gap0: float
    trace: tuple[dict[str, float | str], ...]
    forwards: int
    backwards: int
    path: str
    batch: int
    slot: int = 0

    @property
    def gap(self) -> float:
        """z_a - z_b at the tie."""
        return self.logits[0] - self.logits[1]

    @property
    def gap_ulp(self) -> float:
        """|z_a - z_b| in ULP of the larger logit."""
        return abs(self.gap) / self.ulp

    @property
    def distance(self) -> float:
        """|x - x0|."""
        return float((self.x.double() - self.x0.double()).norm())

    @property
    def relative_distance(self) -> float:
        """|x - x0| / |x0|; inf from a zero input."""
        norm = float(self.x0.double().norm())
        return self.distance / norm if norm else math.inf

    @property
    def equal_probabilities(self) -> bool:
        """Whether the probabilities, computed in the model's dtype, are the same number."""
        return self.probabilities[0] == self.probabilities[1]


def reading_logits(subject: Subject) -> Subject:
    """Return the subject at its logits: itself, or a causal model's read there. UnsupportedError if it has none."""
    if isinstance(subject, CausalLMSubject):
        return subject if subject.site == "logits" else subject.with_site("logits")
    if isinstance(subject, FunctionSubject):
        return subject
    raise UnsupportedError(f"{subject.name} has no logits, so no two tokens of it can tie")


def lanes(subject: Subject) -> int:
    """Return how many inputs one batch answers with the bits of slot 0: all slots proved equal to it, else that one."""
    proofs = getattr(subject, "proofs", None)
    return subject.batch if proofs is not None and proofs.slots_equal else 1


def pair_of(subject: Subject, pair: tuple[int, int] | None) -> tuple[int, int]:
    """Return the two tokens with the largest logits at x0, or the given ones; UsageError for what is no pair."""
    return pair_in(subject.baseline[0], pair, subject.name)


def pair_in(z: Tensor, pair: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """As `pair_of`, in logits z (V,) of what is called `name`."""
    if z.numel() < 2:
        raise UsageError(f"{name} gives {z.numel()} number: a tie takes two")
    if pair is None:
        first = int(z.argmax())
        rest = z.clone()
        rest[first] = -math.inf
        return first, int(rest.argmax())
    whole = isinstance(pair, tuple | list) and len(pair) == 2 and all(type(token) is int for token in pair)
    if not whole or not all(0 <= token < z.numel() for token in pair):
        raise UsageError(f"pair={pair!r}: give two token ids from 0 to {z.numel() - 1}")
    if pair[0] == pair[1]:
        raise UsageError(f"pair={pair!r}: a token always ties with itself; give two different ids")
    return pair[0], pair[1]
