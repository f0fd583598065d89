"""T14: workers of pytest-xdist are killed in tests: these are crashes and nothing else, all others have results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from oracles.forge import environment
from torture.campaign import Campaign, draw, scratch

TESTS = 8
DEATHS_A_RUN = 3
SOURCE = """
import os
import signal

import pytest
from toys import *


@pytest.mark.parametrize("number", range({tests}))
def test_toy(stability, number):
    if number in {dies} and not os.path.exists(f"died{{number}}"):
        {before}
        open(f"died{{number}}", "w").close()
        {how}
    stability.measure(ToyDrift(float(number)), TOY)
"""
DEATHS = ("os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)", "os.abort()", "os.kill(os.getpid(), signal.SIGSEGV)")
RETRY = "\ndef pytest_handlecrashitem(crashitem, report, sched):\n    sched.mark_test_pending(crashitem)\n"


def dies(number: int, retry: str = "") -> str | None:
    """Kill a worker in three drawn tests, before or after they have measured something, with two workers or four."""
    random, place = draw("T14", number), scratch("xdist")
    which, workers = random.permutation(TESTS)[:DEATHS_A_RUN].tolist(), (2, 4)[number % 2]
    before = ("pass", "stability.measure(ToyDrift(0.5), TOY)")[number // 2 % 2]
    source = SOURCE.format(tests=TESTS, dies=which, before=before, how=DEATHS[number % len(DEATHS)])
    (place / "test_it.py").write_text(source)
    (place / "toys.py").write_text(toys())
    (place / "conftest.py").write_text(retry)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "no:cacheprovider", "-p", "no:benchmark"]
    done = subprocess.run(
        [*command, "--stability-report=out"], cwd=place, env=environment(), capture_output=True, text=True, timeout=600
    )
    try:
        found = _judged(place / "out" / "run.json", which)
    finally:
        shutil.rmtree(place)
    if found is None and done.returncode != 1:
        found = f"exit status {done.returncode}"
    return found and f"tests {which} of {workers} workers: {found}"


def toys() -> str:
    """Return the toys of the plugin's tests, whose file pytest alone can import."""
    source = (Path(__file__).parents[2] / "plugin" / "conftest.py").read_text(encoding="utf-8")
    return source.split("TOYS = '''")[1].split("'''")[0]


def _judged(path: Path, which: list[int]) -> str | None:
    if not path.exists():
        return "there is no report"
    records = json.loads(path.read_text(encoding="utf-8"))["records"]
    verdicts: dict[int, set[str]] = {}
    for record in records:
        if record["nodeid"]:
            verdicts.setdefault(int(record["nodeid"].split("[")[1].rstrip("]")), set()).add(record["verdict"])
    expected = {number: {"measured" if number == 0 else "differs"} for number in range(TESTS)}
    expected |= {number: {"crash"} for number in which}
    wrong = {number: verdicts.get(number) for number, verdict in expected.items() if verdicts.get(number) != verdict}
    return f"verdicts {wrong}" if wrong else None


CAMPAIGNS = [
    Campaign(
        "T14",
        "workers of pytest-xdist are killed in three of eight tests: these are crashes, the others have results",
        "crashes",
        full=10,
        ci=1,
        each=DEATHS_A_RUN,
        long=True,
        trial=dies,
        planted={"the test is run again by the next worker": lambda number: dies(number, RETRY)},
    )
]
