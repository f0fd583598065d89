"""Directions by name, by recipe or by numbers, and a store so that one subject's singular vectors exist once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.spectrum import cheaper_whole, leading
from stabilitykit.numerics.bits import name_of
from stabilitykit.results.plain import to_plain
from stabilitykit.subjects.environment import environment, numeric_key
from stabilitykit.subjects.subject import Subject


@runtime_checkable
class Recipe(Protocol):
    """Something that expands to an exact direction, as `stabilitykit.strategies` draws them."""

    @property
    def kind(self) -> str:
        """What kind of direction it is, in one word."""

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the direction, (H,) float64."""


class Singular(NamedTuple):
    """Singular values (k,), largest first, and right singular vectors (k, H), both float64."""

    sigma: Tensor
    v: Tensor


Directions = Tensor | str | Recipe | Sequence[str | Recipe]

_NAME = re.compile(r"(-?)v([1-9][0-9]*)")
_WITHIN = re.compile(r"(-?)v([1-9][0-9]*|_middle|_last)")
_memory: dict[str, Singular] = {}
_of_functions: WeakKeyDictionary[object, dict[str, Singular]] = WeakKeyDictionary()
_folder: ContextVar[Path | None] = ContextVar("stability_vectors", default=None)


@contextmanager
def vectors_in(folder: Path) -> Iterator[None]:
    """Share singular vectors of the work inside through a folder, so that several workers compute them once."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def derived_folder() -> Path | None:
    """Return the folder that workers share what they derive from a subject through, if there is one."""
    return _folder.get()


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


def count(directions: Directions) -> int:
    """Return how many directions there are, without computing one that is only named: what stating a cost needs."""
    if isinstance(directions, Tensor):
        return len(directions) if directions.dim() == 2 else 1
    return len(directions) if isinstance(directions, Sequence) and not isinstance(directions, str) else 1


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
    whole = int(subject.baseline.shape[1]) if any(numbers) and len(few) < sum(map(bool, numbers)) else 0
    return whole + (max(60, 8 * max(few)) if few else 0)


def singular_vectors(subject: Subject, count: int) -> Tensor:
    """Return the first `count` right singular vectors of the subject, (>= count, H) float64, signs fixed."""
    return singular(subject, count).v


def singular(subject: Subject, count: int) -> Singular:
    """Return at least the first `count` singular values and right singular vectors of the subject, signs fixed.

    Computed once for a subject and numeric environment: kept in memory, and in the folder of `vectors_in` if one is
    set, behind a lock. Few vectors come from products, many from the dense Jacobian; both are kept, so that asking for
    many does not move a last bit of the first. The batch shape does not change the map, so it is not part of the key.
    A subject without a digest of its weights, such as a bare function, is known by the object alone and shares nothing.
    """
    H = subject.x0.numel()
    if count > H:
        raise UsageError(f"v{count} does not exist: the input has {H} coordinates")
    described = subject.describe()
    key, named = subject_key(subject), "model_digest" in described
    memory = _memory if named else _of_functions.setdefault(getattr(subject, "fn", subject), {})
    if cheaper_whole(subject, count):
        key += "-all"
    if key not in memory or len(memory[key].sigma) < count:
        memory[key] = _shared(key, subject, count) if named else _compute(subject, count)
    return memory[key]


def _shared(key: str, subject: Subject, count: int) -> Singular:
    folder = _folder.get()
    if folder is None:
        return _compute(subject, count)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.npz"
    with FileLock(f"{path}.lock"):
        if path.exists() and len((stored := _stored(path)).sigma) >= count:
            return stored
        found = _compute(subject, count)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, sigma=found.sigma.numpy(), v=found.v.numpy())
        partial.replace(path)
        return found


def _stored(path: Path) -> Singular:
    with np.load(path, allow_pickle=False) as arrays:
        return Singular(torch.from_numpy(arrays["sigma"]), torch.from_numpy(arrays["v"]))


def _compute(subject: Subject, count: int) -> Singular:
    triplets = leading(subject, max(count, min(5, subject.x0.numel(), subject.baseline.shape[1])))
    return Singular(triplets.sigma, triplets.v)


def subject_key(subject: Subject, without: Sequence[str] = ("batch", "proofs")) -> str:
    """Return the digest of a subject's description and numeric environment, by which what is derived of it is kept."""
    identity = {key: value for key, value in subject.describe().items() if key not in without}
    setting = numeric_key(environment(getattr(subject, "loaded", None)))
    text = json.dumps([to_plain(identity), setting, type(subject).__qualname__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
