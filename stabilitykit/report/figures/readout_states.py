"""Last states beside the head's rows: angles and distances, what the norm turns, and what the blocks prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.report.figures.figure import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    Figure,
    Trace,
    axis,
    column,
    finite,
    hover,
    label,
    layout,
    log_axis,
    rough,
)
from stabilitykit.report.figures.readout import LEGEND_BELOW, bars, kept

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

Rows = Sequence[Mapping[str, Any]]

_POSITION = {"prompt": "prompt", "position": "token", "token": "says", "nearest": "nearest tie with"}
_DISTANCE = {**_POSITION, "nearest_distance": "distance", "second": "second", "distance": "distance to the second"}
_TURN = {"prompt": "prompt", "position": "token", "token": "says", "nearest_before_word": "nearest before"}
_NORM = {**_TURN, "nearest_after_word": "nearest after", "angle_change": "angle changes by"}
_WAY = {"way": "", "flips": "tokens changed", "max_ulp": "ULP at the most", "rms_margin_change": "rms"}
_LINES = 24


def draw_angles(result: Result) -> list[Figure]:
    """Return the angles at each rank, and the nearest tie along the texts."""
    drawn = [
        _ranks(kept(result, "rank", "median", "q1", "q3")),
        _ties(kept(result, "position", "nearest_distance")),
        _each(kept(result, "angle", "angle_after", "rank")),
    ]
    return [figure for figure in drawn if figure is not None]


def _ranks(rows: Rows) -> Figure | None:
    traces = []
    for state, name, color in (("before", "before the norm", FAINT), ("after", "as the head reads it", BLUE)):
        own = [row for row in rows if row.get("state") == state]
        traces.append(
            {
                "type": "scatter",
                "x": [str(row["rank"]) for row in own],
                "y": column(own, "median"),
                "mode": "lines+markers",
                "name": name,
                "line": {"color": color, "width": 1.5},
                "marker": {"size": 8, "color": color},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [row["q3"] - row["median"] for row in own],
                    "arrayminus": [row["median"] - row["q1"] for row in own],
                    "color": color,
                    "thickness": 1.2,
                },
            }
        )
    if not traces[1]["x"]:
        return None
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("rank of the token by its logit", type="category"),
        yaxis=axis("angle to its row (degrees)"),
        legend=LEGEND_BELOW,
    )
    caption = (
        "Medians over all tokens, bars from the first to the third quartile. 90 degrees would be no relation at all."
    )
    return Figure("At which angles the state stands to the tokens", caption, traces, shape, wide=True)


def _ties(rows: Rows) -> Figure | None:
    positive = [row["nearest_distance"] for row in rows if row["nearest_distance"] > 0]
    if not positive:
        return None
    traces = []
    for other, name, color in ((False, "with the second token", BLUE), (True, "with one behind it", ORANGE)):
        own = [row for row in rows if (row.get("nearest_id") != row.get("second_id")) == other]
        own = [row for row in own if row["nearest_distance"] > 0]
        traces.append(
            {
                "type": "scatter",
                "x": column(own, "position"),
                "y": column(own, "nearest_distance"),
                "mode": "markers",
                "name": name,
                "marker": {"size": 8, "color": color, "opacity": 0.8},
                "hovertext": [hover(row, _DISTANCE) for row in own],
                "hoverinfo": "text",
            }
        )
    shape = layout(
        360,
        showlegend=True,
        xaxis=axis("token that is read"),
        yaxis=log_axis("distance to the nearest tie", positive),
        legend=LEGEND_BELOW,
    )
    behind = len(traces[1]["x"])
    caption = (
        f"How far the head's input must move before another token is as large: {rough(min(positive))} to "
        f"{rough(max(positive))}. At {behind} of {len(rows)} tokens the nearest tie is not with the second."
    )
    return Figure("How far from saying something else", caption, [trace for trace in traces if trace["x"]], shape)


def _each(rows: Rows) -> Figure | None:
    ranks = sorted({row["rank"] for row in rows})
    if len(ranks) < 2:
        return None
    shown = {rank: [row["angle_after"] for row in rows if row["rank"] == rank] for rank in (ranks[0], ranks[-1])}
    ends = tuple(pick(angle for angles in shown.values() for angle in angles) for pick in (min, max))
    traces = []
    for (rank, angles), color in zip(shown.items(), (BLUE, ORANGE), strict=True):
        traces.append({**bars(angles, 25, color, (ends[0], ends[1]))[0], "name": f"rank {rank}", "opacity": 0.6})
    shape = layout(
        340,
        showlegend=True,
        barmode="overlay",
        xaxis=axis("angle as the head reads it (degrees)"),
        yaxis=axis("tokens", rangemode="tozero"),
        legend=LEGEND_BELOW,
    )
    caption = (
        f"The angles of all tokens to the rows of rank {ranks[0]} and of rank {ranks[-1]}: the closer they lie, the "
    )
    return Figure("How far apart first and last are", f"{caption}less decides.", traces, shape)


def draw_alignment(result: Result) -> list[Figure]:
    """Return each token's angle before and after the norm, and the mean change at each rank."""
    rows = kept(result, "position", "angle_before", "angle_after")
    ranks = kept(result, "rank", "mean_angle_change")
    return [*([_turned(rows)] if rows else []), *([_changes(ranks)] if ranks else [])]


def _turned(rows: Rows) -> Figure:
    angles = [row[name] for row in rows for name in ("angle_before", "angle_after")]
    ends = [min(angles) - 1, max(angles) + 1]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": ends,
            "y": ends,
            "mode": "lines",
            "name": "unchanged",
            "line": {"color": FAINT, "width": 1.2, "dash": "dash"},
            "hoverinfo": "skip",
        }
    ]
    for changed, name, color in ((False, "same token nearest", BLUE), (True, "another token nearest", ORANGE)):
        own = [row for row in rows if (row.get("ranking_changed") is True) == changed]
        if own:
            traces.append(
                {
                    "type": "scatter",
                    "x": column(own, "angle_before"),
                    "y": column(own, "angle_after"),
                    "mode": "markers",
                    "name": name,
                    "marker": {"size": 8, "color": color, "opacity": 0.8},
                    "hovertext": [hover(row, _NORM) for row in own],
                    "hoverinfo": "text",
                }
            )
    shape = layout(
        400,
        showlegend=True,
        xaxis=axis("angle before the norm (degrees)"),
        yaxis=axis("angle after it (degrees)"),
        legend=LEGEND_BELOW,
    )
    nearer = sum(row["angle_after"] < row["angle_before"] for row in rows)
    turned = sum(row.get("ranking_changed") is True for row in rows)
    caption = (
        f"The state's angle to the row of the token that is said: below the line the norm turns the state towards it, "
        f"at {nearer} of {len(rows)} tokens. At {turned} another of the first tokens becomes the nearest."
    )
    return Figure("What the final norm turns", caption, traces, shape, wide=True)


def _changes(rows: Rows) -> Figure:
    trace: Trace = {
        "type": "bar",
        "x": [str(row["rank"]) for row in rows],
        "y": column(rows, "mean_angle_change"),
        "marker": {"color": BLUE},
        "error_y": {
            "type": "data",
            "array": [finite(row.get("sd_angle_change")) or 0.0 for row in rows],
            "color": FAINT,
        },
    }
    shape = layout(
        320,
        xaxis=axis("rank of the token by its logit", type="category"),
        yaxis=axis("change of the angle (degrees)", zeroline=True, zerolinecolor=FAINT),
    )
    caption = "Means over all tokens, bars of one standard deviation. Below zero the norm turns the state towards them."
    return Figure("The change at each rank", caption, [trace], shape)


def draw_replay(result: Result) -> list[Figure]:
    """Return what each block prefers, and how far the margin moves when the head is redone."""
    stages = kept(result, "stage", "ahead", "block")
    ways = [row for row in kept(result, "way", "max_margin_change") if row["max_margin_change"] > 0]
    return [*([_lens(stages, result)] if stages else []), *([_redone(ways, result)] if ways else [])]


def _lens(rows: Rows, result: Result) -> Figure:
    places = list(dict.fromkeys((row.get("number"), row.get("position")) for row in rows))
    traces: list[Trace] = []
    for k, place in enumerate(places[:_LINES]):
        own = [row for row in rows if (row.get("number"), row.get("position")) == place]
        said = f"{label(own[0].get('token'), 14)} before {label(own[0].get('second'), 14)}"
        traces.append(
            {
                "type": "scatter",
                "x": column(own, "block"),
                "y": column(own, "ahead"),
                "mode": "lines",
                "line": {"color": (BLUE, GREEN, ORANGE)[k % 3], "width": 1.2},
                "opacity": 0.75,
                "hovertext": [f"{said}<br>block {row['block']}: {row['ahead']:.4g}" for row in own],
                "hoverinfo": "text",
            }
        )
    shape = layout(
        400,
        xaxis=axis("block"),
        yaxis=axis("first token's logit less the second's", zeroline=True, zerolinecolor=FAINT),
    )
    settled = result.readings.get("median_settled")
    half = f" Half of them stay ahead from block {rough(settled.value)} on." if settled else ""
    more = f" The first {_LINES} are drawn." if len(places) > _LINES else ""
    caption = (
        f"What the model would say if it ended behind a block, one line a token: above zero the one that it says "
        f"in the end.{half}{more}"
    )
    return Figure("Where the model makes up its mind", caption, traces, shape, wide=True)


def _redone(rows: Rows, result: Result) -> Figure:
    names = [label(row.get("way"), 20) for row in rows]
    values = [row["max_margin_change"] for row in rows]
    smallest = result.readings.get("min_margin")
    traces: list[Trace] = [
        {
            "type": "scatter",
            "x": values,
            "y": names,
            "mode": "markers",
            "name": "largest change",
            "marker": {"size": 10, "color": [ORANGE if finite(row.get("flips")) else BLUE for row in rows]},
            "hovertext": [hover(row, _WAY) for row in rows],
            "hoverinfo": "text",
        }
    ]
    drawn = list(values)
    if smallest and finite(smallest.value) and smallest.value > 0:
        drawn.append(smallest.value)
        line = {"color": FAINT, "dash": "dash", "width": 1.5}
        ends = [names[0], names[-1]]
        traces.append(
            {
                "type": "scatter",
                "x": [smallest.value] * 2,
                "y": ends,
                "mode": "lines",
                "name": "smallest margin",
                "line": line,
            }
        )
    shape = layout(
        150 + 34 * len(rows),
        showlegend=True,
        xaxis=log_axis("change of the margin (logits)", drawn),
        yaxis=axis("", type="category", showgrid=False),
        legend={**LEGEND_BELOW, "y": -0.45},
    )
    flips = sum(int(finite(row.get("flips")) or 0) for row in rows)
    caption = f"How far the margin moves with the head redone on the same states; {flips} tokens turned."
    return Figure("The head redone", caption, traces, shape)
