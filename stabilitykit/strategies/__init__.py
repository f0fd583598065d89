"""Directions to search: recipes of a few integers that expand to the same exact vector on every machine.

`directions`, `settings_for`, `replaying` and `planned` are for Hypothesis, which is imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stabilitykit.strategies.recipe import Direction as Direction
from stabilitykit.strategies.recipe import gaussians as gaussians
from stabilitykit.strategies.recorded import Recorded as Recorded

if TYPE_CHECKING:
    from stabilitykit.strategies.drawing import directions as directions
    from stabilitykit.strategies.examples import planned as planned
    from stabilitykit.strategies.examples import replaying as replaying
    from stabilitykit.strategies.examples import settings_for as settings_for
    from stabilitykit.strategies.sizes import shapes as shapes

__all__ = ["Direction", "Recorded", "directions", "gaussians", "planned", "replaying", "settings_for", "shapes"]

_HOMES = {
    "directions": "drawing",
    "planned": "examples",
    "replaying": "examples",
    "settings_for": "examples",
    "shapes": "sizes",
}


def __getattr__(name: str) -> Any:
    """Import what needs Hypothesis when it is asked for."""
    if name in _HOMES:
        return getattr(import_module(f"stabilitykit.strategies.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'stabilitykit.strategies' has no attribute {name!r}")
