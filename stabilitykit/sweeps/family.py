"""Directions by the thousand: a kind and how many, in a fixed order, each known by its number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import UsageError
from stabilitykit.strategies.recipe import Direction, gaussians

if TYPE_CHECKING:
    from torch import Tensor

    from stabilitykit.measurements.directions import Recipe
    from stabilitykit.subjects.subject import Subject

_WRITTEN = re.compile(r"(gaussian|sign|singular|fan):([1-9][0-9]*|all)")


@dataclass(frozen=True, slots=True)
class Member:
    """A direction that a subject has, under the name that rows call it by."""

    name: str
    vector: Tensor = field(compare=False)

    @property
    def kind(self) -> str:
        """What it is."""
        return "member"

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return its bits, (H,) float64."""
        return self.vector

    def __repr__(self) -> str:
        """Return the name, which is the label of a row."""
        return self.name


@dataclass(frozen=True, slots=True)
class Family:
    """`gaussian:4096`, `sign:64`, `singular:64` or `singular:all`, `fan:1000`.

    - `gaussian:N`: N normal directions drawn from the sweep's seed; a larger N begins with the same ones;
    - `sign:N`: rows 0 to N - 1 of a Hadamard matrix, +-1 everywhere;
    - `singular:N`: right singular vectors v1 to vN of the subject, or all of them;
    - `fan:N`: cos(t) v1 + sin(t) v2 for N equally spaced angles t.
    """

    kind: str
    count: int | None
    """None for all."""

    @classmethod
    def parse(cls, text: str) -> Family:
        """Read a family as it is written; UsageError for anything else."""
        match = _WRITTEN.fullmatch(text)
        if match is None or (match[2] == "all" and match[1] != "singular"):
            raise UsageError(
                f"directions {text!r} are none of gaussian:N, sign:N, singular:N, singular:all, fan:N with N from 1 up"
            )
        return cls(match[1], None if match[2] == "all" else int(match[2]))

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.kind}:{self.count or 'all'}"

    @property
    def exact(self) -> bool:
        """Whether numbers alone give the bits, on every machine; the others are computed from the model."""
        return self.kind in ("gaussian", "sign")

    def size(self, hidden_size: int) -> int:
        """Return how many directions there are in so many dimensions; UsageError for more than exist."""
        if self.kind in ("singular", "sign") and (self.count or 0) > hidden_size:
            raise UsageError(f"directions {self} do not exist: the input has {hidden_size} coordinates")
        return self.count or hidden_size

    def identity(self, start: int, stop: int, seed: int) -> list[Any]:
        """Return what decides the bits of the members from `start` to before `stop`, beside the subject."""
        if self.kind == "gaussian":
            return [self.kind, seed, start, stop]
        # The vectors that one computation gives have last bits that depend on how many were asked for.
        return [self.kind, None if self.exact else self.count, start, stop]

    def members(
        self, start: int, stop: int, seed: int, subject: Subject, vectors: Callable[[int], Tensor]
    ) -> Sequence[Recipe]:
        """Return these members; `vectors(n)` gives at least n right singular vectors, (>= n, H)."""
        H = subject.x0.numel()
        if self.kind == "gaussian":
            return gaussians(stop - start, H, seed, start)
        if self.kind == "sign":
            return [Direction("sign", (row,), H) for row in range(start, stop)]
        if self.kind == "singular":
            found = vectors(self.size(H))[start:stop]
            return [Member(f"v{start + index + 1}", vector) for index, vector in enumerate(found)]
        from stabilitykit.measurements.boundary import around

        first, second = vectors(2)[:2]
        turned, _, labels = around(subject, (Member("v1", first), Member("v2", second)), self.size(H))
        return [Member(label, vector) for label, vector in list(zip(labels, turned, strict=True))[start:stop]]
