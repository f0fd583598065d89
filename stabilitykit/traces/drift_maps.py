"""The drift as arrays for figures: block against submodule, and prompt against step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.traces.aligned import Aligned

Row = Mapping[str, Any]
MAPPED = ("relative_l2", "changed_share")
DRAWN = ("l2", "relative_l2", "angle", "max_ulp")


def maps(rows: Sequence[Row], pairs: Sequence[Aligned]) -> dict[str, NDArray[Any]]:
    """Return the arrays.

    `map_relative_l2` and `map_changed_share` (blocks, submodules) are of the first prompt whose runs part, else of the
    first; `map_blocks` and `map_submodules` name their rows and columns, in the order in which they run, and
    `map_prompt` the prompt. `drift_NAME` (prompts, steps) are of the last state. nan where there is nothing.
    """
    chosen = next((pair for pair in pairs if pair.divergence is not None), pairs[0])
    inside = [
        row for row in rows if row["part"] == "stage" and row["number"] == chosen.number and row["block"] is not None
    ]
    blocks = sorted({row["block"] for row in inside})
    submodules = list(dict.fromkeys(row["submodule"] for row in inside))
    found: dict[str, NDArray[Any]] = {
        "map_blocks": np.array(blocks, dtype=np.int64),
        "map_submodules": np.array(submodules),
        "map_prompt": np.array([chosen.number], dtype=np.int64),
    }
    for name in MAPPED:
        grid = np.full((len(blocks), len(submodules)), np.nan)
        for row in inside:
            grid[blocks.index(row["block"]), submodules.index(row["submodule"])] = row[name]
        found[f"map_{name}"] = grid
    tokens = [row for row in rows if row["part"] == "token"]
    for name in DRAWN:
        curves = np.full((len(pairs), max(pair.compared for pair in pairs)), np.nan)
        for row in tokens:
            curves[row["number"], row["position"]] = np.nan if row[name] is None else row[name]
        found[f"drift_{name}"] = curves
    return found
