"""T18: the zoo of bad inputs, each row by its own test."""

from __future__ import annotations

import os
import subprocess
import sys

from bad_inputs import ROWS
from torture.campaign import Campaign, scratch
from torture.tree import ROOT

ORDER = (46, *(number for number in ROWS if number != 46))
"""The quickest first."""


def run(number: int) -> str | None:
    """Run the test of one row."""
    what, test = ROWS[ORDER[number]]
    return tested(f"row {ORDER[number]}, {what}", test)


def tested(what: str, test: str) -> str | None:
    """Run one test in a process of its own; it has to run, and to pass."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"PYTHONPATH": str(ROOT), "STABILITYKIT_LONG": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900, check=False)
    said = (done.stdout.strip().splitlines() or [""])[-1]
    return None if done.returncode == 0 and "passed" in said else f"{what}: {test} ends with {said}"


def _missing(_number: int) -> str | None:
    return tested("a row", "tests/results/test_limit.py::test_that_nobody_wrote")


def _failing(_number: int) -> str | None:
    path = scratch("row") / "test_row.py"
    path.write_text("def test_row():\n    raise AssertionError\n", encoding="utf-8")
    return tested("a row", str(path))


CAMPAIGNS = [
    Campaign(
        "T18", "the zoo of bad inputs: each gives its verdict and its sentence", "rows",
        full=len(ROWS), ci=1, trial=run, planted={"a row without a test": _missing, "a test that fails": _failing},
        note="tests/bad_inputs.py names the test of each row",
    ),
]  # fmt: skip
