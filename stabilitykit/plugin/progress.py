"""Progress bars that reach the terminal while pytest holds a test's output back."""

from __future__ import annotations

import io
import sys
from typing import TextIO, cast

import pytest

from stabilitykit.plugin.options import SETTINGS


class ThroughCapture(io.TextIOBase):
    """Standard error, with pytest's capture lifted for the moment of each write."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._started = False

    def write(self, text: str) -> int:
        """Write to the real standard error; the first bar starts on a line of its own, below pytest's dots."""
        text = text if self._started else "\n" + text
        self._started = True
        if self._capture is None:
            return self._out(text)
        with self._capture.global_and_fixture_disabled():
            return self._out(text)

    def isatty(self) -> bool:
        """Return whether a person may be watching."""
        return _watched()

    def fileno(self) -> int:
        """Return the real descriptor, by which a bar finds the terminal's width."""
        return sys.__stderr__.fileno() if sys.__stderr__ else -1

    @staticmethod
    def _out(text: str) -> int:
        if sys.__stderr__ is None:
            return 0
        sys.__stderr__.write(text)
        sys.__stderr__.flush()
        return len(text)


def stream(config: pytest.Config) -> TextIO | None:
    """Return where bars go: nowhere on an xdist worker or under -q, or where nobody watches and nobody asked."""
    quiet = config.get_verbosity() < 0 or hasattr(config, "workerinput")
    if quiet or not (config.stash[SETTINGS].progress or _watched()):
        return None
    return cast(TextIO, ThroughCapture(config))


def _watched() -> bool:
    return sys.__stderr__ is not None and sys.__stderr__.isatty()
