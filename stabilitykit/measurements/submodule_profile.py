"""Which module inside a block reacts to a tiny change of the input, and how much of that is rounding?"""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, products_of
from stabilitykit.measurements.layer_profile import STILL, both, profile_rows
from stabilitykit.measurements.pairs import Epsilons, Grid, Pair, distinct
from stabilitykit.measurements.site_changes import Column, columns
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject

Row = dict[str, Any]


class Submodule(NamedTuple):
    """A module inside a block; `label` is its name relative to the block, "" for the block itself."""

    name: str
    block: int
    label: str
    kind: str

    @property
    def site(self) -> str:
        """Where its output is read."""
        return f"module:{self.name}"


@dataclass(frozen=True, eq=False)
class SubmoduleProfile(Measurement):
    """The measures of LayerProfile at the output of every module inside the blocks, all from one forward.

    `block` is one block's number or "all"; `modules` a pattern for names relative to the block ("*norm*"; the block
    itself is ""). Modules are taken by their exact qualified names, so block 1 is never block 10. Direction, epsilons,
    unit, reference, signs and rule mean what they mean in LayerProfile.

    Rows, one a pair and module: block, label, module, kind (its class), the columns of `site_changes.columns`. `excess`
    = |h - h64| / |dh64| is the module's rounding next to its true change; over 1 rounding is larger. Modules whose
    output is no vector a row and token are rows with `measured` false and no numbers, and count as `unmeasured`.

    `top_share`: with g_b = relative_l2 behind block b over that before it, the largest log g_b over the sum of all
    positive ones, at the smallest step that changes the last block: how much of the growth is one block's. Arrays:
    `excess`, `gain_realised`, `relative_l2` (pairs, modules), `modules`; `epsilon` (pairs,).

    UsageError for a block that does not exist or a pattern that matches nothing, UnsupportedError for a subject without
    modules. Cost: as LayerProfile; memory for all modules' states of a batch. Source: the study's experiment 5.
    """

    block: int | Literal["all"] = "all"
    direction: Directions = "v1"
    epsilons: Epsilons = (1e-7, 1e-5)
    unit: str = "rel"
    reference: str = "origin"
    signs: tuple[int, ...] = (1,)
    modules: str = "*"
    oracle: bool = True
    tau: float = 0.0
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("excess", "", "lower", "largest rounding of a module next to the true change of its output"),
        Metric("rounding_share", "", "lower", "largest |dh - dh64| / |dh64| of a module"),
        Metric("gain_realised", "output/input", "lower", "largest change of a module's output over the input's change"),
        Metric("top_share", "share", "lower", "largest share of one block in the growth through all blocks"),
        Metric("rounding_modules", "share", "lower", "share of modules with an excess over 1, at the smallest step"),
        Metric("modules", "modules", "neither", "modules that were measured"),
        Metric("unmeasured", "modules", "neither", "modules without a vector a row and token"),
        Metric("distinct_inputs", "inputs", "neither", "pairs of inputs that were run, each once"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "a module that rounds more coarsely than its neighbours, such as a softmax or norm in a narrower dtype",
        "cancellation: a module whose large terms leave a small output",
        "a step below what the dtype resolves, where every module's change is rounding",
    )

    @property
    def grid(self) -> Grid:
        """What makes the pairs."""
        return Grid(self.direction, self.epsilons, self.unit, self.reference, self.signs, self.rule)

    def __post_init__(self) -> None:
        """Refuse parameters that name no pairs or no block."""
        self.grid.check()
        if self.block != "all" and (isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 0):
            raise UsageError(f"block={self.block!r} is neither a block's number, from 0, nor 'all'")
        if not self.tau >= 0:
            raise UsageError(f"tau={self.tau!r} is no threshold; give a number that is not negative")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: all inputs distinct; the noise floor included; products are counted as backwards."""
        products = products_of(self.direction, subject)
        return Cost(forwards=profile_rows(self.grid, subject, self.oracle), backwards=products)

    def find(self, subject: Subject) -> Finding:
        """Read all modules in the forwards of the distinct pairs, natively and in true float64."""
        wanted = _chosen(with_modules(subject), self.block, self.modules)
        pairs = self.grid.pairs(subject)
        kept, places = distinct(pairs)
        spine = ["embed", *(f"block:{k}" for k in range(subject.depth))]
        native, exact, why = both(subject, kept, [*spine, *(one.site for one in wanted)], self.oracle)
        scale = float(subject.x0.double().norm())
        tables = {site: columns(site, kept, native, exact, self.tau, scale) for site in native.sites}
        measured = [one for one in wanted if one.site in tables]
        missing = [one for one in wanted if one.site not in tables]
        rows = [
            _row(pair, place, one, tables[one.site])
            for pair, place in zip(pairs, places, strict=True)
            for one in measured
        ]
        shares = _shares([tables[site] for site in spine if site in tables], kept)
        return Finding(
            values=_readings(self.metrics, rows, shares)
            | {"modules": len(measured), "unmeasured": len(missing), "distinct_inputs": len(kept)},
            sentence=_sentence(rows, len(measured), why),
            rows=(*rows, *({**one._asdict(), "module": one.name, "measured": False} for one in missing)),
            arrays=_arrays(pairs, measured, rows),
            noise=subject.noise_floor().sentence,
            about={"oracle": why or "true float64"} if self.oracle else {},
        )


def with_modules(subject: Subject) -> CausalLMSubject:
    """Return the subject as one whose modules have names; UnsupportedError for another."""
    if not isinstance(subject, CausalLMSubject):
        raise UnsupportedError(f"{subject.name} has no modules with names; ask this of a CausalLMSubject")
    return subject


def block_number(block: int | Literal["all"], depth: int) -> list[int]:
    """Return the numbers of the chosen blocks; UsageError for one that does not exist."""
    if block == "all":
        return list(range(depth))
    if block >= depth:
        raise UsageError(f"block={block}: this model has blocks 0 to {depth - 1}")
    return [block]


def _chosen(subject: CausalLMSubject, block: int | Literal["all"], pattern: str) -> list[Submodule]:
    """Return the modules of the chosen blocks whose relative names match, in the model's own order."""
    found = []
    for number in block_number(block, subject.depth):
        stem = subject.anatomy.block_names[number]
        for label, module in subject.model.get_submodule(stem).named_modules():
            if fnmatch.fnmatchcase(label, pattern):
                name = f"{stem}.{label}" if label else stem
                found.append(Submodule(name, number, label, type(module).__name__))
    if not found:
        raise UsageError(f"modules={pattern!r} matches no module of block {block}; names are relative to the block")
    return found


def _row(pair: Pair, place: int | None, one: Submodule, table: Sequence[Column]) -> Row:
    named = {"block": one.block, "label": one.label, "module": one.name, "kind": one.kind, "measured": True}
    return {**pair.row(), **named, **(STILL if place is None else table[place])}


def _shares(spine: Sequence[Sequence[Column]], kept: Sequence[Pair]) -> dict[int, float]:
    """Return each block's share of the growth at the smallest step that changes the last block; {} if none does."""
    changed = [u for u in range(len(kept)) if spine[-1][u]["changed"]] if len(spine) > 1 else []
    if not changed:
        return {}
    u = min(changed, key=lambda u: float(kept[u].delta.norm()))
    sizes = [float(table[u]["relative_l2"]) for table in spine]
    growth = [math.log(b / a) if a > 0 and b > 0 else 0.0 for a, b in itertools.pairwise(sizes)]
    whole = sum(max(one, 0.0) for one in growth)
    return {block: max(one, 0.0) / whole for block, one in enumerate(growth)} if whole else {}


def _readings(
    metrics: Sequence[Metric], rows: Sequence[Row], shares: Mapping[int, float]
) -> dict[str, float | Reading]:
    schema = {metric.name: metric for metric in metrics}
    found: dict[str, float | Reading] = {name: _largest(schema[name], rows) for name in ("excess", "rounding_share")}
    found["gain_realised"] = _largest(schema["gain_realised"], rows)
    top = max(shares, key=lambda block: shares[block], default=None)
    found["top_share"] = (
        Reading(schema["top_share"], math.nan)
        if top is None
        else Reading(schema["top_share"], shares[top], place={"block": str(top)})
    )
    least = min((row["realised_norm"] for row in rows if not math.isnan(row["excess"])), default=None)
    there = [row["excess"] > 1 for row in rows if row["realised_norm"] == least]
    found["rounding_modules"] = sum(there) / len(there) if there else math.nan
    return found


def _largest(metric: Metric, rows: Sequence[Row]) -> Reading:
    """Return the largest value of the metric's column and the module where it is; nan without a number."""
    known = [row for row in rows if not math.isnan(row[metric.name])]
    top = max(known, key=lambda row: row[metric.name], default=None)
    if top is None:
        return Reading(metric, math.nan)
    place = {"module": top["module"], "label": top["label"], "block": str(top["block"])}
    step = {"direction": top["direction"], "sign": f"{top['sign']:+d}", "epsilon": f"{top['epsilon']:g}"}
    return Reading(metric, top[metric.name], place=place | step)


def _arrays(pairs: Sequence[Pair], measured: Sequence[Submodule], rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    shape = (len(pairs), len(measured))
    names = ("excess", "gain_realised", "relative_l2")
    maps: dict[str, NDArray[Any]] = {name: np.array([row[name] for row in rows]).reshape(shape) for name in names}
    return {
        **maps,
        "modules": np.array([one.name for one in measured]),
        "epsilon": np.array([pair.epsilon for pair in pairs]),
    }


def _sentence(rows: Sequence[Row], measured: int, why: str) -> str:
    if not any(row["realised_norm"] for row in rows):
        return f"No step moves the rounded input, so none of the {measured} modules changes."
    least = min(row["realised_norm"] for row in rows if row["realised_norm"])
    there = [row for row in rows if row["realised_norm"] == least]
    changed = sum(bool(row["changed"]) for row in there)
    first = f"The smallest step, {least:.3g} long, changes {changed} of {measured} modules"
    known = [row for row in there if not math.isnan(row["excess"])]
    if not known:
        return f"{first}; there is no true float64 to compare with{': ' + why if why else '.'}"
    top = max(known, key=lambda row: row["excess"])
    return (
        f"{first}; rounding is largest next to the true change in {top['module']}, {top['excess']:.3g} times as long."
    )
