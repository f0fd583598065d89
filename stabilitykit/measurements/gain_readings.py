"""The numbers that a grid of steps comes down to: the worst at one length, the ends of the linear range, and counts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stabilitykit.measurements.gain_cells import REGIMES, window
from stabilitykit.numerics.distribution import distribution
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Result, Row

Rows = Sequence[Mapping[str, Any]]

AT = (
    Metric("gain_nominal", "output/input", "lower", "output change over the length asked for, at the chosen length"),
    Metric("gain_realised", "output/input", "lower", "output change over the step that rounding left, there"),
    Metric("gain_true", "output/input", "lower", "the same step in true float64, there"),
    Metric("deviation", "", "lower", "distance from J delta in units of |J delta|, there"),
    Metric("alignment", "", "higher", "cosine of the realised step and its direction, there"),
    Metric("coords_moved", "coordinates", "higher", "input coordinates that the step moves, there"),
)
_SMOOTHED = Metric("gain_smoothed", "output/input", "lower", "gain averaged over noise, there, at the most draws")
METRICS = (
    *AT,
    _SMOOTHED,
    Metric("sigma", "output/input", "lower", "largest |J d| / |d| over the directions, in exact arithmetic"),
    Metric("eps_linear_min", "input", "lower", "step from which on the gain is the function's, on the worst ray"),
    Metric("eps_linear_max", "input", "higher", "step up to which it is, on the worst ray"),
    Metric("rounding_noise", "output", "lower", "median output change of one-ULP moves beyond the linear one"),
    Metric("rounding_noise_max", "output", "lower", "largest of them"),
    *(Metric(name, "cells", "neither", f"steps of the regime {name}") for name in REGIMES),
    Metric("token_changes", "cells", "lower", "steps that change the most likely next token"),
    Metric("eps_token_change", "input", "higher", "shortest step tried that does; infinite if none"),
    Metric("routing_changes", "cells", "lower", "steps that make a mixture choose other experts"),
)
_SCHEMA = {metric.name: metric for metric in METRICS}


def windows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the ends of the linear range of their ray."""
    kept = list(rows)
    by_ray: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in kept:
        by_ray[row["direction"], row["sign"]].append(row)
    for ray in by_ray.values():
        low, high = window(ray)
        for row in ray:
            row.update(eps_linear_min=low, eps_linear_max=high)
    return kept


def readings(rows: Rows, noise: Mapping[str, float], at: float) -> dict[str, float | Reading]:
    """Return the readings; those of one length at the epsilon nearest to `at` by ratio, the worst over the rays."""
    cells = [row for row in rows if row["part"] == "cell"]
    there = nearest(cells, at)
    values: dict[str, float | Reading] = {metric.name: _worst(metric.name, there) for metric in AT}
    if smoothed := [row for row in nearest(rows, at) if row["part"] == "smoothed"]:
        most = max(row["samples"] for row in smoothed)
        values["gain_smoothed"] = _worst("gain_smoothed", [row for row in smoothed if row["samples"] == most])
    values |= {name: _worst(name, cells) for name in ("sigma", "eps_linear_min", "eps_linear_max")}
    values |= {**noise} | {name: sum(row["regime"] == name for row in cells) for name in REGIMES}
    if "token_changed" in cells[0]:
        flips = [row for row in cells if row["token_changed"]]
        values["token_changes"] = len(flips)
        values["eps_token_change"] = _worst("eps_token_change", [{**r, "eps_token_change": _step(r)} for r in flips])
    if "routing_changed" in cells[0]:
        values["routing_changes"] = sum(row["routing_changed"] for row in cells)
    return values


def nearest(rows: Rows, at: float) -> Rows:
    """Return the rows of the epsilon nearest to `at` by ratio; of two equally near the larger."""
    lengths = sorted({row["epsilon"] for row in rows}, reverse=True)
    chosen = min(lengths, key=lambda epsilon: round(abs(math.log(epsilon / at)), 9))
    return [row for row in rows if row["epsilon"] == chosen]


def _step(row: Mapping[str, Any]) -> float:
    return float(row["realised_norm"])


def _worst(name: str, rows: Rows) -> Reading:
    """Return the worst value of a column with where it was; infinite where there are no rows, which none can be."""
    metric = _SCHEMA[name]
    found = [
        Reading(
            metric,
            row[name],
            row.get("low") if name == "gain_smoothed" else None,
            row.get("high") if name == "gain_smoothed" else None,
            {"direction": row["direction"], "sign": row["sign"], "epsilon": f"{row['epsilon']:g}"},
        )
        for row in rows
    ]
    return max(found, key=lambda reading: reading.badness, default=Reading(metric, math.inf))


def sentence(rows: Rows, at: float, refusal: str) -> str:
    """Say the gain at the chosen length, the linear range, and what the other steps are."""
    cells = [row for row in rows if row["part"] == "cell"]
    there = max(nearest(cells, at), key=lambda row: _worst("gain_realised", [row]).badness)
    ray = f"{there['sign']}{there['direction']}" if there["sign"] == "-" else there["direction"]
    step = f"a step of {there['eps_abs']:.3g} ({there['eps_rel']:.3g} of the input) along {ray}"
    if math.isnan(there["gain_realised"]):
        said = f"The dtype cannot represent {step}: the rounded input does not move, so there is no gain."
    else:
        said = (
            f"For {step} the output moves {there['gain_realised']:.6g} times as far as the input; "
            f"exact arithmetic says {there['directional_sigma']:.6g} for the same step."
        )
    counted = ", ".join(f"{n} {name}" for name in REGIMES if (n := sum(row["regime"] == name for row in cells)))
    oracle = f" No true float64: {refusal}." if refusal else ""
    return f"{said} Of {len(cells)} steps tried: {counted}.{_averaged(rows, at)}{oracle}"


def _averaged(rows: Rows, at: float) -> str:
    smoothed = [row for row in nearest(rows, at) if row["part"] == "smoothed"]
    if not smoothed:
        return ""
    most = [row for row in smoothed if row["samples"] == max(row["samples"] for row in smoothed)]
    worst = max(most, key=lambda row: _worst("gain_smoothed", [row]).badness)
    return (
        f" Averaged over {worst['samples']} draws of noise, which reach {worst['n_distinct']} distinct inputs, the "
        f"gain there is {worst['gain_smoothed']:.4g} ({worst['low']:.4g} to {worst['high']:.4g})."
    )


def over_prompts(results: Sequence[Result], seed: int) -> tuple[Row, ...]:
    """Return the distribution over subjects of the gain at each step, and of sigma for each direction; never of both.

    Steps of several lengths are never pooled: they belong to different regimes.
    """
    gains: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for result in results:
        cells = [row for row in result.rows if row["part"] == "cell"]
        for row in cells:
            gains["gain_realised", row["direction"], row["sign"], row["epsilon"]].append(row["gain_realised"])
        for direction, sigma in {row["direction"]: row["sigma"] for row in cells}.items():
            gains["sigma", direction, "", None].append(sigma)
    return tuple(
        {"subject": f"all {len(results)}", "part": "prompts", "quantity": quantity, "direction": direction}
        | {"sign": sign, "epsilon": epsilon, **distribution(values, seed=seed)}
        for (quantity, direction, sign, epsilon), values in gains.items()
    )
