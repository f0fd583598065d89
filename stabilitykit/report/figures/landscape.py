"""The landscape of a decision: the difference of two logits over a plane, who wins where, and how rough that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from stabilitykit.numerics.enlarged import enlarged
from stabilitykit.report.figures.figure import (
    BLUE,
    INK,
    ORANGE,
    PAPER,
    SCALE,
    Figure,
    Trace,
    finite,
    label,
    power,
    rough,
)
from stabilitykit.report.figures.map_panel import Array, MapPanel, bar, exponent, square
from stabilitykit.report.text import shortened, shown

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

FIRST, SECOND, THIRD = INK, PAPER, ORANGE
"""Colours of the cells in which either token of the pair wins, and of those in which another one leads."""

_DIVERGING = [[0, ORANGE], [0.5, PAPER], [1, BLUE]]
_GROWN = 1


def draw(result: Result) -> list[Figure]:
    """Return the map, who wins, the prediction, the gradient, the local entropy, and the rarer token enlarged."""
    D = _array(result, "D")
    if D is None or D.ndim != 2 or min(D.shape) < 2 or not np.isfinite(D).all():
        return []
    e1, e2, linear = (_array(result, name) for name in ("e1", "e2", "linear"))
    names = [str(name) for name in _array(result, "plane")]
    # Titles and captions are escaped by the page; plotly's own labels need `label`.
    tokens = [f"“{shortened(shown(token), 20)}”" for token in _array(result, "tokens")]
    panel = MapPanel(e1, e2, (names[0], names[1]))
    third = _array(result, "third")
    drawn = [
        _difference(panel, D, linear, tokens),
        _winners(panel, D >= 0, third, linear, tokens),
        _prediction(panel, D, linear, tokens),
        _gradient(panel, _array(result, "gradient"), result),
        _entropy(panel, _array(result, "entropy")),
        _enlarged(panel, D >= 0, tokens),
    ]
    return [figure for figure in drawn if figure is not None]


def _array(result: Result, name: str) -> Any:
    """Return an array of the result, that of the first prompt where there are several."""
    return result.arrays.get(name, result.arrays.get(f"000/{name}"))


def _difference(panel: MapPanel, D: Array, linear: Array | None, tokens: list[str]) -> Figure:
    dashed = " Dashed: where the derivative puts the line between them." if panel.line(linear) else ""
    caption = (
        f"z({tokens[0]}) - z({tokens[1]}), in logits: blue where the first leads, orange where the second does, no "
        "colour where they are equal. "
        f"It runs from {rough(float(D.min()))} to {rough(float(D.max()))}.{dashed}{panel.note}"
    )
    return panel.figure("The difference of the two logits", caption, [_heat(panel, D), *panel.line(linear)])


def _heat(panel: MapPanel, D: Array) -> Trace:
    most = float(np.abs(D).max())
    scale = exponent(most)
    unit = f"{power(scale)} logits" if scale else "logits"
    end = most / 10.0**scale or 1
    look = {"colorscale": _DIVERGING, "zmin": -end, "zmid": 0, "zmax": end, "colorbar": bar(unit)}
    return panel.heat(D / 10.0**scale, 2, f"D ({unit})", look)


def _winners(panel: MapPanel, B: Array, third: Array | None, linear: Array | None, tokens: list[str]) -> Figure:
    cells = np.where(B, 1, 0) if third is None else np.where(third, 2, np.where(B, 1, 0))
    counts = [int((cells == kind).sum()) for kind in (1, 0, 2)]
    shares = f"{tokens[0]} in {counts[0]} cells, {tokens[1]} in {counts[1]}" + (
        f", another token in {counts[2]}" if counts[2] else ""
    )
    caption = f"The token with the larger logit: {shares}. Where both are equal the first is drawn.{panel.note}"
    traces = [*_classes(panel, cells, tokens, bool(counts[2])), *panel.line(linear)]
    return panel.figure("Which token wins", caption, traces, showlegend=True)


def _classes(panel: MapPanel, cells: Array, tokens: list[str], third: bool) -> list[Trace]:
    """Return cells of 1, the first token, 0, the second, and 2, another, in colours that the legend names."""
    steps = [[0, SECOND], [1 / 3, SECOND], [1 / 3, FIRST], [2 / 3, FIRST], [2 / 3, THIRD], [1, THIRD]]
    heat = panel.heat(cells, 0, "token", {"colorscale": steps, "zmin": -0.5, "zmax": 2.5, "showscale": False})
    named = [label(token) for token in tokens] + ["another"] * third
    heat["hovertemplate"] = heat["hovertemplate"].replace("<br>token %{z}", "")
    return [heat, *(square(color, name) for color, name in zip((FIRST, SECOND, THIRD), named, strict=False))]


def _prediction(panel: MapPanel, D: Array, linear: Array | None, tokens: list[str]) -> Figure | None:
    if linear is None or not np.isfinite(linear).all():
        return None
    agreement = float(((D >= 0) == (linear >= 0)).mean())
    caption = (
        "What calculus makes of the same plane: D in the middle plus its derivative. It gives the token of the map in "
        f"{100 * agreement:.3g} % of the cells; the largest deviation is {rough(float(np.abs(D - linear).max()))} "
        f"logits.{panel.note}"
    )
    return panel.figure("What the derivative predicts", caption, [_heat(panel, linear), *panel.line(linear)])


def _gradient(panel: MapPanel, slopes: Array | None, result: Result) -> Figure | None:
    if slopes is None or not np.isfinite(slopes).all() or not slopes.any():
        return None
    scale = exponent(float(slopes.max()))
    unit = f"{power(scale)} logits per unit of e" if scale else "logits per unit of e"
    predicted = finite(getattr(result.readings.get("gradient_linear"), "value", None))
    times = f", {rough(float(slopes.mean()) / predicted)} times the derivative's" if predicted else ""
    caption = f"How steep the map is from cell to cell: {rough(float(slopes.mean()))} in the mean{times}.{panel.note}"
    look = {"colorscale": SCALE, "zmin": 0, "colorbar": bar(unit)}
    heat = panel.heat(slopes / 10.0**scale, 1, f"|grad D| ({unit})", look)
    return panel.figure("How steep it is", caption, [heat])


def _entropy(panel: MapPanel, entropy: Array | None) -> Figure | None:
    if entropy is None or not entropy.size:
        return None
    border = (len(panel.e1) - len(entropy)) // 2
    window = 2 * border + 1
    look = {"colorscale": SCALE, "zmin": 0, "zmax": 1, "colorbar": bar("bit")}
    heat = panel.heat(entropy, 2, "entropy", look, border)
    caption = (
        f"How mixed the two tokens are in the {window} x {window} cells around each: 0 where one is alone, 1 where "
        f"both are equally frequent; {rough(float(entropy.mean()))} in the mean.{panel.note}"
    )
    return panel.figure("Where the two mix", caption, [heat])


def _enlarged(panel: MapPanel, B: Array, tokens: list[str]) -> Figure | None:
    """Draw the rarer token larger; nothing for a flat map, and where it is no more than a line's side."""
    first = bool(B.mean() < 0.5)
    if B.all() or not B.any():
        return None
    grown = enlarged(B, _GROWN, first=first)
    side = 2 * _GROWN + 1
    name = tokens[0] if first else tokens[1]
    caption = (
        f"Not data: every cell of {name} is drawn as {side} x {side} cells, so that single ones can be seen. By this "
        f"{math.ceil(100 * float((grown if first else ~grown).mean()))} % of the map are covered.{panel.note}"
    )
    traces = _classes(panel, np.where(grown, 1, 0), tokens, third=False)
    return panel.figure(f"The same with {name} enlarged", caption, traces, showlegend=True)
