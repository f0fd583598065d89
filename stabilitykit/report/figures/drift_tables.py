"""At which decimal and by how many ULP the coordinates of two runs differ, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stabilitykit.report.figures.figure import BLUE, ORANGE, Figure, Trace, axis, label, layout, power

Row = Mapping[str, Any]
_DECADES = range(16)


def tables(rows: Sequence[Row]) -> list[Figure]:
    """Return the bars of the state that the head reads, by decimal and by ULP; nothing where no value differs."""
    row = next((one for one in rows if one.get("stage") == "post_norm"), None)
    if row is None or not row.get("changed_values"):
        return []
    return [_decimals(row), *_ulps(row)]


def _decimals(row: Row) -> Figure:
    names = ["≥ 1", *(f"≥ {power(-k)}" for k in _DECADES[1:]), f"< {power(-15)}"]
    bins = [row.get(f"decade_{k}", 0) for k in _DECADES] + [row.get("decade_below", 0)]
    first = next(k for k, count in enumerate(bins) if count)
    last = max(k for k, count in enumerate(bins) if count)
    shown = slice(max(first - 1, 0), last + 2)
    added = [sum(bins[: k + 1]) for k in range(len(bins))]
    traces: list[Trace] = [
        _bars(names[shown], bins[shown], "of this size"),
        {
            "type": "scatter",
            "x": names[shown],
            "y": added[shown],
            "mode": "lines+markers",
            "name": "of this size or larger",
            "line": {"color": ORANGE, "width": 1.5},
        },
    ]
    caption = (
        f"|Δh| of the {row.get('elements')} coordinates that the head reads in step {row.get('position')}: "
        f"{row['changed_values']} differ. Rounded to 3 decimals {row.get('decimal_3')} still do, to 6 "
        f"{row.get('decimal_6')}."
    )
    return Figure("At which decimal they differ", caption, traces, _shape("|Δh|"))


def _ulps(row: Row) -> list[Figure]:
    counts = {int(name[6:]): count for name, count in row.items() if name.startswith("ulp_2^") and count is not None}
    present = [k for k, count in counts.items() if count]
    if not present:
        return []
    shown = range(min(present), max(present) + 1)
    names = [f"{2**k:,}" if k < 12 else f"2^{k}" for k in shown]
    trace = _bars([label(name) for name in names], [counts[k] for k in shown], "coordinates")
    caption = (
        "Each bar counts coordinates from that many ULP to less than twice as many; those that cross zero are far to "
        f"the right. {row.get('signed_zeros')} zeros differ in their sign only, {row.get('nan_payload')} NaN in bits."
    )
    return [Figure("By how many ULP they differ", caption, [trace], _shape("ULP"))]


def _bars(names: Sequence[str], counts: Sequence[int], title: str) -> Trace:
    return {"type": "bar", "x": list(names), "y": list(counts), "name": title, "marker": {"color": BLUE}}


def _shape(title: str) -> dict[str, Any]:
    return layout(
        340,
        showlegend=title != "ULP",
        xaxis=axis(title, type="category", showgrid=False),
        yaxis=axis("coordinates", rangemode="tozero"),
    )
