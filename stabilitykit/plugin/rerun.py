"""The command that repeats one test, for the messages of failures."""

from __future__ import annotations

import shlex

import pytest

from stabilitykit import settings
from stabilitykit.plugin import suite
from stabilitykit.plugin.options import given


def rerun(item: pytest.Item) -> str:
    """Return the command that repeats this test alone; a suite outside the root has no path that pytest takes."""
    node = f'"{item.nodeid}"'
    if suite.contains(item.path):
        node = f'--pyargs "{suite.SUITE.name}.{item.path.stem}::{item.nodeid.split("::", 1)[1]}"'
    return " ".join(["Rerun:  pytest", node, *map(shlex.quote, settings.arguments(given(item.config)))])
