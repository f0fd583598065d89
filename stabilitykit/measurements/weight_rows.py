"""One weight in numbers: its moments, percentiles, sizes, spectrum, and what a narrower dtype would make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.numerics.census import CHUNK, Census
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.moments import MOMENTS, moments
from stabilitykit.numerics.spectrum import top
from stabilitykit.numerics.stacked_spectra import singular_values

PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)
BOUNDS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
NARROW = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Where rounding to nearest, ties to even, gives infinity; and the largest magnitude that it makes 0.
_OVERFLOW = {"float16": 65520.0, "bfloat16": (2 - 2.0**-8) * 2.0**127}
_LOST = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
SPECTRAL = ("spectral_norm", "nuclear_norm", "least_singular", "stable_rank", "condition")
TOLERANCE = 1e-4
"""Relative residual to which a spectral norm is iterated."""

_PRODUCTS = 400


def statistics(tensor: Tensor) -> tuple[dict[str, Any], Census]:
    """Return every statistic of a weight's elements and its census; all but the count of them nan if one is not finite.

    Counts and percentiles are exact and moments those of float64; percentiles are of |w|, the median also of w.
    """
    census = Census.of(tensor)
    about: dict[str, Any] = {"not_finite": census.not_finite}
    if census.not_finite or not tensor.numel():
        names = (*MOMENTS, "range", "median", "median_abs", "frobenius", "rms", "max_over_rms")
        return {**about, **dict.fromkeys(names, math.nan)}, census
    beyond = [*_OVERFLOW.values(), *(np.nextafter(lost, 1) for lost in _LOST.values())]
    census.prepare(PERCENTS, [*BOUNDS.values(), *beyond])
    found = moments(census)
    rms = found["frobenius"] / math.sqrt(tensor.numel())
    percentiles = dict(zip(PERCENTS, census.percentiles(PERCENTS), strict=True))
    return {
        **about,
        **found,
        "range": found["max"] - found["min"],
        "median": census.median(),
        "median_abs": percentiles[50],
        "rms": rms,
        "max_over_rms": found["max_abs"] / rms if rms else math.nan,
        **{f"abs_p{percent}": value for percent, value in percentiles.items()},
        **_counts(census),
        **_narrowed(census),
    }, census


def _counts(census: Census) -> dict[str, float]:
    """Return counts and shares of signs, and of decades of |w|: each from its lower end up to the next."""
    total = census.values.numel()
    above, below = census.signs()
    least = census.at_least(list(BOUNDS.values()))
    decades = [least[0], *(b - a for a, b in pairwise(least)), total - least[-1]]
    names = ["n_geq_1e-1", *(f"n_{b}_to_{a}" for a, b in pairwise(BOUNDS)), "n_lt_1e-4"]
    signs = {"positive": above, "negative": below, "zero": total - above - below}
    return {
        **{f"n_{name}": count for name, count in signs.items()},
        **{f"pct_{name}": 100 * count / total for name, count in signs.items()},
        **dict(zip(names, decades, strict=True)),
    }


def _narrowed(census: Census) -> dict[str, float]:
    """Return the share of elements that a cast keeps, and how many it makes infinite or 0."""
    total, held = census.values.numel(), sum(census.signs())
    found: dict[str, float] = {}
    for name, dtype in NARROW.items():
        kept = census.at_least([np.nextafter(_LOST[name], 1)])[0]
        found[f"exact_{name}"] = _kept(census.values, dtype) / total
        found[f"overflow_{name}"] = census.at_least([_OVERFLOW[name]])[0]
        found[f"underflow_{name}"] = held - kept
    return found


def _kept(values: Tensor, dtype: torch.dtype) -> int:
    if values.dtype == dtype:
        return values.numel()
    return sum(int((part.to(dtype).to(part.dtype) == part).sum()) for part in torch.split(values, CHUNK))


def spectral(tensor: Tensor, how: str) -> dict[str, float]:
    """Return what the singular values of a matrix say, nan for what is none; `how` is none, norm or all.

    Of a stack of matrices (experts) the largest spectral norm and condition, the least value and stable rank, and the
    sum of nuclear norms. norm: products to a residual of `TOLERANCE`; what needs all values is nan.
    """
    nothing = dict.fromkeys(SPECTRAL, math.nan)
    if how == "none" or tensor.dim() < 2 or min(tensor.shape[-2:]) < 2 or not tensor.numel():
        return nothing
    stack = tensor.reshape(-1, *tensor.shape[-2:])
    lengths = torch.stack([torch.linalg.vector_norm(A.double()) for A in stack]).numpy()
    if not lengths.all():
        return nothing
    if how == "norm":
        largest = np.array([_norm(A) for A in stack])
        return {
            **nothing,
            "spectral_norm": float(largest.max()),
            "stable_rank": float(((lengths / largest) ** 2).min()),
        }
    s = np.concatenate([singular_values(A[None]) for A in stack])
    with np.errstate(divide="ignore"):
        condition = float((s[:, 0] / s[:, -1]).max())
    return {
        "spectral_norm": float(s[:, 0].max()),
        "nuclear_norm": float(s.sum()),
        "least_singular": float(s[:, -1].min()),
        "stable_rank": float(((s**2).sum(axis=1) / s[:, 0] ** 2).min()),
        "condition": condition,
    }


def _norm(A: Tensor) -> float:
    return float(top(LinearMap.of_matrix(A), 1, tolerance=TOLERANCE, max_products=_PRODUCTS).sigma[0])


def place(row: Mapping[str, Any]) -> dict[str, str]:
    """Return where a row's weight is."""
    layer = {} if row["layer"] is None else {"layer": str(row["layer"])}
    return {**layer, "module": str(row["name"])}
