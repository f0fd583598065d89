"""One map of a plane as a figure: true cells, axes in input units, and the line that the derivative predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stabilitykit.report.figures.figure import GREEN, GRID, INK, Figure, Trace, axis, label, layout, power

CELLS = 101
"""Cells drawn on a side at the most; of a larger map every second or third is drawn, as it is, not an average."""

Array = NDArray[Any]


@dataclass(frozen=True)
class MapPanel:
    """The axes of a map: `e1` (R,) along the direction named first, `e2` (C,) along the second."""

    e1: Array
    e2: Array
    names: tuple[str, str]

    @property
    def stride(self) -> int:
        """One cell in so many of each axis is drawn."""
        return max(-(-(len(e) - 1) // (CELLS - 1)) for e in (self.e1, self.e2))

    @property
    def note(self) -> str:
        """What a caption says of cells that are not drawn."""
        if self.stride == 1:
            return ""
        return f" One cell in {self.stride} of each axis is drawn; the arrays have all {len(self.e1)} x {len(self.e2)}."

    @property
    def scale(self) -> int:
        """The power of ten that both axes are in."""
        return exponent(max(abs(self.e1[[0, -1]]).max(), abs(self.e2[[0, -1]]).max()))

    def drawn(self, values: Array, border: int = 0) -> tuple[list[float], list[float], Array]:
        """Return x, y and the transposed values of the cells that are drawn; `border` cells of the axes have none."""
        inner = [e[border : len(e) - border][:: self.stride] / 10.0**self.scale for e in (self.e1, self.e2)]
        x, y = ([float(f"{value:.6g}") for value in e] for e in inner)
        return x, y, values[:: self.stride, :: self.stride].T

    def figure(self, title: str, caption: str, traces: Sequence[Trace], **parts: Any) -> Figure:
        """Return the panel with square cells."""
        unit = f" ({power(self.scale)})" if self.scale else ""
        first, second = (label(name, 24) for name in self.names)
        inside: dict[str, Any] = {"showgrid": False, "constrain": "domain", "nticks": 6}
        shape = layout(
            430,
            xaxis=axis(f"e₁ along {first}{unit}", **inside),
            yaxis=axis(f"e₂ along {second}{unit}", scaleanchor="x", **inside),
            **parts,
        )
        return Figure(title, caption, traces, shape)

    def heat(self, values: Array, digits: int, said: str, look: Mapping[str, Any], border: int = 0) -> Trace:
        """Return the cells as colours, their numbers rounded to so many digits behind the point; `said` names them."""
        x, y, z = self.drawn(values, border)
        numbers = [[_short(value, digits) for value in line] for line in z.tolist()]
        read = f"e₁ %{{x}}, e₂ %{{y}} ({power(self.scale)})<br>{said} %{{z}}<extra></extra>"
        return {"type": "heatmap", "x": x, "y": y, "z": numbers, "hovertemplate": read, **look}

    def line(self, linear: Array | None) -> list[Trace]:
        """Return the line on which the prediction is 0, nothing where it does not cross the map."""
        if linear is None:
            return []
        ends = _zeros(linear, self.e1 / 10.0**self.scale, self.e2 / 10.0**self.scale)
        if len(ends) < 2:
            return []
        look = {"mode": "lines", "line": {"color": GREEN, "width": 2, "dash": "dash"}, "hoverinfo": "skip"}
        return [{"type": "scatter", "x": [e[0] for e in ends], "y": [e[1] for e in ends], "name": "predicted", **look}]


def bar(title: str) -> dict[str, Any]:
    """Return the legend of a scale."""
    return {
        "title": {"text": title, "side": "right"},
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"color": INK},
        "len": 0.9,
    }


def square(color: str, name: str) -> Trace:
    """Return an entry of the legend: a square of a colour that cells are drawn in."""
    marker = {"symbol": "square", "size": 11, "color": color, "line": {"color": GRID, "width": 1}}
    return {"type": "scatter", "x": [None], "y": [None], "mode": "markers", "marker": marker, "name": name}


def exponent(value: float) -> int:
    """Return the power of ten that a length is told in: one that leaves 1 to 999 before the point, 0 for none."""
    return 3 * math.floor(math.log10(value) / 3) if value > 0 and math.isfinite(value) else 0


def _short(value: float, digits: int) -> float | int:
    rounded = round(value, digits) + 0.0
    return int(rounded) if rounded.is_integer() else rounded


def _zeros(linear: Array, e1: Array, e2: Array) -> list[tuple[float, float]]:
    """Return where a plane through the corners of the map is 0 on its edge, at most two points, in order of e1."""
    slope1 = (linear[-1, 0] - linear[0, 0]) / (e1[-1] - e1[0])
    slope2 = (linear[0, -1] - linear[0, 0]) / (e2[-1] - e2[0])
    found = set()
    for a in (e1[0], e1[-1]):
        if slope2 and e2[0] <= (b := e2[0] - (linear[0, 0] + slope1 * (a - e1[0])) / slope2) <= e2[-1]:
            found.add((float(a), float(b)))
    for b in (e2[0], e2[-1]):
        if slope1 and e1[0] <= (a := e1[0] - (linear[0, 0] + slope2 * (b - e2[0])) / slope1) <= e1[-1]:
            found.add((float(a), float(b)))
    ends = sorted(found)
    return [ends[0], ends[-1]] if len(ends) > 1 else []
