"""Long work in steps that a killed process does not lose: each result is on the disk before the next step begins."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from stabilitykit.errors import IncomparableError, UnreadableError
from stabilitykit.results.atomic import sync_folder
from stabilitykit.subjects.checked_lines import append_lines, may_be_ours, whole_lines
from stabilitykit.subjects.environment import KINDS, environment
from stabilitykit.subjects.models import LoadedModel

_path: ContextVar[Path | None] = ContextVar("stability_steps", default=None)


@contextmanager
def resumable(path: str | Path) -> Iterator[None]:
    """Keep the steps of the measurement inside in the file `path`, and go on where a killed process left it.

    The file stays when all is done: whoever has written the result removes it. IncomparableError where it is of another
    document, model, parameter, machine or library, UnreadableError where it is no such file.
    """
    token = _path.set(Path(path))
    try:
        yield
    finally:
        _path.reset(token)


class Steps:
    """Steps in a fixed order: those of the process before are recalled, the others are done and kept.

    A step gives JSON-plain data and depends on nothing that an earlier step left in memory, so that what follows a
    kill has the bits that it would have had without. `identity` is what the steps are of, JSON-plain.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self._path = _path.get()
        self._former = deque[dict[str, Any]]()
        if self._path is not None:
            self._open(self._path, json.loads(json.dumps(identity)))

    def once(self, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what the next step gives, from the file if it was done, else done now and written through."""
        if self._former:
            return self._former.popleft()
        found = step()
        if self._path is not None:
            append_lines(self._path, [json.dumps(found)], sync=True)
        return found

    def _open(self, path: Path, identity: Mapping[str, Any]) -> None:
        if not may_be_ours(path):
            raise UnreadableError(f"{path} does not say what it is a part of; name another file, or remove it")
        lines = [_read(text, path) for text in whole_lines(path)]
        if not lines:
            append_lines(path, [json.dumps(identity)], sync=True)
            sync_folder(path.parent)
            return
        header, *former = lines
        for name in dict.fromkeys([*header, *identity]):
            if header.get(name) != identity.get(name):
                named = name if name in identity else _short(name)
                raise IncomparableError(
                    f"{path} is of a run with {named} {_short(header.get(name))}, this one has "
                    f"{_short(identity.get(name))}; ask as that run did, or measure anew"
                )
        self._former.extend(former)


def setting(loaded: LoadedModel) -> dict[str, Any]:
    """Return what decides the bits of a model's forward besides its input: for the identity of steps."""
    about = environment(loaded)
    # The dtype first: it is what a person changes, and with it goes much of the rest.
    first = {"dtype": about["dtype"], "model": loaded.digest}
    return {**first, **{name: about[name] for name, kind in KINDS.items() if kind == "identity"}}


def _read(text: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UnreadableError(f"{path} holds a line that is no step of a measurement; remove it, or name another file")
    return data


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
