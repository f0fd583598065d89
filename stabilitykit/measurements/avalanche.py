"""Where rounding takes over from the function: the readings of a profile of changes from site to site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stabilitykit.measurements.smooth import ratio
from stabilitykit.results.metric import Metric, Reading

Row = Mapping[str, Any]
Profile = Sequence[Row]

ALIGNED = 0.99
"""Pairs whose realised change keeps at least this cosine with the direction still step along it."""

SATURATED = 99.0
"""Percent of the elements from which on a site counts as changed throughout."""


def avalanche(profile: Profile, factor: float) -> float:
    """Return the first block with |dh| > factor |dh64|, if the last site has that too; else nan.

    The change |dh| then differs from the true one by more than (factor - 1) |dh64|. Asking it of the output as well
    leaves out blocks whose rounding the rest of the model forgets.
    """
    if not profile or not profile[-1]["gain_ratio"] > factor:
        return math.nan
    blocks = [row["site"] for row in profile if row["site"].startswith("block:") and row["gain_ratio"] > factor]
    return float(blocks[0].partition(":")[2]) if blocks else math.nan


def smallest(profiles: Sequence[Profile]) -> int | None:
    """Return which profile has the smallest realised step among those whose last site changed; None if none did."""
    changed = [p for p, profile in enumerate(profiles) if profile and profile[-1]["changed"]]
    return min(changed, key=lambda p: profiles[p][0]["realised_norm"], default=None)


def readings(
    metrics: Sequence[Metric], profiles: Sequence[Profile], starts: Sequence[float]
) -> dict[str, float | Reading]:
    """Return the readings of the profiles; `starts` are their avalanche blocks. nan where nothing answers."""
    schema = {metric.name: metric for metric in metrics}
    ends = [profile[-1] for profile in profiles if profile and profile[-1]["realised_norm"]]
    found: dict[str, float | Reading] = {
        "pairs": len(profiles),
        "avalanches": _share([not math.isnan(start) for start in starts], len(ends)),
        "unchanged_outputs": _unchanged(ends),
        "forward_error": _largest(schema["forward_error"], ends, "forward_error"),
        "gain_ratio": _largest(
            schema["gain_ratio"], [row for row in ends if row["alignment"] >= ALIGNED], "gain_ratio"
        ),
        "avalanche_block": _first_avalanche(schema["avalanche_block"], profiles, starts),
    }
    return found | _amplification(schema, profiles) | _peak(schema, profiles) | _onset(schema, profiles)


def _share(flags: Sequence[bool], whole: int) -> float:
    return sum(flags) / whole if whole else math.nan


def _unchanged(ends: Sequence[Row]) -> float:
    """Return the share of distinct inputs whose last site keeps every bit."""
    distinct = {row["input"]: not row["changed"] for row in ends}
    return _share(list(distinct.values()), len(distinct))


def place_of(row: Row) -> dict[str, str]:
    """Return where a row is, for csv: the site, its block, and the step."""
    site = str(row["site"])
    block = {"block": site.partition(":")[2]} if site.startswith("block:") else {}
    return {"site": site, **block, "direction": row["direction"], **_step(row)}


def _step(row: Row) -> dict[str, str]:
    return {"sign": f"{row['sign']:+d}", "epsilon": f"{row['epsilon']:g}"}


def _largest(metric: Metric, rows: Iterable[Row], column: str) -> Reading:
    """Return the largest value of a column with its place; nan only where there is no number at all."""
    known = [row for row in rows if not math.isnan(row[column])]
    top = max(known, key=lambda row: row[column], default=None)
    return Reading(metric, math.nan) if top is None else Reading(metric, top[column], place=place_of(top))


def _first_avalanche(metric: Metric, profiles: Sequence[Profile], starts: Sequence[float]) -> Reading:
    known = [p for p, start in enumerate(starts) if not math.isnan(start)]
    chosen = min(known, key=lambda p: profiles[p][0]["realised_norm"], default=None)
    if chosen is None:
        return Reading(metric, math.nan)
    site = f"block:{starts[chosen]:.0f}"
    return Reading(metric, starts[chosen], place=place_of({**profiles[chosen][0], "site": site}))


def _amplification(schema: Mapping[str, Metric], profiles: Sequence[Profile]) -> dict[str, float | Reading]:
    """Return the largest relative change of the last site over that of the embedding, as evaluated and exactly."""
    entered = [profile for profile in profiles if profile and profile[0]["site"] == "embed"]
    found: dict[str, float | Reading] = {}
    for name, column in (("amplification_end", "relative_l2"), ("amplification_exact", "relative_l2_exact")):
        ends = [{**profile[-1], name: ratio(profile[-1][column], profile[0][column])} for profile in entered]
        found[name] = _largest(schema[name], ends, name)
    return found


def _peak(schema: Mapping[str, Metric], profiles: Sequence[Profile]) -> dict[str, float | Reading]:
    rows = [row for profile in profiles for row in profile]
    peak = _largest(schema["peak_growth"], rows, "growth")
    order = [row["site"] for row in profiles[0]] if profiles else []
    index = order.index(peak.place["site"]) if peak.place else math.nan
    return {"peak_growth": peak, "peak_growth_site": Reading(schema["peak_growth_site"], index, place=peak.place)}


def _onset(schema: Mapping[str, Metric], profiles: Sequence[Profile]) -> dict[str, float | Reading]:
    """Return the first changed and the first saturated site at the smallest step that changes the output."""
    chosen = smallest(profiles)
    profile = [] if chosen is None else profiles[chosen]
    found: dict[str, float | Reading] = {}
    for name, least in (("onset_site", 0.0), ("saturation_site", SATURATED)):
        hits = [i for i, row in enumerate(profile) if row["changed"] and row["percent_changed"] >= least]
        found[name] = Reading(schema[name], math.nan) if not hits else _site(schema[name], profile, hits[0])
    return found


def _site(metric: Metric, profile: Profile, index: int) -> Reading:
    return Reading(metric, index, place=place_of(profile[index]))


def sentence(profiles: Sequence[Profile], starts: Sequence[float], factor: float, why: str) -> str:
    """Return what the profiles say, also where nothing moved or there is no oracle."""
    moved = [profile for profile in profiles if profile and profile[0]["realised_norm"]]
    if not moved:
        return f"None of the {len(profiles)} steps moves the rounded input, so no state changes."
    chosen = smallest(profiles)
    if chosen is None:
        return f"{len(moved)} of {len(profiles)} steps move the input, and none of them changes the output."
    end = profiles[chosen][-1]
    first = (
        f"The smallest step that changes the output, {end['realised_norm']:.3g} long, leaves it {end['l2']:.3g} away"
    )
    if why:
        return f"{first}. There is no true float64 to compare with: {why}"
    if math.isnan(end["gain_ratio"]):
        return f"{first}."
    told = f"{first}, {end['gain_ratio']:.3g} times as far as in exact arithmetic"
    if math.isnan(starts[chosen]):
        return f"{told}."
    return f"{told}; from block {starts[chosen]:.0f} on the change is more than {factor:g} times the true one."
