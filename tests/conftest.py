"""Which tests are run, and in which order: workers that end together end sooner."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("STABILITYKIT_LONG") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, unless `make test-long` asks; begin with the files that measure SmolLM2.

    Those take longest, and would leave one worker alone at the end.
    """
    left_out = [] if LONG else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    first = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: item.path not in first)
