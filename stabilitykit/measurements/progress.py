"""Progress bars for long work: on a terminal by default, to a chosen stream, or nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Never, TextIO

from tqdm import tqdm

_stream: ContextVar[TextIO | None] = ContextVar("stability_progress", default=None)


@contextmanager
def progress_to(stream: TextIO | None) -> Iterator[None]:
    """Send the bars of the work inside to `stream`, or nowhere for None."""
    token = _stream.set(stream)
    try:
        yield
    finally:
        _stream.reset(token)


def terminal() -> TextIO | None:
    """Return stderr if a person is watching it."""
    return sys.stderr if sys.stderr.isatty() else None


def bar(total: int, label: str, unit: str) -> tqdm[Never]:
    """Return a context manager with `update(n)`; it draws nothing where nobody watches."""
    stream = _stream.get()
    return tqdm(
        total=total, desc=label, unit=unit, file=stream, disable=stream is None, leave=False, dynamic_ncols=True
    )
