"""Directions to search: recipes of a few integers that expand to the same exact vector on every machine.

`directions` and `settings_for` are for Hypothesis, which is imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabilitykit.strategies.recipe import Direction as Direction
from stabilitykit.strategies.recipe import gaussians as gaussians

if TYPE_CHECKING:
    from stabilitykit.strategies.drawing import directions as directions
    from stabilitykit.strategies.examples import settings_for as settings_for

__all__ = ["Direction", "directions", "gaussians", "settings_for"]


def __getattr__(name: str) -> Any:
    """Import what needs Hypothesis when it is asked for."""
    if name == "directions":
        from stabilitykit.strategies.drawing import directions

        return directions
    if name == "settings_for":
        from stabilitykit.strategies.examples import settings_for

        return settings_for
    raise AttributeError(f"module 'stabilitykit.strategies' has no attribute {name!r}")
