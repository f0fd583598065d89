"""A direction as a recipe of a few integers, and its expansion to a unit vector by exactly rounded steps only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("axis", "subspace", "sparse", "sign", "gaussian")
"""From the simplest to the least simple: the order in which Hypothesis shrinks."""

_TERMS = 12
_LARGEST = 2**53
# What the integers of each kind look like: how many, or pairs of them.
_COUNTS = {"axis": 2, "sign": 1, "gaussian": 1}


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction in `dim` dimensions; its repr can be pasted into a test.

    By `kind`, `data` is

    - `axis`: (index, 1 or -1), one coordinate;
    - `subspace`: integer coefficients c of the first rows of a basis (k, dim), which `expand` must be given;
    - `sparse`: pairs (index, integer), a few coordinates;
    - `sign`: (r,), +-1 everywhere, -1 where r and the index have an odd number of common binary digits: row r of a
      Hadamard matrix of the next power of two, so that r = 0 is all ones;
    - `gaussian`: (seed,), nearly normal: each coordinate is the centred sum of 12 uniform 16-bit integers (Irwin-Hall;
      its tails end at 6 standard deviations).
    """

    kind: str
    data: tuple[Any, ...]
    dim: int

    def __post_init__(self) -> None:
        """Refuse what is not a direction: an unknown kind, an index outside, all zeros."""
        if self.kind not in KINDS:
            raise UsageError(f"direction kind {self.kind[:40]!r} is none of {', '.join(KINDS)}")
        if self.dim < 1:
            raise UsageError(f"a direction in {self.dim} dimensions does not exist")
        indices = [self.data[0]] if self.kind == "axis" else [i for i, _ in self.data] if self.kind == "sparse" else []
        if any(not 0 <= index < self.dim for index in indices):
            raise UsageError(f"{self} names a coordinate outside 0..{self.dim - 1}")
        if self.kind in ("axis", "subspace", "sparse") and not any(self._coefficients()):
            raise UsageError(f"{self} is the zero direction")
        if self.kind in ("subspace", "sparse") and any(abs(one) > _LARGEST for one in self._coefficients()):
            raise UsageError(f"a direction of kind {self.kind} has a coefficient beyond {_LARGEST}; give smaller ones")

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the unit vector, (dim,) float64 on the CPU, bit-identical on every machine.

        `basis` (k, dim) is needed by `subspace` alone. Integers come from SHAKE-256, sums are exact (integers) or
        correctly rounded (`math.fsum`), and the rest is one square root and one division a coordinate. O(k dim).
        """
        import torch

        values = self._combined(basis) if self.kind == "subspace" else self._integers()
        norm = math.sqrt(math.fsum(value * value for value in values))
        if norm == 0:
            raise UsageError(f"{self} is the zero direction on this basis")
        return torch.tensor([value / norm for value in values], dtype=torch.float64)

    def on(self, basis: Tensor | None) -> Placed:
        """Return this recipe with its basis: what a measurement can expand without knowing of one."""
        return Placed(self, basis)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain data: kind, data (pairs as lists) and dim."""
        plain = [list(item) if isinstance(item, tuple) else item for item in self.data]
        return {"kind": self.kind, "data": plain, "dim": self.dim}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Direction:
        """Rebuild a recipe from `to_dict`; other keys are passed over. UsageError for what is not one."""
        kind, items, dim = data.get("kind"), data.get("data"), data.get("dim")
        if not (isinstance(kind, str) and isinstance(items, list) and _whole(dim) and _fits(kind, items)):
            shown = ascii({"kind": kind, "data": items, "dim": dim})[:200]
            raise UsageError(f"{shown} is not a direction; give kind, data and dim as to_dict writes them")
        return cls(kind, tuple(tuple(item) if isinstance(item, list) else item for item in items), dim)

    def _coefficients(self) -> list[int]:
        if self.kind == "axis":
            return [self.data[1]]
        return [value for _, value in self.data] if self.kind == "sparse" else list(self.data)

    def _combined(self, basis: Tensor | None) -> list[float]:
        if basis is None or tuple(basis.shape[1:]) != (self.dim,) or len(basis) < len(self.data):
            found = "none" if basis is None else str(tuple(basis.shape))
            raise UsageError(f"{self} needs a basis of at least ({len(self.data)}, {self.dim}); got {found}")
        rows = basis[: len(self.data)].double().cpu().tolist()
        return [math.fsum(c * x for c, x in zip(self.data, column, strict=True)) for column in zip(*rows, strict=True)]

    def _integers(self) -> Sequence[int]:
        if self.kind == "sign":
            return [1 - 2 * ((self.data[0] & index).bit_count() & 1) for index in range(self.dim)]
        if self.kind == "gaussian":
            return _gaussian(self.data[0], self.dim)
        values = [0] * self.dim
        for index, value in [self.data] if self.kind == "axis" else self.data:
            values[index] += value
        return values


@dataclass(frozen=True, slots=True)
class Placed:
    """A recipe with the basis it is expanded on; it prints as the recipe."""

    direction: Direction
    basis: Tensor | None

    @property
    def kind(self) -> str:
        """The recipe's kind."""
        return self.direction.kind

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the recipe's unit vector; a basis given here comes before its own."""
        return self.direction.expand(self.basis if basis is None else basis)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe's data; for a `subspace` also `basis`, the digest of the rows that it combines."""
        plain = self.direction.to_dict()
        if self.kind != "subspace" or self.basis is None:
            return plain
        from stabilitykit.numerics.digest import digest

        return {**plain, "basis": digest(self.basis[: len(self.direction.data)].double())}

    def __repr__(self) -> str:
        """Return the recipe's repr."""
        return repr(self.direction)


def gaussians(count: int, dim: int, seed: int = 0, start: int = 0) -> tuple[Direction, ...]:
    """Return `count` gaussian directions from number `start` on; each has its number, and other seeds share none."""
    return tuple(Direction("gaussian", (seed * 2**32 + index,), dim) for index in range(start, start + count))


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(kind: str, items: list[Any]) -> bool:
    """Return whether these are the integers of a direction of this kind."""
    if kind == "sparse":
        return all(isinstance(item, list) and len(item) == 2 and all(map(_whole, item)) for item in items)
    return all(map(_whole, items)) and len(items) == _COUNTS.get(kind, len(items))


def _gaussian(seed: int, dim: int) -> list[int]:
    """Return twice the centred sums, so that they are whole numbers."""
    stream = hashlib.shake_256(f"stabilitykit gaussian {seed}".encode()).digest(dim * _TERMS * 2)
    draws = np.frombuffer(stream, dtype="<u2").reshape(dim, _TERMS)
    sums: list[int] = (2 * draws.sum(axis=1, dtype=np.int64) - _TERMS * 0xFFFF).tolist()
    return sums
