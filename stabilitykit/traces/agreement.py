"""How far two generations of one prompt agree: token by token, stage by stage, and in what they would say next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabilitykit.numerics.bits import FORMATS, spacing
from stabilitykit.traces.digests import ABSENT
from stabilitykit.traces.recording import Generation


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two generations a and b of one prompt, over the n steps that both read the same tokens before.

    `divergence` is the first step whose tokens differ, None if there is none; where one text is longer it is the end of
    the shorter. `steps` counts the steps that can be compared, the divergence among them; when both are forced, all.
    `differs` (steps, stages) says where digests differ, of shared stages, None where bits cannot be compared. `flips`
    (steps,) says where both would say different tokens, `margins` (steps, 2) is how far each puts its token before the
    runner-up, in logits, `margins_ulp` the same in ULP of the larger logit. `kl` (steps,) is a lower bound of the
    Kullback-Leibler divergence of a's next token from b's, in nats, `overlap` (steps,) the Jaccard index of both top
    lists.
    """

    a: Generation
    b: Generation
    divergence: int | None
    steps: int
    differs: NDArray[np.bool_] | None
    flips: NDArray[np.bool_]
    margins: NDArray[np.float64]
    margins_ulp: NDArray[np.float64]
    kl: NDArray[np.float64]
    overlap: NDArray[np.float64]

    @property
    def agreed(self) -> int:
        """How many tokens both texts begin with."""
        return min(self.a.steps, self.b.steps) if self.divergence is None else self.divergence

    @property
    def first(self) -> tuple[int, int] | None:
        """The first differing (step, stage), in the order in which they run; None if all bits agree."""
        if self.differs is None or not self.differs.any():
            return None
        step, stage = np.unravel_index(int(self.differs.argmax()), self.differs.shape)
        return int(step), int(stage)

    @property
    def is_explained(self) -> bool:
        """Whether the divergence is a near-tie: the margins moved by more than either side had."""
        if self.divergence is None or self.divergence >= len(self.margins):
            return False
        moved = moved_margin(self.a, self.b, self.divergence)
        return moved is not None and moved >= float(self.margins[self.divergence].max())


def agreement(a: Generation, b: Generation, stages: tuple[list[int], list[int]] | None, *, forced: bool) -> Agreement:
    """Compare two generations; `stages` are the indices of shared stages on both sides, None where bits cannot be."""
    shorter = min(a.steps, b.steps)
    divergence = None if forced else _divergence(a, b, shorter)
    steps = shorter if divergence is None else min(divergence + 1, shorter)
    margins = np.stack([one.margins[:steps] for one in (a, b)], axis=1)
    units = np.stack([_spacing(one, steps) for one in (a, b)], axis=1)
    return Agreement(
        a,
        b,
        divergence,
        steps,
        differs=None if stages is None else _differs(a, b, steps, stages),
        flips=a.predicted[:steps] != b.predicted[:steps],
        margins=margins,
        margins_ulp=margins / units,
        kl=np.array([_kl(a, b, step) for step in range(steps)]),
        overlap=np.array([_jaccard(a.top_ids[step], b.top_ids[step]) for step in range(steps)]),
    )


def moved_margin(a: Generation, b: Generation, step: int) -> float | None:
    """Return how far apart both runs put their own tokens, |(z_a - z_b) of a - (z_a - z_b) of b|, in logits.

    None where one of the two tokens is not in the top list of a run.
    """
    ours, theirs = int(a.predicted[step]), int(b.predicted[step])
    gaps = []
    for one in (a, b):
        logits = dict(zip(one.top_ids[step].tolist(), one.top_logits[step].double().tolist(), strict=True))
        if ours not in logits or theirs not in logits:
            return None
        gaps.append(logits[ours] - logits[theirs])
    return float(abs(gaps[0] - gaps[1]))


def _divergence(a: Generation, b: Generation, shorter: int) -> int | None:
    differing = first_other(a.tokens, b.tokens)
    if differing is not None:
        return differing
    return None if a.steps == b.steps else shorter


def first_other(a: NDArray[np.int64], b: NDArray[np.int64]) -> int | None:
    """Return the first place at which two lists differ, as far as both go; None if they do not."""
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else None


def _differs(a: Generation, b: Generation, steps: int, stages: tuple[list[int], list[int]]) -> NDArray[np.bool_]:
    ours, theirs = a.digests[:steps, stages[0]], b.digests[:steps, stages[1]]
    absent = np.frombuffer(ABSENT, dtype=np.uint8)
    neither = (ours == absent).all(axis=2) & (theirs == absent).all(axis=2)
    unequal: NDArray[np.bool_] = (ours != theirs).any(axis=2) & ~neither
    return unequal


def _spacing(one: Generation, steps: int) -> NDArray[np.float64]:
    largest = one.top_logits[:steps, 0]
    if largest.dtype not in FORMATS:
        return np.full(steps, np.nan)
    found: NDArray[np.float64] = spacing(largest).double().numpy()
    return found


def _kl(a: Generation, b: Generation, step: int) -> float:
    """Return KL over the tokens that both lists have, and the rest as one outcome: never more than over all tokens."""
    p, q = _probabilities(a, step), _probabilities(b, step)
    shared = sorted(p.keys() & q.keys())
    outcomes = [(p[token], q[token]) for token in shared]
    rest = [max(1 - math.fsum(side), 0.0) for side in zip(*outcomes, strict=True)] if outcomes else []
    pairs = [*outcomes, *([(rest[0], rest[1])] if rest else [])]
    return max(math.fsum(x * math.log(x / y) for x, y in pairs if x > 0 and y > 0), 0.0)


def _probabilities(one: Generation, step: int) -> dict[int, float]:
    logits = one.top_logits[step].double().numpy() - one.normaliser[step]
    return dict(zip(one.top_ids[step].tolist(), np.exp(logits).tolist(), strict=True))


def _jaccard(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    left, right = set(ours.tolist()), set(theirs.tolist())
    return len(left & right) / len(left | right)
