"""The direction that each block stretches most, by its weights alone, next to the direction of the long tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.linalg import eig
from torch import Tensor

from stabilitykit.measurements.high_norms import HighNorms
from stabilitykit.numerics.acute import acute_angle
from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.spectrum import top
from stabilitykit.subjects.residual_block import ResidualBlock

Row = dict[str, Any]

DEFINED = 1.3
"""sigma_1 / sigma_2 of a block from which on its first direction is one, and not any of a plane."""

_TOLERANCE, _PRODUCTS = 1e-4, 800


def one_token(attended: LinearMap, fed: LinearMap, *, parallel: bool = False) -> LinearMap:
    """Return what a block does to a token alone when its norms do not divide: (I + F)(I + A), or I + F + A."""

    def forward(X: Tensor) -> Tensor:
        Y = X + attended.apply(X)
        return Y + fed.apply(X if parallel else Y)

    def adjoint(U: Tensor) -> Tensor:
        Y = U + fed.apply_adjoint(U)
        return Y + attended.apply_adjoint(U if parallel else Y)

    return LinearMap(forward, adjoint, fed.shape)


def layer_row(
    block: ResidualBlock, found: HighNorms, role: str, *, normed: bool, dtype: torch.dtype, eigen: bool = False
) -> Row:
    """Return one block's row: its direction by weights, and what it really does to the long tokens.

    `step` = u.(left - entered), their mean, with the sign
    that makes u.entered positive; `step_cosine` its cosine. `direction_bound_deg`: how far the computed direction can
    be from the true one, by its residual over the gap of the singular values. `ulp_over_median`: the spacing of floats
    at the largest coordinate behind the block, over the median norm of ordinary tokens.
    """
    fed = block.fed(normed=normed)
    attended = block.attended()
    first = top(one_token(attended, fed, parallel=block.parallel), 2, tolerance=_TOLERANCE, max_products=_PRODUCTS)
    s1, s2 = first.sigma.tolist()
    u = found.direction
    return {
        "part": "layer",
        "block": block.number,
        "role": role,
        "angle": acute_angle(first.u[0], u),
        "defined": s1 > DEFINED * s2,
        "direction_bound_deg": math.degrees(math.asin(min(1.0, float(first.residual[0]) / max(s1 - s2, 1e-300)))),
        "s1": s1,
        "s2": s2,
        "s1_over_s2": s1 / s2,
        "s1_feed_forward": float(top(fed, 1, tolerance=_TOLERANCE).sigma[0]),
        **rayleigh(attended, fed, u, parallel=block.parallel),
        **(eigenpair(attended, fed, u, parallel=block.parallel) if eigen and role else {}),
        **_steps(block.number, found),
        **_spacings(block.number, found, dtype),
    }


def rayleigh(attended: LinearMap, fed: LinearMap, u: Tensor, *, parallel: bool = False) -> Row:
    """Return u'(A + F)u, what both branches add along a unit u, and the cross term u'FAu, which L has as well.

    Branches side by side have no cross term.

    The cross term is no part of a sign: in the model the second norm divides by the length of the state, so what
    attention adds to a long token hardly turns what the feed-forward layer reads; without the division it does.
    """
    added = attended.apply(u)
    cross = 0.0 if parallel else float(u @ fed.apply(added))
    return {"rayleigh": float(u @ (added + fed.apply(u))), "rayleigh_cross": cross}


def eigenpair(attended: LinearMap, fed: LinearMap, u: Tensor, *, parallel: bool = False) -> Row:
    """Return the eigenvector of L - I whose real part is nearest to u, with its condition number 1 / |y'x|.

    Dense: O(H^3), ten times an SVD. A large condition number says that the eigenvalue, and its sign, means little.
    """
    R = one_token(attended, fed, parallel=parallel).dense().numpy() - np.eye(len(u))
    values, left, right = eig(R, left=True, right=True)
    angles = [acute_angle(torch.from_numpy(x.real.copy()), u) for x in right.T]
    place = int(np.nanargmin(angles))
    overlap = abs(np.vdot(left[:, place], right[:, place]))
    return {
        "eigen_angle": angles[place],
        "eigen_real": float(values[place].real),
        "eigen_imaginary": float(values[place].imag),
        "eigen_condition": float(1 / overlap) if overlap else math.inf,
    }


def _steps(number: int, found: HighNorms) -> Row:
    entered, left = found.states[found.tracks, number], found.states[found.tracks, number + 1]
    sign = torch.where(entered @ found.direction < 0, -1.0, 1.0)
    steps = (left - entered) * sign[:, None]
    along = steps @ found.direction
    norms = [torch.linalg.vector_norm(x, dim=1).median() for x in (entered, left)]
    return {
        "growth": float(found.growth[number]),
        "norm_before": float(norms[0]),
        "norm_behind": float(norms[1]),
        "typical_norm": float(found.typical[number + 1]),
        "step": float(along.mean()),
        "step_cosine": float((along / torch.linalg.vector_norm(steps, dim=1)).mean()),
    }


def _spacings(number: int, found: HighNorms, dtype: torch.dtype) -> Row:
    largest = found.states[:, number + 1].abs().max()
    median = float(found.norms[:, number + 1].median())
    kinds = {"ulp_over_median": dtype, "ulp_over_median_bfloat16": torch.bfloat16}
    return {
        "largest": float(largest),
        **{name: float(spacing(largest.to(kind)).double()) / median for name, kind in kinds.items()},
    }
