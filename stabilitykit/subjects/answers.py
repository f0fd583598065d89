"""What a stopped search had already been told: kept in a folder, so that the next process goes on where it was.

A search asks its subject one batch after the other, and what it asks depends on nothing but the answers. So the
answers are kept in order, each with the digest of its batch. A new process that asks the same first batch of the same
subject is told the same, without running the model, as long as its batches are the same, and then runs on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabilitykit.numerics.bits import name_of, raw_bytes
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.checked_lines import append_lines, whole_lines
from stabilitykit.subjects.environment import environment, numeric_key
from stabilitykit.subjects.subject import Subject

EVERY = 5.0
"""Seconds of work that a kill may cost; what is shorter writes nothing."""


class Told(NamedTuple):
    """An answer to one batch: for each row whether it differs from its slot's baseline, and the outputs if any."""

    changed: list[bool]
    output: Tensor | None


@dataclass
class Kept:
    """A folder of answers; `resumed` says whether those of a former process may be used."""

    folder: Path
    resumed: bool
    begun: set[Path] = field(default_factory=set)


_kept: ContextVar[Kept | None] = ContextVar("stability_answers", default=None)


@contextmanager
def answers_in(kept: Kept | None) -> Iterator[None]:
    """Keep the answers of the searches inside in a folder, or nowhere for None."""
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


class Answers:
    """The answers to one search: recalled as far as a former process came, then asked for and kept."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._kept = _kept.get()
        self._path: Path | None = None
        self._former = deque[dict[str, Any]]()
        self._unwritten: list[str] = []
        self._written = time.monotonic()

    def to(self, kind: str, X: Tensor, ask: Callable[[], Told]) -> Told:
        """Return the answer to a batch (B, H): the one that was given before, or what `ask` returns."""
        if self._kept is None:
            return ask()
        named = digest(X)
        if self._path is None:
            self._open(self._kept, kind, named)
        if self._former:
            found = self._former.popleft()
            if (found["kind"], found["batch"]) == (kind, named):
                return Told(found["changed"], _tensor(found["output"], X.device))
            # Not what was asked then: the rest is of another course of the search, and this one is not kept.
            self._kept = None
            return ask()
        told = ask()
        self._keep({"kind": kind, "batch": named, "changed": told.changed, "output": _plain(told.output)})
        return told

    def _open(self, kept: Kept, kind: str, first: str) -> None:
        """Find the search's file by its subject and first batch; one that this process has begun stays closed to it.

        What is asked again in one process must be measured again. A subject without a digest of its weights keeps
        nothing: nobody could say whether it is the same.
        """
        about = {**self.subject.describe(), "proofs": None, "kind": type(self.subject).__qualname__}
        about["stabilitykit"] = version("stabilitykit")
        setting = numeric_key(environment(getattr(self.subject, "loaded", None)))
        text = json.dumps([about, setting, digest(self.subject.baseline), kind, first], sort_keys=True, default=str)
        path = kept.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl"
        if path in kept.begun or not about.get("model_digest"):
            self._kept = None
            return
        kept.begun.add(path)
        self._path = path
        if kept.resumed:
            self._former.extend(json.loads(text) for text in whole_lines(path))
        else:
            path.unlink(missing_ok=True)

    def _keep(self, answer: dict[str, Any]) -> None:
        self._unwritten.append(json.dumps(answer))
        if self._path is None or time.monotonic() - self._written < EVERY:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self._path, self._unwritten)
        self._unwritten, self._written = [], time.monotonic()


def _plain(output: Tensor | None) -> dict[str, Any] | None:
    if output is None:
        return None
    raw = raw_bytes(output).cpu().numpy().tobytes()
    return {"dtype": name_of(output.dtype), "shape": list(output.shape), "hex": raw.hex()}


def _tensor(plain: dict[str, Any] | None, device: torch.device) -> Tensor | None:
    if plain is None:
        return None
    raw = torch.frombuffer(bytearray.fromhex(plain["hex"]), dtype=torch.uint8)
    return raw.view(getattr(torch, plain["dtype"])).reshape(plain["shape"]).to(device)
