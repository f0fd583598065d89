"""Where changed inputs lose their change: a bar for each site at which one did, and one for those that never do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stabilitykit.report.figures.figure import BLUE, ORANGE, Figure, Trace, axis, label, layout

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

NEVER = "never"


def draw(result: Result) -> list[Figure]:
    """Return the histogram of fates."""
    fates = [str(row["fate"]) for row in result.rows if row.get("fate")]
    if not fates:
        return []
    counted = Counter(fates)
    sites = sorted(counted, key=_order)
    trace: Trace = {
        "type": "bar",
        "x": [label(_named(site)) for site in sites],
        "y": [counted[site] for site in sites],
        "text": [str(counted[site]) for site in sites],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [ORANGE if site == NEVER else BLUE for site in sites]},
        "hovertemplate": "%{x}: %{y} changed inputs<extra></extra>",
    }
    shape = layout(
        320,
        xaxis=axis("where the change dies", type="category"),
        yaxis=axis("changed inputs", tickformat="d", rangemode="tozero"),
        margin={"l": 64, "r": 18, "t": 30, "b": 52},
    )
    told = [row["decided_in_block_0"] for row in result.rows if isinstance(row.get("decided_in_block_0"), bool)]
    decided = f" Of {sum(told)} of {len(told)} the state after block 0 tells the fate." if told else ""
    lost = len(fates) - counted[NEVER]
    where = " where the bar stands: from there on every bit is that of the unchanged input" if lost else ""
    said = f"Of {len(fates)} changed inputs {counted[NEVER]} change the output, and {lost} lose their change{where}."
    return [Figure("Where a change dies", f"{said}{decided}", [trace], shape)]


def _order(site: str) -> tuple[int, int, str]:
    """Sort the embedding first, then the blocks, then what comes behind them, and never last."""
    kind, _, number = site.partition(":")
    if kind == "block" and number.isdigit():
        return 1, int(number), site
    return {"embed": 0, NEVER: 3}.get(site, 2), 0, site


def _named(site: str) -> str:
    return {NEVER: "nowhere", "post_norm": "final norm"}.get(site, site.replace(":", " "))
