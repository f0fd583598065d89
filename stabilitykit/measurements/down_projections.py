"""Which down-projections lose most to 8 bits, where the largest element of a tensor sets the grid of all?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from stabilitykit.measurements.high_norms import HighNorms
from stabilitykit.numerics.integer_grid import on_grid
from stabilitykit.subjects.residual_block import ResidualBlock, ResidualBlocks
from stabilitykit.subjects.sites import Tap

Row = dict[str, Any]


@contextmanager
def listening(blocks: ResidualBlocks) -> Iterator[list[list[Tensor]]]:
    """Keep, for each block, what its down-projection is given by each prompt that runs meanwhile, (T, F) float64."""
    taken: list[list[Tensor]] = [[] for _ in range(len(blocks))]
    with ExitStack() as held:
        for number, kept in enumerate(taken):
            held.enter_context(Tap(blocks.down_projection(number), before=True).reading(_keeping(kept)))
        yield taken


def _keeping(kept: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda state: kept.append(state[0].double().cpu())


def projection_row(block: ResidualBlock, X: Tensor, found: HighNorms, roles: Mapping[int, str]) -> Row:
    """Return one block's row: what 8-bit weights and activations, one scale a tensor, do to ordinary tokens.

    `error` is the median of |Q(X) Q(W)' - X W'| / |X W'| over tokens that are never long, `error_of_long` over those
    that are; `zeroed` the share of the ordinary tokens' activations that become 0. `keep` marks the down-projections
    to leave in 16 bits: those of blocks that explode or decay.
    """
    W, long = block.down, found.tracks
    exact = X @ W.T
    rounded = on_grid(X)
    error = torch.linalg.vector_norm(rounded @ on_grid(W).T - exact, dim=1)
    relative = error / torch.linalg.vector_norm(exact, dim=1)
    ordinary = X[~long]
    return {
        "part": "down projection",
        "block": block.number,
        "keep": block.number in roles,
        "role": roles.get(block.number, ""),
        "error": float(relative[~long].median()),
        "error_of_long": float(relative[long].median()),
        "zeroed": float((rounded[~long] == 0).double().mean()),
        "largest": float(X.abs().max()),
        "typical": float(ordinary.abs().median()),
    }
