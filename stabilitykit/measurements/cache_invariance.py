"""Does an answer depend on how the prompt was fed through the cache?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.invariance import Case, Invariance, check_lengths, on_prefill, repeated, where
from stabilitykit.numerics.differences import difference
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.schedules import in_pieces
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class CacheInvariance(Invariance):
    """Compare the last token's output of a whole prompt with that of the same prompt fed in pieces through a cache.

    For the prompt cut to each of `lengths`: with a cache kept but not used; all but the last token and then it, as
    generation does; and in pieces of each of `pieces` tokens (1: token by token; chunked prefill otherwise). Equal
    schedules are run once. Reference: the whole prompt at once, without a cache, batch 1. Rows: path, length, kind,
    schedule (as `4+4+1`), differing_bits, share, max_ulp, max_scaled_ulp, l2, bits_equal. UnsupportedError for what
    keeps no cache. Cost: each length 2 forwards, and one for each schedule.
    Source: the study ran whole texts where generation runs one token; how far apart they are is a question of kernels.
    """

    lengths: tuple[int, ...] = (2, 3, 5, 8, 13)
    pieces: tuple[int, ...] = (1, 2, 4)

    place: ClassVar[tuple[str, ...]] = ("path", "length", "schedule")
    sides: ClassVar[tuple[str, str]] = ("at once", "in pieces")
    causes: ClassVar[tuple[str, ...]] = (
        "a matrix kernel chosen by the number of rows: one token is a matrix-vector product",
        "attention that reduces in another order over a cache than over a prompt",
        "a cache of another dtype, or of states that are updated in place, if the difference is not of rounding size",
    )

    def __post_init__(self) -> None:
        """Refuse prompts and pieces without a token."""
        check_lengths(self.lengths)
        if not self.pieces or min(self.pieces) < 1:
            raise UsageError(f"pieces={self.pieces}: a piece has at least 1 token")

    def cost(self, subject: Subject) -> Cost:
        """Exact."""
        return Cost(forwards=sum(2 + len(self.schedules(length)) for length in self.lengths))

    def schedules(self, length: int) -> dict[tuple[int, ...], str]:
        """Return the distinct ways to cut a prompt of so many tokens, each with its kind."""
        kinds: dict[tuple[int, ...], str] = {(length,): "cache kept"}
        if length > 1:
            kinds[(length - 1, 1)] = "last alone"
        for size in self.pieces:
            cut = tuple(min(size, length - at) for at in range(0, length, size))
            kinds.setdefault(cut, f"pieces of {size}")
        return kinds

    def subjects(self, subject: Subject) -> Sequence[Subject]:
        """Return the prompt at each length, whole."""
        if not isinstance(subject, CausalLMSubject) or subject.anatomy.past is None:
            raise UnsupportedError(f"{subject.name} keeps no cache, so nothing can be fed in pieces through it")
        return on_prefill(subject, self.lengths)

    def cases(self, subject: Subject) -> Iterator[Case]:
        """Yield every schedule."""
        assert isinstance(subject, CausalLMSubject)
        alone = repeated(subject, "cache")
        for schedule, kind in self.schedules(len(subject.ids)).items():
            row = {**where(subject), "kind": kind, "schedule": "+".join(map(str, schedule))}
            yield row, difference(alone, in_pieces(subject, schedule))

    def sentence(self, differing: Sequence[Case], cases: Sequence[Case]) -> str:
        """Say in how many schedules bits differ, and by how much."""
        if not differing:
            return f"The last token's output has the same bits at once and in pieces, in all {len(cases)} schedules."
        most = max(one.max_scaled_ulp for _, one in differing)
        return (
            f"Fed in pieces through a cache, the last token's output has other bits in {len(differing)} of "
            f"{len(cases)} schedules, by up to {most:.3g} ULP of its largest element."
        )

    def name(self, where: Mapping[str, Any]) -> str:
        """Return e.g. `y (5 tokens as 4+1)`."""
        return f"y ({where['length']} tokens as {where['schedule']})"
