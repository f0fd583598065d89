"""T20: every check of the suite where there is no network, not even of the machine with itself."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys

from torture.campaign import Campaign, scratch
from torture.suite_session import checks
from torture.tree import ROOT

MODELS = ("tiny", "smollm2")
_CUT = ["unshare", "--net", "--map-root-user"]
_GUARD = """
import socket

def refused(*_args, **_kw):
    raise OSError("the network was asked for")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refused
"""


@functools.cache
def cut() -> list[str]:
    """Return what starts a command without network interfaces; nothing where that is not allowed: see `guarded`."""
    if not shutil.which("unshare"):
        return []
    return [] if subprocess.run([*_CUT, "true"], capture_output=True, check=False).returncode else _CUT


@functools.cache
def guarded() -> str:
    """Return a folder for PYTHONPATH in which every connection of a Python process is refused."""
    folder = scratch("offline")
    (folder / "sitecustomize.py").write_text(_GUARD, encoding="utf-8")
    return str(folder)


def run(number: int) -> str | None:
    """Run one check of the suite on one model."""
    model, test = MODELS[number // len(checks())], checks()[number % len(checks())]
    return tested(model, f"stability_tests/{test}")


def tested(model: str, test: str) -> str | None:
    """Run a test in a process that has no network; return what it ended with if that is no answer."""
    folder = scratch("offline")
    words = [*cut(), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "stabilitykit.plugin"]
    words += [f"--rootdir={folder}", "--stability-model", model, "--stability-report", "report", str(ROOT / test)]
    path = os.pathsep.join([str(ROOT), *([] if cut() else [guarded()])])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "HF_HUB"))}
    environ["PYTHONPATH"] = path
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode not in (0, 1):
        return f"{test} on {model} ends with status {done.returncode}: {done.stdout[-300:]}"
    records = json.loads((folder / "report" / "run.json").read_text(encoding="utf-8"))["records"]
    wrong = [f"{one['check_id']} is {one['verdict']}: {one['message']}" for one in records if one["verdict"] in WRONG]
    return f"{test}: {wrong[0]}" if wrong else None if records else f"{test} on {model} filed nothing"


WRONG = ("invalid", "crash", "timeout", "fail")


def _asking(_number: int) -> str | None:
    """Run a test that asks a server for its model."""
    path = scratch("asking") / "test_asking.py"
    path.write_text(
        "import socket, stabilitykit as sk\n"
        "def test_asking(stability):\n"
        "    try:\n        socket.create_connection(('127.0.0.1', 1), 1)\n"
        "    except ConnectionRefusedError:\n        pass\n"  # somebody was there to refuse it: there is a network
        "    except OSError as error:\n        raise sk.InvalidError(str(error))\n",
        encoding="utf-8",
    )
    return tested("tiny", str(path))


CAMPAIGNS = [
    Campaign(
        "T20", "the suite where there is no network", "checks",
        full=len(MODELS) * len(checks()), ci=1, trial=run, planted={"a test that asks a server": _asking},
        note="in a network namespace without interfaces, or where that is not allowed with every connection refused",
    ),
]  # fmt: skip
