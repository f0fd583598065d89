"""What a figure is, and the parts all figures share: quiet axes, theme colours, safe labels, finite numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabilitykit.report.text import shortened, shown
from stabilitykit.results.metric import Metric

Trace = dict[str, Any]

# Colours are names of the style sheet's variables: the page resolves them, so figures follow dark and light.
INK, FAINT, GRID, PAPER = "var(--ink)", "var(--faint)", "var(--line)", "var(--card)"
BLUE, ORANGE, GREEN = "var(--plot-blue)", "var(--plot-orange)", "var(--plot-green)"
SCALE = "Cividis"

_PLAIN = Metric("", "", "neither", "")


@dataclass(frozen=True)
class Figure:
    """A plotly figure of SVG traces, with the title and the sentence a reader who cannot see it gets."""

    title: str
    caption: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any]
    wide: bool = False
    """Whether it takes the whole width of the page: the first figure of a check, if it is the one to look at."""

    def to_dict(self) -> dict[str, Any]:
        """Return what plotly draws."""
        return {"data": list(self.traces), "layout": dict(self.layout)}


def layout(height: int = 340, **parts: Any) -> dict[str, Any]:
    """Return a layout on a transparent ground with room for its labels."""
    base = {
        "height": height,
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        "margin": {"l": 64, "r": 18, "t": 16, "b": 52},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": GRID, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "showlegend": False,
    }
    return {**base, **parts}


def axis(title: str, **parts: Any) -> dict[str, Any]:
    """Return a Cartesian axis."""
    base = {
        "title": {"text": title, "standoff": 10},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "power",
    }
    return {**base, **parts}


def log_axis(title: str, values: Sequence[float | None], **parts: Any) -> dict[str, Any]:
    """Return a logarithmic axis around the positive values, at least half a decade wide, whole decades named.

    Of many decades every second or third is named, so that the names fit a narrow page.
    """
    low, high = decades(values)
    ticks = {"dtick": math.ceil((high - low) / 6)} if high - low > 1.5 else {"dtick": "D2", "tickformat": "~g"}
    return axis(title, type="log", range=[low, high], **{**ticks, **parts})


def decades(values: Sequence[float | None], pad: float = 0.08) -> tuple[float, float]:
    """Return log10 bounds around the positive values with some room."""
    exponents = [math.log10(value) for value in values if value is not None and value > 0]
    low, high = (min(exponents), max(exponents)) if exponents else (-0.5, 0.5)
    room = max(pad * (high - low), (0.5 - (high - low)) / 2)
    return low - room, high + room


def finite(value: Any) -> float | None:
    """Return a number that can be drawn, or None, which plotly leaves out."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """Return one numeric column of tidy rows."""
    return [finite(row.get(name)) for row in rows]


def number(value: Any) -> str:
    """Return a number as the tables show it."""
    return _PLAIN.format(value) if isinstance(value, int | float) else label(value)


def rough(value: float) -> str:
    """Return a number as a caption says it: three digits; the table has the rest."""
    return f"{value:.3g}"


def label(text: Any, width: int = 60) -> str:
    """Return text for a figure: plotly reads a subset of HTML in labels, so its marks are escaped too."""
    return html.escape(shortened(shown(text), width), quote=False)


def hover(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the lines a pointer sees over one row: `title value`, for the columns the row has."""
    said = [(title, row[name]) for name, title in names.items() if row.get(name) not in (None, "")]
    return "<br>".join(f"{title} {_word(value)}" for title, value in said)


def _word(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)


def power(exponent: int) -> str:
    """Return e.g. `10⁻⁹`."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
