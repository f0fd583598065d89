"""A module of the kit in a fresh Python process: a request in, an answer out, and what the process died of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stabilitykit.errors import InvalidError, TimedOutError, UnsupportedError

REQUEST, ANSWER = "request.json", "answer.json"


def ask(
    module: str, place: Path, request: Mapping[str, Any], environ: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """Run `python -m module place` under additional variables and return its answer.

    The module reads its request and writes its answer with `answered`, and may leave files in the folder. The package
    that runs here is the one that runs there. UnsupportedError if the process dies by a signal or fails, with its last
    line (InvalidError if it failed with that); TimedOutError after `timeout` seconds, the process killed.
    """
    (place / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    told = f" under {shown(environ)}" if environ else ""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a list of words
            [sys.executable, "-m", module, str(place)],
            env={**os.environ, "PYTHONPATH": path, **environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"a fresh process did not answer within {timeout:g} s{told}; give it more time") from None
    if done.returncode < 0:
        raise UnsupportedError(f"a fresh process died by {signal.Signals(-done.returncode).name}{told}")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        kind = InvalidError if reason.startswith("stabilitykit.errors.InvalidError") else UnsupportedError
        raise kind(f"a fresh process could not answer{told}: {reason.split(': ', 1)[-1]}")
    answer: dict[str, Any] = json.loads((place / ANSWER).read_text(encoding="utf-8"))
    return answer


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
