"""Singular values of many small matrices of one shape, and how evenly each matrix stretches.

Through the Gram matrix of the shorter side, in float64: for (64, 576) a tenth of the cost of a decomposition. Squaring
loses what is below 1e-8 of the largest value, so matrices with a value that small are decomposed after all.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.rounding import Floats

LEADING = 10
"""Singular values in the study's ratios, whatever the size of the matrix."""
TENTH = 0.1
"""Share of them in ratios that matrices of different sizes can be compared by."""
_RESOLVED = 1e-6
_BATCH = 2**22
"""Elements that are widened at a time."""
RATIOS = ("top10", "first_last", "least10", "top_tenth", "least_tenth", "stable_rank", "entropy_rank")


def singular_values(stack: Tensor, name: str = "the stack") -> Floats:
    """Return all singular values of a stack (N, r, d) of any dtype, (N, min(r, d)) float64, descending.

    Relative error about 1e-16 (s_1 / s_i)^2, and that of a decomposition where this would exceed 1e-4. InvalidError for
    a NaN or infinity, which decompositions return numbers for; UsageError for a stack without elements.
    Cost: N r d min(r, d) multiplications in float64, and memory for about 2^22 elements.
    """
    if not stack.numel():
        raise UsageError(f"{name} has shape {tuple(stack.shape)}, no elements; give matrices with a row and a column")
    each = max(1, _BATCH // stack[0].numel())
    return np.concatenate([_batch(part.detach().double(), name) for part in torch.split(stack, each)])


def product_values(left: Tensor, right: Tensor, name: str = "the products") -> Floats:
    """Return the singular values of left' right that can differ from 0, of stacks (N, r, d) and (N, r, e), descending.

    They are min(r, d, e) for each matrix, and float64.

    Those of R1 R2', from left' = A R1 and right' = B R2 with orthonormal columns: no d x e matrix is made, and small
    values keep their digits as those of r x r matrices do. Any dtype. Errors as `singular_values`.
    Cost: N r^2 (d + e) multiplications.
    """
    each = max(1, _BATCH // max(left[0].numel(), 1))
    parts = zip(torch.split(left, each), torch.split(right, each), strict=True)
    return np.concatenate([_product(A.detach().double(), B.detach().double(), name) for A, B in parts])


def _product(A: Tensor, B: Tensor, name: str) -> Floats:
    if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise InvalidError(f"{name} holds a NaN or an infinity; its singular values mean nothing")
    R, S = (torch.linalg.qr(X.mT, mode="r").R for X in (A, B))
    found: Floats = torch.linalg.svdvals(R @ S.mT).numpy()
    return found


def _batch(A: Tensor, name: str) -> Floats:
    if not bool(torch.isfinite(A).all()):
        raise InvalidError(f"{name} holds a NaN or an infinity; its singular values mean nothing")
    A = A.mT if A.shape[-2] > A.shape[-1] else A
    # A power of two keeps every bit and lets no square leave the range.
    exponent = torch.frexp(A.abs().amax(dim=(-2, -1), keepdim=True)).exponent.clamp(-1000, 1000)
    A = torch.ldexp(A, -exponent)
    s = torch.linalg.eigvalsh(A @ A.mT).clamp_min(0).sqrt().flip(-1)
    if bool((small := s[:, -1] < _RESOLVED * s[:, 0]).any()):
        s[small] = torch.linalg.svdvals(A[small])
    found: Floats = torch.ldexp(s, exponent[:, :, 0]).numpy()
    return found


def rounding_floor(s: Floats, shape: tuple[int, int], epsilon: float) -> Floats:
    """Return the length (N,) below which a singular value may be the rounding of the elements to their dtype.

    (epsilon / 2) rms (sqrt r + sqrt d): the norm of a random r x d matrix whose elements are as large as the largest
    rounding of an element of root mean square size; `epsilon` is the dtype's spacing at 1.
    """
    r, d = shape
    rms = np.sqrt((s**2).sum(axis=1) / (r * d))
    floor: Floats = epsilon / 2 * rms * (math.sqrt(r) + math.sqrt(d))
    return floor


def ratios(s: Floats) -> dict[str, Floats]:
    """Return what describes spectra (N, n), each (N,), independent of their scale; nan for a matrix of zeros.

    `top10` and `least10`: share of the sum that the 10 largest, or smallest, hold; `top_tenth` and `least_tenth` those
    of the largest and smallest tenth, ceil(n / 10). `first_last` s_1 / s_n, infinite where s_n is 0.
    `stable_rank` sum s^2 / s_1^2; `entropy_rank` exp(- sum p ln p), p = s^2 / sum s^2. Both ranks lie in [1, n].
    """
    few, share = min(LEADING, s.shape[1]), math.ceil(TENTH * s.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        total, power = s.sum(axis=1), s**2
        p = power / power.sum(axis=1, keepdims=True)
        return {
            "top10": s[:, :few].sum(axis=1) / total,
            "first_last": s[:, 0] / s[:, -1],
            "least10": s[:, -few:].sum(axis=1) / total,
            "top_tenth": s[:, :share].sum(axis=1) / total,
            "least_tenth": s[:, -share:].sum(axis=1) / total,
            "stable_rank": power.sum(axis=1) / power[:, 0],
            "entropy_rank": np.exp(entr(p).sum(axis=1)),
        }


@lru_cache(64)
def null(shape: tuple[int, int], draws: int, seed: int = 0) -> tuple[dict[str, float], Floats]:
    """Return the mean ratios of independent Gaussian elements in this shape, and the mean spectrum over its length.

    The spectrum (n,) is that of a matrix of Frobenius norm 1. Draws from PCG64: the same on every machine but for the
    rounding of the decomposition. Cost: `draws` matrices.
    """
    random = np.random.Generator(np.random.PCG64((seed, *shape)))
    spectra = np.concatenate(
        [singular_values(torch.from_numpy(random.standard_normal((1, *shape)))) for _ in range(draws)]
    )
    lengths = np.sqrt((spectra**2).sum(axis=1, keepdims=True))
    means = {name: float(values.mean()) for name, values in ratios(spectra).items()}
    return means, _frozen((spectra / lengths).mean(axis=0))


def _frozen(array: NDArray[np.float64]) -> Floats:
    array.flags.writeable = False
    return array
