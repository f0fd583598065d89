"""A tiny change of the input, block by block: where does it grow, and is that the function or its rounding?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.measurements.avalanche import avalanche, readings, sentence, smallest
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, products_of
from stabilitykit.measurements.pairs import Epsilons, Grid, Pair, distinct
from stabilitykit.measurements.site_changes import EXACT, Column, Sides, columns, in_true_float64, run
from stabilitykit.measurements.smooth import ratio
from stabilitykit.numerics.comparison import compare
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.precision import SELF_TEST
from stabilitykit.subjects.subject import Subject

DECADES = tuple(10.0**-k for k in range(9, 1, -1))
"""Steps from 1e-9 to 1e-2, a decade apart."""

STILL: Column = {
    "changed": 0,
    "percent_changed": 0.0,
    "mean_abs": 0.0,
    "max_abs": 0.0,
    "l2": 0.0,
    "relative_l2": 0.0,
    "cosine": 1.0,
    "angle_rad": 0.0,
    "max_ulp": 0,
    "gain_realised": math.nan,
    **dict.fromkeys(EXACT, math.nan),
}
"""The measures of a pair whose input did not move: equal bits in, equal bits out."""

Row = dict[str, Any]


def sites_of(subject: Subject) -> list[str]:
    """Return the sites of a profile in the order in which a change passes them."""
    return ["embed", *(f"block:{k}" for k in range(subject.depth)), "pre_norm", "post_norm"]


@dataclass(frozen=True, eq=False)
class LayerProfile(Measurement):
    """How far the states h_l behind the embedding, each block and the final norm move for small changes of the input.

    The inputs are x(s) = x0 + s d along `direction` and both `signs`, s = `epsilons` in `unit` ("rel": times |x0|,
    "ulp": times its median spacing, "abs"). Each is held against x0 (`reference="origin"`), against the first epsilon
    of its ray ("start"), or against the one before ("previous"); epsilons may also be pairs (e1, e2) to compare. Inputs
    of equal bits are run once, a pair of equal inputs not at all, and all sites are read from one forward. Both sides
    of a comparison come from the same slot of the same batch shape.

    Rows, one a pair and site: how many elements changed (bits, or |dh| > `tau`), the sizes of dh in float64, and
    `gain_realised` = |dh| / |dx| with the realised dx. `growth` is relative_l2 over that of the site before. The same
    rounded inputs in true float64 (`oracle`) give `gain_exact` and what is rounding; see `site_changes.columns`. Sites
    are named, never numbered: `pre_norm` enters the final norm, `post_norm` leaves it.

    `avalanche_block` is where rounding takes over: of a pair whose output has |dh| > `factor` |dh64|, the first block
    with that. At factor 2 the rounding part of the change is then at least as long as the true one. The reading is that
    of the smallest |dx| with an avalanche. Arrays: `relative_l2`, `relative_l2_exact`, `gain_realised`, `gain_exact`
    (pairs, sites); `epsilon`, `sign`, `avalanche_block` (pairs,); `sites`; `change` and `change_exact` (sites, H), dh
    of the smallest step that changes the output, where sites have H elements; `directions`.

    UsageError for impossible steps, InvalidError for a non-finite state. A site that gives no vector a row and token
    has no rows. Cost: B (ceil(U / B) + 1) rows for U distinct inputs, the same and 3 B in float64, and a noise floor.
    Source: the study's experiment 1.
    """

    direction: Directions = "v1"
    epsilons: Epsilons = DECADES
    unit: str = "rel"
    reference: str = "origin"
    signs: tuple[int, ...] = (1, -1)
    oracle: bool = True
    factor: float = 2.0
    tau: float = 0.0
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "avalanche_block", "block", "neither", "first block where rounding outgrows the true change, smallest step"
        ),
        Metric("avalanches", "share", "lower", "share of moved pairs whose output change is mostly rounding"),
        Metric(
            "gain_ratio", "", "lower", "largest |dy| / |dy64| of pairs that keep their direction (alignment >= 0.99)"
        ),
        Metric("amplification_end", "", "lower", "largest relative change of the output over that of the embedding"),
        Metric("amplification_exact", "", "lower", "the same in true float64"),
        Metric("peak_growth", "", "lower", "largest growth of the relative change from one site to the next"),
        Metric("peak_growth_site", "site", "neither", "place of the peak growth, counted from embed = 0"),
        Metric(
            "onset_site", "site", "neither", "first site that changed, at the smallest step that changes the output"
        ),
        Metric("saturation_site", "site", "neither", "first site with 99 % of its elements changed, at the same step"),
        Metric("forward_error", "", "lower", "largest |y - y64| / |y64| over the inputs"),
        Metric(
            "norm_gap", "", "neither", "relative distance of what enters the final norm from the last block's output"
        ),
        Metric("unchanged_outputs", "share", "higher", "share of distinct inputs whose output keeps every bit"),
        Metric("distinct_inputs", "inputs", "neither", "pairs of inputs that were run, each once"),
        Metric("pairs", "pairs", "neither", "pairs that were asked for"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "a block whose rounding is coarser than that of the others: see where the growth peaks",
        "a norm after a small residual, which stretches what rounding left there",
        "an input whose token sits where the model is steep: compare amplification_exact",
    )

    @property
    def grid(self) -> Grid:
        """What makes the pairs."""
        return Grid(self.direction, self.epsilons, self.unit, self.reference, self.signs, self.rule)

    def __post_init__(self) -> None:
        """Refuse parameters that name no pairs."""
        self.grid.check()
        if not self.factor > 1:
            raise UsageError(f"factor={self.factor!r}: an avalanche is more than the true change; give more than 1")
        if not self.tau >= 0:
            raise UsageError(f"tau={self.tau!r} is no threshold; give a number that is not negative")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: all inputs distinct, and the references too unless they are x0; the noise floor included.

        Products of named directions are counted as backwards.
        """
        products = products_of(self.direction, subject)
        return Cost(forwards=profile_rows(self.grid, subject, self.oracle), backwards=products)

    def find(self, subject: Subject) -> Finding:
        """Run the distinct pairs, natively and in true float64, and set them side by side."""
        pairs = self.grid.pairs(subject)
        kept, places = distinct(pairs)
        native, exact, why = both(subject, kept, sites_of(subject), self.oracle)
        scale = float(subject.x0.double().norm())
        tables = {site: columns(site, kept, native, exact, self.tau, scale) for site in native.sites}
        profiles = _profiles(pairs, places, tables)
        starts = [avalanche(profile, self.factor) for profile in profiles]
        values = readings(self.metrics, profiles, starts) | {
            "norm_gap": _norm_gap(native, subject.depth),
            "distinct_inputs": len(kept),
        }
        place = smallest(profiles)
        return Finding(
            values=values,
            sentence=sentence(profiles, starts, self.factor, why),
            rows=tuple(row for profile in profiles for row in profile),
            arrays={
                **_maps(pairs, profiles, starts),
                **_change(None if place is None else places[place], native, exact),
            },
            noise=subject.noise_floor().sentence,
            about={"oracle": why or "true float64"} if self.oracle else {},
        )


def both(
    subject: Subject, pairs: Sequence[Pair], sites: Sequence[str], oracle: bool
) -> tuple[Sides, Sides | None, str]:
    """Return the states as evaluated, those in true float64 if they are wanted and can be had, and why not."""
    native = run(subject, pairs, sites)
    exact, why = in_true_float64(subject, pairs, native.sites) if oracle and pairs else (None, "")
    return native, exact, why


def profile_rows(grid: Grid, subject: Subject, oracle: bool) -> int:
    """Return the most rows that a grid can take: its pairs, their references, and, for each of these, the oracle.

    The oracle's self-test, the baseline that a named direction needs, and the noise floor are in it.
    """
    B = subject.batch
    batches = math.ceil(grid.count() / B)
    sides = batches + (1 if grid.reference == "origin" else batches)
    return B * (sides + (sides + 1 if oracle else 0)) + SELF_TEST * oracle + 3 * B + 15


def _profiles(pairs: Sequence[Pair], places: Sequence[int | None], tables: dict[str, list[Column]]) -> list[list[Row]]:
    """Return the rows of each pair, site by site, with the growth from the site before."""
    sharing = Counter(places)
    profiles = []
    for pair, place in zip(pairs, places, strict=True):
        common = {**pair.row(), "input": -1 if place is None else place, "sharing": sharing[place]}
        profile: list[Row] = []
        for site, table in tables.items():
            measures = STILL if place is None else table[place]
            growth = ratio(measures["relative_l2"], profile[-1]["relative_l2"]) if profile else math.nan
            first = bool(measures["changed"]) and not any(row["changed"] for row in profile)
            profile.append({**common, "site": site, **measures, "growth": growth, "first_changed": first})
        profiles.append(profile)
    return profiles


def _norm_gap(native: Sides, depth: int) -> float:
    """Return the largest relative distance between the last block's output and what the final norm is given."""
    last = native.after.get(f"block:{depth - 1}")
    entering = native.after.get("pre_norm")
    if last is None or entering is None or not len(last) or last.shape != entering.shape:
        return math.nan
    return float(compare(last, entering).relative_l2.max())


def _maps(pairs: Sequence[Pair], profiles: list[list[Row]], starts: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Return (pairs, sites) maps and what their axes are."""
    names = ("relative_l2", "relative_l2_exact", "gain_realised", "gain_exact")
    maps = {name: np.array([[row[name] for row in profile] for profile in profiles]) for name in names}
    return {
        **maps,
        "epsilon": np.array([pair.epsilon for pair in pairs]),
        "sign": np.array([pair.sign for pair in pairs]),
        "avalanche_block": np.array(starts),
        "sites": np.array([row["site"] for row in profiles[0]]),
        "directions": torch.stack([pair.heading for pair in pairs]).numpy(),
    }


def _change(place: int | None, native: Sides, exact: Sides | None) -> dict[str, NDArray[Any]]:
    """Return dh of one pair at all sites of the embedding's width, natively and exactly; nothing if none changed."""
    if place is None:
        return {}
    width = next(iter(native.after.values())).shape[1]
    sites = [site for site in native.sites if native.after[site].shape[1] == width]
    found = {"change_sites": np.array(sites)}
    for name, sides in (("change", native), ("change_exact", exact)):
        if sides is not None:
            moved = [sides.after[site][place].double() - sides.before[site][place].double() for site in sites]
            found[name] = torch.stack(moved).numpy()
    return found
