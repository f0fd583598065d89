"""Directions by name, by recipe or by numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.triplet_store import triplets_of
from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.spectrum import Triplets, budget
from stabilitykit.subjects.subject import Subject


@runtime_checkable
class Recipe(Protocol):
    """Something that expands to an exact direction, as `stabilitykit.strategies` draws them."""

    @property
    def kind(self) -> str:
        """What kind of direction it is, in one word."""

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the direction, (H,) float64."""


Directions = Tensor | str | Recipe | Sequence[str | Recipe]

_NAME = re.compile(r"(-?)v([1-9][0-9]*)")
_WITHIN = re.compile(r"(-?)v([1-9][0-9]*|_middle|_last)")
_FEW = 5


def resolve(directions: Directions, subject: Subject) -> tuple[Tensor, list[str]]:
    """Return (N, H) directions exactly as meant and a label each.

    A tensor (H,) or (N, H) is used as given; "v1", "-v2" are right singular vectors; a recipe expands itself.
    UsageError for anything else, naming what is accepted.
    """
    H = subject.x0.numel()
    if isinstance(directions, Tensor):
        rows = directions.reshape(-1, directions.shape[-1]) if directions.dim() else directions[None, None]
        if directions.dim() > 2 or rows.shape[1] != H:
            raise UsageError(f"directions have shape {tuple(directions.shape)}; give ({H},) or (N, {H})")
        if not rows.dtype.is_floating_point:
            raise UsageError(f"directions are {name_of(rows.dtype)}; give floating-point numbers")
        if not len(rows):
            raise UsageError(f"directions have shape {tuple(directions.shape)}: there is none; give at least one")
        return rows, [str(index) for index in range(len(rows))]
    wanted = [directions] if isinstance(directions, str | Recipe) else list(directions)
    if not wanted:
        raise UsageError("the list of directions is empty; give at least one")
    return torch.stack([_one(direction, subject) for direction in wanted]), [_label(one) for one in wanted]


def each(directions: Directions) -> list[Any]:
    """Return the directions one by one, without computing one that is only named: what stating a cost needs."""
    if isinstance(directions, Tensor):
        return list(directions.reshape(-1, directions.shape[-1])) if directions.dim() else [directions]
    return list(directions) if isinstance(directions, Sequence) and not isinstance(directions, str) else [directions]


def count(directions: Directions) -> int:
    """Return how many directions there are."""
    return len(each(directions))


def _one(direction: str | Recipe, subject: Subject) -> Tensor:
    if isinstance(direction, str):
        match = _NAME.fullmatch(direction)
        if match is None:
            raise UsageError(f"direction {direction!r} is not 'v1', '-v2', ..., a recipe, or a tensor (H,) or (N, H)")
        vector = singular_vectors(subject, int(match[2]))[int(match[2]) - 1]
        return -vector if match[1] else vector
    return direction.expand()


def _label(direction: str | Recipe) -> str:
    return direction if isinstance(direction, str) else repr(direction)


def number_within(one: Any, subject: Subject) -> int:
    """Return the number of a singular vector, at most that of the last, from its name; 0 for anything else.

    "v_middle" and "v_last" are names too.
    """
    match = _WITHIN.fullmatch(one) if isinstance(one, str) else None
    if match is None:
        return 0
    last = min(subject.x0.numel(), subject.baseline.shape[1])
    return {"_middle": (last + 1) // 2, "_last": last}.get(match[2]) or min(last, int(match[2]))


def products_for(numbers: Sequence[int], subject: Subject) -> int:
    """Return the most products that these singular vectors take; 0 is none of them."""
    few = [number for number in numbers if number and not cheaper_whole(subject, number)]
    least = min(subject.baseline.shape[1], subject.x0.numel())
    whole = least if any(numbers) and len(few) < sum(map(bool, numbers)) else 0
    return whole + (budget(_several(max(few), subject)) if few else 0)


def products_of(directions: Directions, subject: Subject) -> int:
    """Return the most products that these directions take: none for those that are given by numbers or recipes."""
    return products_for([number_within(one, subject) for one in each(directions)], subject)


def singular_vectors(subject: Subject, count: int) -> Tensor:
    """Return the first `count` right singular vectors of the subject, (>= count, H) float64, signs fixed."""
    return singular(subject, count).v


def singular(subject: Subject, count: int) -> Triplets:
    """Return at least the first `count` singular triplets of the subject, signs fixed; see `triplets_of`.

    Few come from products, 5, 10, 20 ... at a time, many from the dense Jacobian.
    """
    if count > subject.x0.numel():
        raise UsageError(f"v{count} does not exist: the input has {subject.x0.numel()} coordinates")
    if cheaper_whole(subject, count):
        return triplets_of(subject, "all")
    return triplets_of(subject, _several(count, subject))


def _several(count: int, subject: Subject) -> int:
    """Return how many vectors are computed where so many are asked for: 5, 10, 20 ..., and no more than there are."""
    several = _FEW
    while several < count:
        several *= 2
    return min(several, subject.x0.numel(), int(subject.baseline.shape[1]))


def cheaper_whole(subject: Subject, count: int) -> bool:
    """Whether the products of the dense J are fewer than the about 12 for each of `count` vectors."""
    least = min(subject.baseline.shape[1], subject.x0.numel())
    return 12 * count > least >= count
