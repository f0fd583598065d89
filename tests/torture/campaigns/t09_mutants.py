"""T9: the kit broken in forty ways on purpose, one at a time, and its own tests, which must notice."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from torture.campaign import Campaign, scratch
from torture.seeded import MUTANTS, Mutant
from torture.tree import ROOT

PARTS = ("stabilitykit", "stability_tests", "tests")
PASSED, FAILED = 0, 1


def run(number: int) -> str | None:
    """Break a copy of the kit in one way; a test must fail that passes without it."""
    return judged(MUTANTS[number])


def judged(mutant: Mutant) -> str | None:
    """Return how a mutant survived, None if it was killed."""
    path = tree() / "stabilitykit" / mutant.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutant.old) != 1:
        return f"{mutant.what}: {mutant.file} has the text {whole.count(mutant.old)} times; write the mutant anew"
    try:
        write(path, whole.replace(mutant.old, mutant.new))
        status, killer = tested(*mutant.tests.split())
    finally:
        write(path, whole)
    if status != FAILED or killer is None:
        return f"{mutant.what}: {mutant.tests} ends with status {status}; it survives"
    clean, _ = tested(killer)
    return None if clean == PASSED else f"{mutant.what}: {killer} ends with status {clean} on the kit as it is too"


@functools.cache
def tree() -> Path:
    """Return a copy of the kit and its tests, to be broken."""
    folder = scratch("mutants")
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "torture"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def write(path: Path, text: str) -> None:
    """Write a source at an hour of its own: compiled files are known by size and second of their source."""
    path.write_text(text, encoding="utf-8")
    hour = 1_000_000_000 + next(_HOURS)
    os.utime(path, (hour, hour))


_HOURS = iter(range(1_000_000))


def tested(*tests: str) -> tuple[int, str | None]:
    """Run tests in the copy until one fails; return pytest's exit status and which one failed."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not model", *tests]
    environ = {**os.environ, "PYTHONPATH": str(tree()), "PYTHONPYCACHEPREFIX": str(tree() / "compiled")}
    environ = {name: value for name, value in environ.items() if not name.startswith(("PYTEST_", "STABILITYKIT_"))}
    done = subprocess.run(words, cwd=tree(), env=environ, capture_output=True, text=True, timeout=1200, check=False)
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failed and failed[1]


def unchanged(number: int) -> str | None:
    """Run a mutant that is none."""
    return judged(MUTANTS[number]._replace(what="nothing is broken", new=MUTANTS[number].old))


CAMPAIGNS = [
    Campaign(
        "T9", "faults put into the kit are found by its own tests", "mutants",
        full=len(MUTANTS), ci=1, trial=run, planted={"a mutant that is none": unchanged},
        note="listed in tests/torture/seeded.py; each is one text of one file, its tests are run until one fails",
    ),
]  # fmt: skip
