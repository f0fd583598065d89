"""Mean, spread and shape of a tensor's elements, added up in float64 a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from stabilitykit.numerics.census import CHUNK, Census
from stabilitykit.numerics.rounding import Floats

MOMENTS = ("mean", "std", "var", "min", "max", "mean_abs", "std_abs", "min_abs", "max_abs", "skewness", "kurtosis")


def moments(census: Census) -> dict[str, float]:
    """Return `MOMENTS` and `frobenius` of finite elements, by their definitions over the whole population.

    var = mean (w - mean)^2, std its root; skewness = mean (w - mean)^3 / std^3 and kurtosis = mean (w - mean)^4 / var^2
    less 3, 0 for a Gaussian, both nan for equal elements; `*_abs` are those of |w|; frobenius = sqrt(sum w^2). Two
    passes in float64 with exact sums of the pieces' sums; none where a pattern of the census is a number.
    """
    pieces, total = list(_sums(census)), census.values.numel()
    mean, mean_abs, square = (math.fsum(piece[n] for piece in pieces) / total for n in range(3))
    centred = list(_centred(census, mean, mean_abs))
    var, third, fourth, var_abs = (math.fsum(piece[n] for piece in centred) / total for n in range(4))
    flat = var <= (1e-15 * max(abs(mean), 1e-300)) ** 2
    return {
        "mean": mean,
        "std": math.sqrt(var),
        "var": var,
        "min": min(piece[3] for piece in pieces),
        "max": max(piece[4] for piece in pieces),
        "mean_abs": mean_abs,
        "std_abs": math.sqrt(var_abs),
        "min_abs": min(piece[5] for piece in pieces),
        "max_abs": max(piece[6] for piece in pieces),
        "skewness": math.nan if flat else third / var**1.5,
        "kurtosis": math.nan if flat else fourth / var**2 - 3,
        "frobenius": math.sqrt(square * total),
    }


def _pieces(census: Census) -> Iterator[tuple[Floats, Floats | float]]:
    """Yield numbers and how often each occurs: every number of 16 bits that occurs, or pieces of the elements."""
    if census.exact:
        signed = np.concatenate([census.floors, -census.floors])
        occurs = census.counts > 0
        yield signed[occurs], census.counts[occurs].astype(np.float64)
        return
    for part in torch.split(census.values, CHUNK):
        yield part.double().numpy(), 1.0


def _sums(census: Census) -> Iterator[tuple[float, ...]]:
    for w, count in _pieces(census):
        a = np.abs(w)
        added = [float(_total(x, count)) for x in (w, a, w * w)]
        yield *added, float(w.min()), float(w.max()), float(a.min()), float(a.max())


def _centred(census: Census, mean: float, mean_abs: float) -> Iterator[tuple[float, ...]]:
    for w, count in _pieces(census):
        off, off_abs = w - mean, np.abs(w) - mean_abs
        squares = off * off
        yield tuple(float(_total(x, count)) for x in (squares, squares * off, squares * squares, off_abs * off_abs))


def _total(values: Floats, count: Floats | float) -> np.float64:
    return np.float64(values.sum() if isinstance(count, float) else values @ count)
