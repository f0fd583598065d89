"""How far each operation of a machine is from the true result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabilitykit.report.figures.figure import BLUE, Figure, axis, column, label, layout

if TYPE_CHECKING:
    from stabilitykit.results.result import Result


def draw(result: Result) -> list[Figure]:
    """Return one mark an operation: its largest error in ULP of its row's largest element."""
    rows = [row for row in result.rows if row.get("verdict") != "unsupported"]
    if not rows:
        return []
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": column(rows, "max_scaled_ulp"),
        "y": [label(row["operator"]) for row in rows],
        "marker": {"color": BLUE, "size": 8},
        "customdata": [[label(row["family"]), row["digest"][:12], row["correct"]] for row in rows],
        "hovertemplate": "%{y}, %{customdata[0]}<br>%{x:.3g} scaled ULP from true float64<br>"
        "%{customdata[2]:.1%} correctly rounded<br>digest %{customdata[1]}<extra></extra>",
    }
    shape = layout(
        110 + 20 * len(rows),
        xaxis=axis("largest error (scaled ULP)", rangemode="tozero"),
        yaxis=axis("", type="category", autorange="reversed"),
        margin={"l": 150, "r": 18, "t": 16, "b": 52},
    )
    correct = sum(row["correct"] == 1 for row in rows)
    caption = (
        f"{len(rows)} operations on stored inputs, one mark each: how far the worst element is from the same operation "
        f"in true float64, rounded once. {correct} round every element correctly."
    )
    return [Figure("How near each operation is to the truth", caption, [trace], shape)]
