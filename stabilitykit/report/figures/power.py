"""The power of a run as two maps: check against planted fault, one of faults that fire always, one of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import BLUE, GREEN, GRID, ORANGE, PAPER, Figure, axis, label, layout

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Row = Mapping[str, Any]
# From what is seen least to what is seen best; neighbours share a colour, since a glance asks for three things only.
_LEVELS = {"no place": 0, "missed": 1, "refused": 1, "uncompared": 2, "better": 2, "baseline": 3, "alone": 4}
_SIGNS = {"missed": "·", "refused": "?", "uncompared": "=", "better": "≈", "baseline": "b", "alone": "!"}
_COLOURS = (PAPER, GRID, ORANGE, BLUE, GREEN)
_ROW, _EDGES = 17, 190


def draw(result: Result) -> list[Figure]:
    """Return a map of the faults that fire at every call, and one of those that fire at some."""
    faults = [row for row in result.rows if row.get("part") == "fault"]
    checks = [row for row in result.rows if row.get("part") == "check"]
    always = [row for row in faults if "@" not in str(row["fault"])]
    sometimes = [row for row in faults if "@" in str(row["fault"])]
    drawn = [
        (always, "Faults at every call", "Only what such a run is compared with can show them"),
        (sometimes, "Faults at some calls", "Such a run differs from itself, which needs no baseline"),
    ]
    return [_map(title, lead, some, checks) for some, title, lead in drawn if some and checks]


def _map(title: str, lead: str, faults: Sequence[Row], checks: Sequence[Row]) -> Figure:
    names, ordered = [str(row["fault"]) for row in faults], list(reversed(checks))
    words = [[str(row.get(name, "")) for name in names] for row in ordered]
    top = len(_COLOURS) - 1
    steps = [[edge, colour] for level, colour in enumerate(_COLOURS) for edge in _band(level, len(_COLOURS))]
    trace = {
        "type": "heatmap",
        "x": [label(name) for name in names],
        "y": [f"{label(row['check'], 28)}  {row['rows']:,}" for row in ordered],
        "z": [[_LEVELS.get(word) for word in line] for line in words],
        "text": [[_SIGNS.get(word, "") for word in line] for line in words],
        "customdata": words,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} rows<br>%{x}: %{customdata}<extra></extra>",
        "colorscale": steps,
        "zmin": -0.5,
        "zmax": top + 0.5,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    shape = layout(
        _EDGES + _ROW * len(checks),
        xaxis=axis("planted fault", type="category", showgrid=False, tickangle=-60),
        yaxis=axis("check, and its rows through the model", type="category", showgrid=False, tickfont={"size": 10}),
    )
    caught = [name for place, name in enumerate(names) if any(line[place] in ("alone", "baseline") for line in words)]
    caption = (
        f"{lead}. {len(caught)} of {len(names)} are caught. ! the check catches it alone, b beside a baseline saved "
        "without it, ≈ and = it moves and the run stays green, · it is missed, ? the check cannot be asked, blank: the "
        "fault has no place in what the check runs. The cheapest check is at the top."
    )
    return Figure(title, caption, [trace], shape, wide=True)


def _band(level: int, count: int) -> tuple[float, float]:
    """Return both ends of a level's stretch of the colour scale: plain colours, no shades between them."""
    return level / count, (level + 1) / count
