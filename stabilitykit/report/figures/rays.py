"""What all figures of rays share: the words under the pointer, the names of the plane's axes, and marked rays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stabilitykit.report.figures.figure import INK, Trace, hover, label

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

CARDINAL = (0, 90, 180, 270)
LEGEND_BELOW: Mapping[str, Any] = {"orientation": "h", "x": 0.5, "xanchor": "center", "yanchor": "top"}

_HOVER = {
    "direction": "direction",
    "angle_deg": "angle (degrees)",
    "sigma": "sigma",
    "gain": "gain",
    "radius": "radius",
    "lattice_radius": "lattice radius",
    "rho": "rho",
    "cells": "cells",
    "islands": "islands",
    "input_step": "input step",
    "output_jump": "output jump",
    "jump_over_noise": "jump over noise",
    "amplification": "amplification",
    "exact": "exact",
    "censored": "censored",
}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
# By the symbol; the size of an axis' mark is that of an extreme, but hollow, so that both may lie on one ray.
_SYMBOLS = {"smallest": "triangle-down", "largest": "triangle-up", "axes": "diamond-open"}


class AxisNames(NamedTuple):
    """The two directions of a plane as a figure names them, without their signs, and those signs."""

    first: str
    second: str
    signs: tuple[int, int] = (1, 1)

    def at(self, angle: int) -> str:
        """Return e.g. `−v₁` for 180 degrees."""
        name, own = (self.first, self.signs[0]) if angle % 180 == 0 else (self.second, self.signs[1])
        return f"{'+' if own * (1 if angle % 360 < 180 else -1) > 0 else '−'}{name}"

    def ticks(self) -> list[str]:
        """Return names for every 45 degrees."""
        return [self.at(angle) if angle in CARDINAL else f"{angle}°" for angle in range(0, 360, 45)]

    def meaning(self) -> str:
        """Return a sentence about v₁ and v₂, and nothing about other planes."""
        if (self.first, self.second) == ("v₁", "v₂"):
            return "v₁ and v₂ are the directions the output reacts to most. "
        return ""


def names_of(result: Result) -> AxisNames:
    """Return the names of the plane a result was searched in; v₁ and v₂ where it does not say."""
    plane = result.parameters.get("plane")
    if not isinstance(plane, list | tuple) or len(plane) != 2:
        plane = ("v1", "v2")
    texts = [str(name) for name in plane]
    first, second = (_name(text.removeprefix("-")) for text in texts)
    return AxisNames(first, second, (-1 if texts[0].startswith("-") else 1, -1 if texts[1].startswith("-") else 1))


def _name(text: str) -> str:
    return f"v{text[1:].translate(_SUBSCRIPT)}" if re.fullmatch(r"v\d+", text) else label(text, 16)


def extremes(rows: Rows) -> list[tuple[Mapping[str, Any], str]]:
    """Return the rows of the smallest and of the largest radius, with these words."""
    return [
        (min(rows, key=lambda row: row["radius"]), "smallest"),
        (max(rows, key=lambda row: row["radius"]), "largest"),
    ]


def cardinals(rows: Rows) -> Rows:
    """Return the rows nearest to the four axes, those within half of the usual step."""
    reach = 180 / len(rows) + 1e-9
    near = [min(rows, key=lambda row: _apart(row["angle_deg"], angle)) for angle in CARDINAL]
    return [row for row, angle in zip(near, CARDINAL, strict=True) if _apart(row["angle_deg"], angle) <= reach]


def _apart(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def mark(rows: Rows, name: str) -> Trace:
    """Return how a named kind of ray is marked: `smallest`, `largest` or `axes`."""
    marker: dict[str, Any] = {"size": 12, "symbol": _SYMBOLS[name], "color": INK}
    if name != "axes":
        marker["line"] = {"width": 1, "color": "var(--card)"}
    return {"mode": "markers", "name": name, "marker": marker, **hover_of(rows)}


def hover_of(rows: Rows) -> Trace:
    """Return what a pointer sees over each ray."""
    return {"hovertext": [hover(row, _HOVER) for row in rows], "hoverinfo": "text"}
