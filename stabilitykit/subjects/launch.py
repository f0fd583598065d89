"""A module of the kit in a fresh Python process: a request in, an answer out, and what the process died of."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stabilitykit.errors import InvalidError, TimedOutError, UnsupportedError
from stabilitykit.subjects.standing import end, those_standing

REQUEST, ANSWER = "request.json", "answer.json"
# What each rank's traceback ends with; the launcher of several says more after it.
_RAISED = re.compile(r"(?:\[rank\d+\]: *)?[\w.]+Error: .*")


def ask(
    module: str,
    place: Path,
    request: Mapping[str, Any],
    environ: Mapping[str, str],
    timeout: float,
    *,
    ranks: int = 1,
    fresh: bool = True,
) -> dict[str, Any]:
    """Run `python -m module place` under additional variables and return its answer; of several ranks one answers.

    Where it need not be `fresh`, a process that has answered before may answer, see `standing`.

    The module reads its request and writes its answer with `answered`, and may leave files in the folder. The package
    that runs here is the one that runs there. UnsupportedError if the process dies by a signal or fails, with its last
    line (InvalidError if it failed with that); TimedOutError after `timeout` seconds, the process killed.
    """
    (place / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    told = f" under {shown(environ)}" if environ else ""
    variables = {**os.environ, "PYTHONPATH": path, **environ}
    standing = None if fresh or ranks > 1 else those_standing()
    try:
        if standing is not None:
            done = standing.run(module, place, variables, timeout)
        else:
            done = _run([sys.executable, *_launcher(ranks), "-m", module, str(place)], variables, timeout)
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"a fresh process did not answer within {timeout:g} s{told}; give it more time") from None
    if done.returncode < 0:
        raise UnsupportedError(f"a fresh process died by {signal.Signals(-done.returncode).name}{told}")
    if done.returncode:
        reason = _reason(done.stderr)
        kind = InvalidError if reason.startswith("stabilitykit.errors.InvalidError") else UnsupportedError
        raise kind(f"a fresh process could not answer{told}: {reason.split(': ', 1)[-1]}")
    answer: dict[str, Any] = json.loads((place / ANSWER).read_text(encoding="utf-8"))
    return answer


def _run(command: list[str], environ: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, but a process that is given up is asked to end: a launcher has others to take along."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter, a list of words
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _launcher(ranks: int) -> list[str]:
    """Return what starts a group of processes on this machine's loopback, on a port that is free now."""
    if ranks == 1:
        return []
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    group = ["--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return ["-m", "torch.distributed.run", *group]


def _reason(stderr: str) -> str:
    """Return the last error that was raised, or the last line."""
    lines = stderr.strip().splitlines() or ["no message"]
    raised = [line for line in lines if _RAISED.fullmatch(line)]
    return re.sub(r"^\[rank\d+\]: *", "", raised[-1] if raised else lines[-1])


def request_of(place: Path) -> dict[str, Any]:
    """Return what the process is asked."""
    request: dict[str, Any] = json.loads((place / REQUEST).read_text(encoding="utf-8"))
    return request


def answered(place: Path, answer: Mapping[str, Any]) -> None:
    """Leave the answer."""
    (place / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def shown(environ: Mapping[str, str]) -> str:
    """Return variables as they are typed before a command."""
    return " ".join(f"{name}={value}" for name, value in environ.items())
