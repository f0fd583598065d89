"""The working tree that is tested: where it lies, its commit, and what it runs on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from stabilitykit.subjects.environment import environment

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"


def commit() -> str:
    """Return the commit id, with a plus sign where the kit or its tests were changed since; "unknown" without git."""
    try:
        named = _git("rev-parse", "--short=9", "HEAD")
        return named + "+" if _git("status", "--porcelain", "stabilitykit", "stability_tests", "tests") else named
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, object]:
    """Return what a record says of the machine."""
    found = environment()
    names = ("python", "torch", "transformers", "numpy", "safetensors", "cpu", "cpu_capability", "cores", "threads")
    return {name: found[name] for name in names}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
