"""A process that imports what a child needs, and forks one for each request: a child costs milliseconds.

It reads a line of JSON, `[function, arguments]`, forks a child that calls it, and answers with the child's status, what
it wrote to its pipe, and its last line on stderr. A request may name seconds after which the child is killed.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """Return variables by which a process finds what this one does, the oracles too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT.parent, *sys.path]))}


class Forge:
    """The process, seen from a test: `ask` has a child run `module:function(pipe, *arguments)`.

    It begins with `module:function`, or with `warm` of a module, of each that it is given.
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(),
        )  # fmt: skip
        atexit.register(self._process.communicate)  # without a further line it ends

    def ask(self, target: str, *arguments: object, kill_after: float | None = None) -> tuple[int, str, str]:
        """Return the child's status (negative: the signal), what it acknowledged, and the end of its stderr."""
        self._process.stdin.write(json.dumps([target, arguments, kill_after]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forge died"
        return tuple(json.loads(answer))


def main(modules: list[str]) -> None:
    """Import, then fork a child a line."""
    for one in modules:
        name, _, function = one.partition(":")
        getattr(importlib.import_module(name), function or "warm")()
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        target, arguments, kill_after = json.loads(line)
        os.write(answers, (json.dumps(_child(target, arguments, kill_after)) + "\n").encode())


def _child(target: str, arguments: list, kill_after: float | None) -> tuple[int, str, str]:
    (acks, ack), (errors, error) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.dup2(error, 2)
        _run(target, ack, arguments)
    os.close(ack), os.close(error)
    end = None if kill_after is None else time.monotonic() + kill_after
    said = {acks: b"", errors: b""}
    reading = [acks, errors]
    while reading:
        left = None if end is None else max(end - time.monotonic(), 0)
        ready = select.select(reading, [], [], left)[0]
        if not ready:
            os.kill(child, signal.SIGKILL)
            end = None
        for one in ready:
            if part := os.read(one, 1 << 16):
                said[one] += part
            else:
                reading.remove(one)
    _, status = os.waitpid(child, 0)
    os.close(acks), os.close(errors)
    tail = said[errors].decode(errors="replace").strip().splitlines()[-1:]
    return os.waitstatus_to_exitcode(status), said[acks].decode(), "".join(tail)


def _run(target: str, ack: int, arguments: list) -> None:
    name, function = target.split(":")
    status = 70
    try:
        status = getattr(importlib.import_module(name), function)(ack, *arguments) or 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".replace("\n", " ").encode(errors="replace"))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
