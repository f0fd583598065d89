"""What the certificates of many rays say together: readings and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabilitykit.results.metric import Metric, Reading

Rows = Sequence[Mapping[str, Any]]

RADIUS = (
    Metric("radius", "input", "higher", "largest step along the ray whose output is unchanged in every bit"),
    Metric("s_last_same", "input", "neither", "last step with the baseline's bits, a float64"),
    Metric("s_first_changed", "input", "neither", "the next float64, the first step with other bits"),
    Metric("lattice_radius", "input", "neither", "last step before a listable coordinate of the rounded input changes"),
    Metric("rho", "", "higher", "radius over lattice radius: how much change the model absorbs"),
    Metric("cells", "inputs", "neither", "distinct inputs from x0 to the change, that one included"),
    Metric("coordinate", "index", "neither", "input coordinate whose last bit makes the difference"),
    Metric("input_step", "input", "neither", "L2 size of the input change across the boundary"),
    Metric("output_jump", "output", "lower", "L2 size of the output change across the boundary"),
    Metric("amplification", "output/input", "lower", "output jump over input step"),
    Metric("exact", "share", "higher", "share of rays whose every distinct input below the radius was tried"),
    Metric("censored", "share", "lower", "share of rays without a change in the range searched"),
    Metric("directions", "rays", "neither", "number of rays"),
    Metric("median_radius", "input", "higher", "median radius over the rays"),
    Metric("median_rho", "", "higher", "median of rho over the rays"),
)

ISLANDS = (
    Metric("islands", "rays", "neither", "rays that return to the baseline's identical bits past their first change"),
    Metric("island_cells", "inputs", "neither", "inputs past a first change that have the baseline's bits again"),
    Metric("beyond_cells", "inputs", "neither", "inputs tried past the first changes"),
    Metric("bisection_overstates", "", "neither", "largest radius that halving would report, over the true one"),
)


_FAR = 1e4


def readings_of(rows: Rows) -> dict[str, float | Reading]:
    """Return the readings of RADIUS: those of the nearest ray, the largest amplification, medians and shares."""
    nearest = min(rows, key=lambda row: row["radius"])
    steepest = max(rows, key=lambda row: -math.inf if math.isnan(row["amplification"]) else row["amplification"])
    schema = {metric.name: metric for metric in RADIUS}
    place = {"direction": nearest["direction"], "slot": str(nearest["slot"])}
    names = ("radius", "s_last_same", "s_first_changed", "lattice_radius", "rho", "cells", "coordinate", "input_step")
    values: dict[str, float | Reading] = {
        name: Reading(schema[name], nearest[name], place=place) for name in (*names, "output_jump")
    }
    values["amplification"] = Reading(
        schema["amplification"], steepest["amplification"], place={"direction": steepest["direction"]}
    )
    return values | {
        "exact": sum(row["exact"] for row in rows) / len(rows),
        "censored": sum(row["censored"] for row in rows) / len(rows),
        "directions": len(rows),
        "median_radius": float(np.median([row["radius"] for row in rows])),
        "median_rho": float(np.median([row["rho"] for row in rows])),
        **_island_readings(rows),
    }


def _island_readings(rows: Rows) -> dict[str, float | Reading]:
    """Return the readings of ISLANDS, none where nothing was searched past the first changes."""
    if "islands" not in rows[0]:
        return {}
    ratios = {row["direction"]: row["bisection_radius"] / row["radius"] for row in rows if row["radius"]}
    known = {label: ratio for label, ratio in ratios.items() if not math.isnan(ratio)}
    worst = max(known, key=lambda label: known[label], default="")
    (metric,) = (metric for metric in ISLANDS if metric.name == "bisection_overstates")
    return {
        "islands": sum(row["islands"] > 0 for row in rows),
        "island_cells": sum(row["island_cells"] for row in rows),
        "beyond_cells": sum(row["beyond_cells"] for row in rows),
        "bisection_overstates": Reading(
            metric, known.get(worst, math.nan), place={"direction": worst} if worst else {}
        ),
    }


def sentence_of(rows: Rows) -> str:
    """Return what the rays say in words."""
    nearest = min(rows, key=lambda row: row["radius"])
    rays = f"the nearest of {len(rows)} rays" if len(rows) > 1 else "the ray"
    return (
        f"Along {rays} the output keeps every bit up to s = {nearest['radius']:.6g}, {_against(nearest)}."
        f"{_how_sure(rows)}{_came_back(rows)}"
    )


def _against(row: Mapping[str, Any]) -> str:
    if row["censored"]:
        return "which is as far as it was searched"
    if math.isnan(row["rho"]):
        return "and no coordinate of the input that could be listed moves"
    if row["rho"] > _FAR:  # the sign of a zero, as a rule, or a subnormal number
        return f"far beyond s = {row['lattice_radius']:.3g}, where the rounded input itself first changes"
    if row["rho"] == 1:
        return "exactly where the rounded input itself first changes"
    return f"{row['rho']:.3g} times the step at which the rounded input itself first changes"


def _how_sure(rows: Rows) -> str:
    sampled = sum(not row["exact"] for row in rows)
    if not sampled:
        return " Every distinct input below it was tried."
    return f" {sampled} of {len(rows)} rays move exact zeros of the embedding, which are sampled, not listed."


def _came_back(rows: Rows) -> str:
    if not any(row.get("beyond_cells") for row in rows):
        return ""
    returned = [row for row in rows if row["islands"]]
    tried = sum(row["beyond_cells"] for row in rows)
    if not returned:
        return f" None of {tried} inputs past the first changes has the baseline's bits again."
    fooled = sum(row["bisection_radius"] > row["radius"] for row in returned)
    return (
        f" {len(returned)} of {len(rows)} rays come back to the baseline's identical bits past their first change; on "
        f"{fooled} of them a bisection would overstate the radius."
    )
