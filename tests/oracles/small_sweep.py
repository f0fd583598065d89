"""A small sweep of a tiny model: all kinds of directions, two prompts, ten units; and processes that are killed."""

import os
import signal
import subprocess
import sys
import time

from filelock import FileLock

import stabilitykit as sk

PROMPTS = ("ab cd", "once upon")
DIRECTIONS = ("gaussian:10", "singular:3", "fan:4", "sign:2")
DRAWN = ("gaussian:10", "sign:2")
"""Those for which nothing is computed first: six units."""


def asked(**changes):
    """Return it, or another with these changes."""
    given = {"question": "boundary", "models": ("tiny",), "prompts": PROMPTS, "batch": 4, "unit": 6}
    return sk.Sweep(**{**given, "directions": DIRECTIONS, **changes})


def begun(folder, *words):
    """Start a sweep in a process of one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "stabilitykit", "sweep", *words], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def held(folder, unit):
    """Return the lock of a unit, as another process would hold it: the unit is left to it, and waited for."""
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "locks" / f"{unit.id}.lock")


def killed(process, folder):
    """Kill it once it has left a unit in the folder `sweep`; return the files of those that it left."""
    try:
        while not list((folder / "sweep" / "units").glob("*.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    return sorted((folder / "sweep" / "units").glob("*.json"))
