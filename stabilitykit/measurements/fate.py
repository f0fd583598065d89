"""In which block is it decided whether a changed input leaves the output unchanged?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, count, products_of, resolve
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.bits import bits_equal, same_bits
from stabilitykit.numerics.lattice import Cell, Lattice
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects import routing
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject

NEVER = "never"
"""The fate of a cell whose output differs: its states never meet the baseline's again."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Fate(Measurement):
    """Where the states of a changed input become bit-equal to the baseline's again, for the first `cells` of each ray.

    A cell is one distinct rounded input on the ray x(s) = x0 + s d, s > 0, in order. Its forward is read at the
    embedding and behind every block, at every position that was recomputed, and each state is compared in all its bits
    with that of x0 in the same slot of the same batch shape. Its fate is the first site from which on everything to the
    output agrees, `never` if the output differs. So `embed` is a change that the model loses before block 0, `block:k`
    one that dies in block k, and `post_norm` one that the final norm rounds away.

    A cell is *decided in block 0* if the state behind block 0 already tells its fate: it equals the baseline's there
    exactly if the output does. `first_blocks(X, 1)`, by which other measurements skip forwards, is asked as well, and
    must answer the same (`screen_disagreements`). Mixtures: whether the last token's experts changed in any block, and
    in which first. Coordinates too dense to list, such as exact zeros, stay where they are (`dense="hold"`; `held`
    counts them), or are moved and sampled ("sample", and `exact` is not 1). `s_max` ends a ray.

    Rows, one a cell. Arrays: `histogram` (sites + 1,), how many cells found their fate at each of `sites`, never last;
    `fate` (cells,), the place among `sites`; `directions` (N, H). UsageError for a count that measures nothing. Cost:
    B (ceil(K / B) + 1) rows for K cells, and as many through the first block. Source: new.
    """

    directions: Directions = "v1"
    cells: int = 16
    s_max: float = math.inf
    dense: Literal["hold", "sample"] = "hold"
    rule: str = "p64r"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("share_unchanged", "share", "higher", "share of changed inputs whose output keeps every bit"),
        Metric(
            "share_decided_in_block_0", "share", "neither", "share of cells whose fate the state after block 0 tells"
        ),
        Metric("latest_fate_block", "block", "neither", "last block in which a change died; -1 before block 0"),
        Metric("share_routing_changed", "share", "lower", "share of cells that changed the experts of the last token"),
        Metric("screen_disagreements", "cells", "lower", "cells where stopping after block 0 tells other bits"),
        Metric("cells", "cells", "neither", "distinct inputs that were run"),
        Metric("exact", "share", "higher", "share of rays of which every distinct input was listed"),
        Metric("held", "coordinates", "neither", "most dense coordinates that a ray leaves where they are"),
    )
    requires: ClassVar[dict[str, str]] = {"screen_disagreements": "<= 0"}
    gate: ClassVar[bool] = True
    causes: ClassVar[tuple[str, ...]] = (
        "a forward that is stopped early runs other kernels than a whole one",
        "a block that rounds more coarsely than the residual it adds to",
        "a model that reads its input again after block 0",
    )

    def __post_init__(self) -> None:
        """Refuse counts and rules that measure nothing."""
        if not isinstance(self.cells, int) or self.cells < 1:
            raise UsageError(f"cells={self.cells!r} runs nothing; give at least 1")
        if not self.s_max > 0:
            raise UsageError(f"s_max={self.s_max!r} ends the rays before they begin; give a positive number")
        if self.dense not in ("hold", "sample"):
            raise UsageError(f"dense={self.dense!r} is neither 'hold' nor 'sample'")
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: every ray has all its cells; the products of named directions are counted as backwards."""
        batches = math.ceil(count(self.directions) * self.cells / subject.batch)
        rows = (batches + 1) * subject.batch
        return Cost(forwards=rows, backwards=products_of(self.directions, subject), screened=rows)

    def find(self, subject: Subject) -> Finding:
        """Run the cells in full batches and follow each until it meets the baseline, if it does."""
        directions, labels = resolve(self.directions, subject)
        lattices = [Lattice(subject.x0.cpu(), d.cpu(), self.rule) for d in directions]
        held = [0] * len(lattices)
        if self.dense == "hold":
            lattices, held = map(list, zip(*map(listable, lattices), strict=True))
        asked = [
            (label, number, cell, x)
            for label, lattice in zip(labels, lattices, strict=True)
            for number, (cell, x) in enumerate(itertools.islice(self._inputs(lattice), self.cells), start=1)
        ]
        rows, sites = _followed(subject, asked)
        return Finding(
            values=_readings(self.metrics, rows, sites)
            | {"exact": sum(not lattice.dense for lattice in lattices) / len(lattices), "held": max(held)},
            sentence=_sentence(rows),
            verdict="differs" if any(row["screen_disagrees"] for row in rows) else "pass",
            rows=tuple(rows),
            arrays=_arrays(rows, sites, torch.stack([lattice.direction for lattice in lattices])),
        )

    def _inputs(self, lattice: Lattice) -> Iterator[tuple[Cell, Tensor]]:
        """Yield the distinct inputs of a ray in order; a sample may have moved nothing since the one before."""
        before = lattice.x0
        for cell in lattice.samples(self.s_max):
            x = lattice.at(cell.first_changed)
            if not bits_equal(x, before):
                yield cell, x
            before = x


Asked = tuple[str, int, Cell, Tensor]


def listable(lattice: Lattice) -> tuple[Lattice, int]:
    """Return the ray without its dense coordinates and how many those were; as it is where nothing else moves."""
    held, ray = 0, lattice
    while ray.dense:  # without them the typical coordinate is another one, which may make another one dense
        rest = ray.direction.clone()
        rest[ray.dense] = 0
        if not bool(rest.any()):
            return lattice, 0
        held += len(ray.dense)
        ray = Lattice(ray.x0, rest, ray.rule)
    return ray, held


def _followed(subject: Subject, asked: Sequence[Asked]) -> tuple[list[Row], list[str]]:
    """Return one row a cell and the sites, ending with that of the output."""
    follower = _Follower(subject)
    rows: list[Row] = []
    with bar(len(asked), "fate", "cell") as progress:
        for start in range(0, len(asked), subject.batch):
            chunk = asked[start : start + subject.batch]
            found = follower.follow([x for _, _, _, x in chunk])
            rows += [
                {
                    "direction": label,
                    "cell": number,
                    "s_first_changed": cell.first_changed,
                    "coordinate": cell.coordinate,
                    "input_step": float((x.double() - subject.x0.cpu().double()).norm()),
                    **one,
                }
                for (label, number, cell, x), one in zip(chunk, found, strict=True)
            ]
            progress.update(len(chunk))
    return rows, follower.sites


class _Follower:
    """The baseline's states in every slot, and what becomes of a batch of other inputs beside them."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.routers = routing.routers(subject.model) if isinstance(subject, CausalLMSubject) else []
        output = "logits" if getattr(subject, "site", "") == "logits" else "post_norm"
        wanted = ["embed", *(f"block:{k}" for k in range(subject.depth)), output]
        self.states, self.experts = self._run(subject.copies(subject.batch), wanted)
        self.sites = [site for site in wanted if site in self.states]
        self.screened = subject.first_blocks(subject.copies(subject.batch), 1)

    def follow(self, inputs: Sequence[Tensor]) -> list[Row]:
        """Return what became of each input, in the slot of its place."""
        X = self.subject.copies(self.subject.batch)
        X[: len(inputs)] = torch.stack(list(inputs)).to(X)
        states, experts = self._run(X, self.sites)
        agrees = torch.stack([_rows_agree(states[site], self.states[site]) for site in self.sites], dim=1)
        screened = _rows_agree(self.subject.first_blocks(X, 1), self.screened)
        return [
            {**self._fate(agrees[slot].tolist(), bool(screened[slot])), **self._routing(experts, slot), "slot": slot}
            for slot in range(len(inputs))
        ]

    def _fate(self, agrees: list[bool], screened: bool) -> Row:
        """Return the fate told by whether each site agrees with the baseline."""
        trailing = len(list(itertools.takewhile(bool, reversed(agrees))))
        fate = self.sites[len(agrees) - trailing] if trailing else NEVER
        first = agrees[self.sites.index("block:0")] if "block:0" in self.sites else None
        return {
            "fate": fate,
            "fate_block": self._block(fate),
            "unchanged": bool(trailing),
            "equal_after_block_0": first,
            "decided_in_block_0": None if first is None else first == bool(trailing),
            "screen_disagrees": None if first is None else first != screened,
        }

    def _block(self, fate: str) -> float:
        """Number of the block where a change died, -1 before block 0, the depth for the final norm, nan for never."""
        if fate == NEVER:
            return math.nan
        kind, _, number = fate.partition(":")
        return float(number) if number else {"embed": -1.0}.get(kind, float(self.subject.depth))

    def _routing(self, experts: dict[str, Tensor], slot: int) -> Row:
        if not self.routers:
            return {}
        other = [name for name in self.routers if not torch.equal(experts[name][slot], self.experts[name][slot])]
        return {"routing_changed": bool(other), "router": other[0] if other else ""}

    def _run(self, X: Tensor, sites: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        watched: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
        if self.routers and isinstance(self.subject, CausalLMSubject):
            watched = routing.watched(self.subject.model, self.routers, len(X))
        with watched as chosen:
            states = self.subject.states(X, sites, whole=True)
        # What the output is made of must be a number; a NaN that equals a NaN would pass for unchanged.
        self.subject.finite(states[sites[-1]].flatten(1))
        return states, dict(chosen)


def _rows_agree(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) whether every bit of each row agrees."""
    return same_bits(a, b).flatten(1).all(dim=1)


def _readings(metrics: Sequence[Metric], rows: Sequence[Row], sites: Sequence[str]) -> dict[str, float | Reading]:
    schema = {metric.name: metric for metric in metrics}
    died = [row for row in rows if row["unchanged"]]
    latest = max(died, key=lambda row: row["fate_block"], default=None)
    place = {} if latest is None else {"site": latest["fate"], "direction": latest["direction"]}
    told = [row["decided_in_block_0"] for row in rows if row["decided_in_block_0"] is not None]
    values: dict[str, float | Reading] = {
        "share_unchanged": len(died) / len(rows) if rows else math.nan,
        "share_decided_in_block_0": sum(told) / len(told) if told else math.nan,
        "latest_fate_block": Reading(
            schema["latest_fate_block"], math.nan if latest is None else latest["fate_block"], place=place
        ),
        "screen_disagreements": sum(bool(row["screen_disagrees"]) for row in rows),
        "cells": len(rows),
    }
    routed = [row["routing_changed"] for row in rows if "routing_changed" in row]
    return values | ({"share_routing_changed": sum(routed) / len(routed)} if routed else {})


def _arrays(rows: Sequence[Row], sites: Sequence[str], directions: Tensor) -> dict[str, NDArray[Any]]:
    names = [*sites, NEVER]
    fate = np.array([names.index(row["fate"]) for row in rows], dtype=np.int64)
    return {
        "fate": fate,
        "histogram": np.bincount(fate, minlength=len(names)),
        "sites": np.array(names),
        "directions": directions.double().cpu().numpy(),
    }


def _sentence(rows: Sequence[Row]) -> str:
    died = [row for row in rows if row["unchanged"]]
    if not rows:
        return "No step along the rays moves the rounded input, so there is no cell to follow."
    first = f"{len(died)} of {len(rows)} changed inputs leave the output unchanged in every bit"
    undecided = [row for row in rows if row["decided_in_block_0"] is False]
    if any(row["decided_in_block_0"] is None for row in rows):
        return f"{first}."
    if not undecided:
        return f"{first}; the state after block 0 tells which, every time."
    return f"{first}; of {len(undecided)} the state after block 0 does not tell it yet."
