"""Acute angles between directions, for vectors whose sign means nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def acute_angle(a: Tensor, b: Tensor) -> float:
    """Return the angle in degrees, 0 to 90, between the lines along a and b; nan if one of them is zero.

    2 atan2(|a' - b'|, |a' + b'|) on unit vectors: accurate also for tiny angles, where an arc cosine is not.
    """
    p, q = (x.double() / torch.linalg.vector_norm(x.double()) for x in (a, b))
    apart, together = torch.linalg.vector_norm(p - q), torch.linalg.vector_norm(p + q)
    return float(torch.rad2deg(2 * torch.atan2(torch.minimum(apart, together), torch.maximum(apart, together))))


def coherence(vectors: Tensor) -> float:
    """Return the mean acute angle in degrees between all pairs of the rows of (n, H); nan for fewer than two."""
    unit = vectors.double() / torch.linalg.vector_norm(vectors.double(), dim=1, keepdim=True)
    cosines = (unit @ unit.T).abs().clamp_max(1.0)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    return float(torch.rad2deg(torch.acos(cosines[rows, columns])).mean()) if len(unit) > 1 else float("nan")
