"""What is derived from a subject: computed once, and shared with other workers through a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from filelock import FileLock

from stabilitykit.results.archive import read_arrays
from stabilitykit.results.atomic import atomic_file
from stabilitykit.results.plain import to_plain
from stabilitykit.subjects.environment import environment, numeric_key
from stabilitykit.subjects.subject import Subject

T = TypeVar("T")

_folder: ContextVar[Path | None] = ContextVar("stability_derived", default=None)


@contextmanager
def derived_in(folder: Path) -> Iterator[None]:
    """Share what the work inside derives through a folder, so that several workers compute it once."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def memory_of(
    subject: Subject, models: dict[str, T], functions: WeakKeyDictionary[object, dict[str, T]]
) -> dict[str, T]:
    """Return where a process remembers what it derived of a subject.

    A bare function, without a digest of weights, is known by the object alone.
    """
    return models if _is_named(subject) else functions.setdefault(getattr(subject, "fn", subject), {})


def shared(
    subject: Subject,
    key: str,
    compute: Callable[[], T],
    packed: Callable[[T], Mapping[str, Any]],
    unpacked: Callable[[Mapping[str, Any]], T],
) -> T:
    """Return what a worker has computed under this key, or compute it.

    Where no folder is shared, or the subject has no digest of weights, it is computed here. `packed` makes arrays of
    it, which `unpacked` reads. Others that want it wait meanwhile.
    """
    folder = _folder.get()
    if folder is None or not _is_named(subject):
        return compute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.npz"
    with FileLock(f"{path}.lock"):
        if path.exists():
            return unpacked(read_arrays(path))
        found = compute()
        with atomic_file(path) as file:
            np.savez(file, **packed(found))
        return found


def _is_named(subject: Subject) -> bool:
    return "model_digest" in subject.describe()


def subject_key(subject: Subject, without: Sequence[str] = ("batch", "proofs")) -> str:
    """Return the digest of a subject's description and numeric environment, by which what is derived of it is kept."""
    identity = {key: value for key, value in subject.describe().items() if key not in without}
    setting = numeric_key(environment(getattr(subject, "loaded", None)))
    text = json.dumps([to_plain(identity), setting, type(subject).__qualname__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
