"""Processes that stay: starting one takes seconds, and the next request under the same variables needs no other."""

from __future__ import annotations

import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

GRACE = 10.0
"""Seconds that a process gets to end, with those that it has started."""

_SAY_NOTHING = ("PYTEST_CURRENT_TEST",)
"""Variables that are other ones in every test and change nothing."""

_ANSWERED = "stabilitykit: answered\n"


class Processes:
    """One process for each set of variables and working folder, started when it is first asked for, until `close`."""

    def __init__(self) -> None:
        self._running: dict[str, _Standing] = {}

    def run(
        self, module: str, place: Path, environ: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Have `module.main(place)` called under these variables; status 0 if it returned, else how the process ended.

        TimeoutExpired after so many seconds. A process that died or was given up is not asked again.
        """
        told = {name: value for name, value in environ.items() if name not in _SAY_NOTHING}
        key = json.dumps([os.getcwd(), sorted(told.items())])
        one = self._running.pop(key, None)
        if one is not None and one.process.poll() is not None:
            one.close()
            one = None
        one = one or _Standing(environ)
        try:
            status = one.ask(module, place, timeout)
        except BaseException:
            one.close()
            raise
        if status:
            said = one.said()
            one.close()
            return subprocess.CompletedProcess([module], status, "", said)
        self._running[key] = one
        return subprocess.CompletedProcess([module], 0, "", "")

    def close(self) -> None:
        """End all of them."""
        while self._running:
            self._running.popitem()[1].close()


class _Standing:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with it
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, a list of words
            [sys.executable, "-m", __name__],
            env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._heard: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == _ANSWERED:
                self._heard.put(True)
        self._heard.put(False)

    def ask(self, module: str, place: Path, timeout: float) -> int:
        """Return 0 once it has answered, or the status that it ended with."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([module, str(place)]) + "\n")
        self.process.stdin.flush()
        try:
            answered = self._heard.get(timeout=timeout)
        except queue.Empty:
            raise subprocess.TimeoutExpired(module, timeout) from None
        return 0 if answered else self.process.wait()

    def said(self) -> str:
        """What it has written to its standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def close(self) -> None:
        """End it, and those that it has started."""
        end(self.process)
        self.process.communicate()
        self._errors.close()


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, as a launcher has others to take along; kill it if it does not."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


_processes: ContextVar[Processes | None] = ContextVar("stability_processes", default=None)


@contextmanager
def standing(processes: Processes) -> Iterator[None]:
    """Have the requests inside that need no fresh process answered by these."""
    token = _processes.set(processes)
    try:
        yield
    finally:
        _processes.reset(token)


def those_standing() -> Processes | None:
    """Return the processes of the innermost `standing`, None outside of one."""
    return _processes.get()


def main() -> None:
    """Answer one request after the other until there are no more: the other side of `Processes`."""
    from stabilitykit.numerics.memory import release

    for line in sys.stdin:
        module, place = json.loads(line)
        importlib.import_module(module).main(place)
        release()  # the process that waits for the answer may need the memory
        sys.stdout.write(_ANSWERED)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
