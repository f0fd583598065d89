"""The order of the tests' files: workers that end together end sooner."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that measure SmolLM2: they take longest, and would leave one worker alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: item.path not in long)
