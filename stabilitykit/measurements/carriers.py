"""What may carry rounding errors, block by block: long tokens, attention sinks, heads of low rank; and does it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.high_norms import HighNorms, high_norms
from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.correlation import partial_spearman
from stabilitykit.numerics.permutation import association
from stabilitykit.numerics.stacked_spectra import ratios, singular_values
from stabilitykit.subjects.exact_blocks import ExactBlocks, Passed
from stabilitykit.subjects.head_layout import find_heads
from stabilitykit.subjects.stored import Checkpoint

Row = dict[str, Any]

CARRIED = ("ulp_over_median", "growth", "sink", "head_rank")
EFFECTS = ("variance_share", "flip_share", "own_error")


@dataclass(frozen=True, eq=False)
class LongTokens:
    """The long tokens of several texts, and the role of the blocks that make them so."""

    found: HighNorms
    roles: Mapping[int, str]

    def of(self, text: int) -> Tensor:
        """Return which tokens (T,) of a text are long."""
        return self.found.tracks[torch.from_numpy(self.found.prompt == text)]


def long_tokens(texts: Sequence[Passed]) -> LongTokens | None:
    """Return the long tokens, None where there are none."""
    states = torch.cat([one.states.transpose(0, 1) for one in texts])
    try:
        found = high_norms(states, [one.ids[0].tolist() for one in texts])
        return LongTokens(found, found.roles())
    except UnsupportedError:
        return None


def carrier_rows(tool: ExactBlocks, texts: Sequence[Passed], long: LongTokens | None) -> list[Row]:
    """Return for each block its ULP of the largest coordinate, its role, the growth of long tokens, and its sink.

    Of all texts together; `growth` and `role` are nan and empty without long tokens, `sink` nan without attention.
    One float64 forward a text.
    """
    behind = torch.cat([one.states[1:] for one in texts], dim=1)
    largest = behind.abs().amax(dim=(1, 2)).to(tool.loaded.model.dtype)
    ulps = spacing(largest).double() / torch.linalg.vector_norm(behind, dim=2).median(dim=1).values
    sinks = [one for one in map(tool.sinks, texts) if one is not None]
    weights = torch.stack(sinks).nanmean(dim=0).tolist() if sinks else [math.nan] * len(ulps)
    return [
        {
            "role": long.roles.get(number, "") if long else "",
            "ulp_over_median": float(ulps[number]),
            "growth": float(long.found.growth[number]) if long else math.nan,
            "sink": weights[number],
        }
        for number in range(len(ulps))
    ]


def ranks_of_heads(checkpoint: Checkpoint, blocks: int) -> list[float]:
    """Return the smallest entropy rank of any head's Q or K in each block, nan where heads cannot be told apart."""
    ranks = [math.nan] * blocks
    try:
        weights = find_heads(checkpoint)
    except UnsupportedError:
        return ranks
    for heads in weights:
        for matrix, stack in heads.split(checkpoint[heads.name]).items() if heads.matrices != "o" else ():
            if matrix in "qk":
                least = float(ratios(singular_values(stack, f"weight {heads.name!a}"))["entropy_rank"].min())
                ranks[heads.block] = np.fmin(ranks[heads.block], least).item()
    return ranks


def link_rows(layers: Sequence[Row], shuffles: int, seed: int) -> list[Row]:
    """Return the rank correlation over blocks of each carrier with each effect, its permutation p, and beside depth.

    Blocks without the carrier are left out; rows for fewer than four, or for values that are all equal, as well.
    """
    rows: list[Row] = []
    for carrier in CARRIED:
        kept = [row for row in layers if not math.isnan(row[carrier])]
        for effect in EFFECTS:
            x, y, depth = ([float(row[name]) for row in kept] for name in (carrier, effect, "block"))
            correlation, p = association(x, y, shuffles, seed)
            if len(kept) >= 4 and not math.isnan(correlation):
                rows.append(
                    {
                        "part": "link",
                        "carrier": carrier,
                        "effect": effect,
                        "blocks": len(kept),
                        "spearman": correlation,
                        "p": p,
                        "beside_depth": partial_spearman(x, y, depth),
                    }
                )
    return rows
