"""`stabilitykit models`: list the models that can be opened without a network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

HELP = "list the models that can be opened without a network"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: none."""


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Return 0 and a line for each model."""
    from stabilitykit.subjects.models import available

    rows = available()
    width = max(len(row["name"]) for row in rows)
    return 0, [f"{row['name']:<{width}}  {row['state']}  {row['where']}".rstrip() for row in rows]
