"""Are the coordinates along which tokens explode those whose columns of the head stick out?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import hypergeom
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.basis_vectors import BasisVectors
from stabilitykit.numerics.columns import robust_z
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import matrix_of_head

Row = dict[str, Any]

_TOP = 20


def coordinate_rows(direction: Tensor, loaded: LoadedModel) -> list[Row]:
    """Return the 20 largest coordinates of a unit direction (H,), with how far their column of the head sticks out.

    `robust_z` of the column's length and `outlier` are those of BasisVectors at its defaults, `head_outliers` how many
    columns are; empty rows where the head has no matrix of that width.
    """
    try:
        W = matrix_of_head(loaded)
    except UnsupportedError:
        return []
    if W.shape[1] != len(direction):
        return []
    z = robust_z(torch.linalg.vector_norm(W.double(), dim=0).cpu().numpy())
    out = abs(z) > BasisVectors.beyond
    places = direction.abs().argsort(descending=True, stable=True)[:_TOP].tolist()
    return [
        {
            "part": "coordinate",
            "rank": rank + 1,
            "coordinate": place,
            "component": float(direction[place]),
            "robust_z": float(z[place]),
            "outlier": bool(out[place]),
            "head_outliers": int(out.sum()),
        }
        for rank, place in enumerate(places)
    ]


def shared(rows: Sequence[Row], size: int) -> dict[str, float]:
    """Return how many of the coordinates are outliers of the head, and the chance of as many among `size`.

    Hypergeometric: the coordinates drawn without replacement from all. nothing without rows.
    """
    if not rows:
        return {"shared_outliers": math.nan, "shared_chance": math.nan}
    count = sum(row["outlier"] for row in rows)
    chance = float(hypergeom.sf(count - 1, size, rows[0]["head_outliers"], len(rows)))
    return {"shared_outliers": count, "shared_chance": chance}
