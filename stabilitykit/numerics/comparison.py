"""Two lists of states, row against row: how many elements changed, how far, and by what angle, all in float64."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import paired, same_bits, ulp_distance


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measures of `compare`, one number a row, each (N,).

    For rows a and b of M elements: `changed` = elements whose bits differ, or with |b - a| > tau for a tau over 0, and
    `percent_changed` of M; `mean_abs`, `max_abs` and `l2` of b - a, in the unit of the state; `relative_l2` = |b - a| /
    |a|; `cosine` = <a, b> / (|a| |b|); `angle_rad` = 2 asin(|b / |b| - a / |a|| / 2), which resolves angles that the
    cosine rounds to zero; `max_ulp` in ULP of the dtype. Over a zero row a `relative_l2` is infinite, or nan for b = 0
    too, and of a zero row cosine and angle are nan.
    """

    changed: Tensor
    percent_changed: Tensor
    mean_abs: Tensor
    max_abs: Tensor
    l2: Tensor
    relative_l2: Tensor
    cosine: Tensor
    angle_rad: Tensor
    max_ulp: Tensor

    def row(self, index: int) -> dict[str, float | int]:
        """Return the measures of one row by name."""
        return {item.name: getattr(self, item.name)[index].item() for item in fields(self)}


def compare(a: Tensor, b: Tensor, tau: float = 0.0) -> Comparison:
    """Compare b with the reference a, both (N, M) of one dtype; see `Comparison`.

    UsageError for other shapes or a negative tau, InvalidError for a NaN. O(N M), 48 bytes an element.
    """
    if not tau >= 0:
        raise UsageError(f"tau={tau!r} is no threshold; give a number that is not negative")
    a, b = paired(a, b)
    if a.dim() != 2 or not a.shape[1]:
        raise UsageError(f"states have shape {tuple(a.shape)}; give rows (N, M) of one element or more")
    a, b = a.detach().cpu(), b.detach().cpu()
    steps = ulp_distance(a, b)
    left, right = a.double(), b.double()
    gaps = (right - left).abs()
    moved = gaps > tau if tau else ~same_bits(a, b)
    changed = moved.sum(dim=1)
    length, other = torch.linalg.vector_norm(left, dim=1), torch.linalg.vector_norm(right, dim=1)
    l2 = torch.linalg.vector_norm(gaps, dim=1)
    u, w = left / length[:, None], right / other[:, None]
    return Comparison(
        changed=changed,
        percent_changed=100.0 * changed.double() / a.shape[1],
        mean_abs=gaps.mean(dim=1),
        max_abs=gaps.amax(dim=1),
        l2=l2,
        relative_l2=l2 / length,
        cosine=(u * w).sum(dim=1),
        angle_rad=2 * torch.asin((torch.linalg.vector_norm(w - u, dim=1) / 2).clamp(max=1.0)),
        max_ulp=steps.amax(dim=1),
    )
