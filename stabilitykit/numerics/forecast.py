"""How likely the sign of a small number is another on the next device, from what it was on those at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.numerics.rounding import Floats

_LEVELS, _CENTRES = 48, 32
_MOST = 1e6
"""Freedom from which on a Student's t is a normal distribution."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What all decisions say together about the noise of one: `scale`, its root mean square in the unit of the margins,
    and `freedom`, how many devices' weight that has beside a decision's own."""

    scale: float
    freedom: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of each decision (N,): the noise of its margin, and the probability of a flip with its interval."""

    noise: Floats
    probability: Floats
    low: Floats
    high: Floats


def pooled(margins: list[Floats]) -> Prior:
    """Return the prior of the noise's variance from groups of margins (devices, N), each of at least one device.

    The variances sigma^2 are taken to be drawn from a scaled inverse chi-squared distribution; scale and freedom d are
    those whose mean s^2 d / (d - 2) and ratio E[sigma^4] / E[sigma^2]^2 = (d - 2) / (d - 4) are those of the sample
    variances, the second freed of sampling: E[v^2] = E[sigma^4] (k + 2) / k with k = devices - 1. O(values).
    """
    variances = [(group.var(axis=0, ddof=1), len(group) - 1) for group in margins if len(group) > 1 and group.size]
    weight = sum(len(v) * k for v, k in variances)
    mean = sum(float(v.sum()) * k for v, k in variances) / weight if weight else 0.0
    if not mean:
        return Prior(0.0, _MOST)
    square = sum(float((v**2).sum()) * k * k / (k + 2) for v, k in variances) / weight
    ratio = square / mean**2
    freedom = min((4 * ratio - 2) / (ratio - 1), _MOST) if ratio > 1 else _MOST
    return Prior(math.sqrt(mean * (freedom - 2) / freedom), freedom)


def forecast(
    margins: Floats, spacing: Floats, tie_flips: NDArray[np.bool_], prior: Prior, confidence: float = 0.95
) -> Forecast:
    """Forecast N decisions taken by the sign of `margins` (devices, N), the same on each device but for noise.

    Device i sees m_i = mu + sigma e_i, e_i normal, rounded to multiples of `spacing` (N,). With flat mu and the prior
    for sigma^2, the next device's m is Student's t around the mean of the m_i, with scale s sqrt(1 + 1/n), where
    s^2 = (d s0^2 + sum (m_i - mean)^2) / (d + n - 1), and d + n - 1 degrees of freedom. It flips below 0, and at 0
    where `tie_flips`: the cut is at half a spacing below or above. `low` and `high` are the one-sided bounds at
    `confidence` of that probability over the posterior of mu and sigma. Where no noise was seen at all every
    probability is 0. UsageError for shapes that do not fit. O(devices N + 1536 N).
    """
    if margins.ndim != 2 or margins.shape[1:] != spacing.shape or spacing.shape != tie_flips.shape or not len(margins):
        raise UsageError(f"margins {margins.shape}, spacing {spacing.shape}, ties {tie_flips.shape}: give (n, N), (N,)")
    from scipy.stats import t

    n, cut = len(margins), np.where(tie_flips, 0.5, -0.5) * spacing
    centre = margins.mean(axis=0)
    freedom = prior.freedom + n - 1
    noise = np.sqrt((prior.freedom * prior.scale**2 + ((margins - centre) ** 2).sum(axis=0)) / freedom)
    if not prior.scale:
        nothing = np.zeros_like(centre)
        return Forecast(nothing, nothing, nothing, nothing)
    probability = t.cdf((cut - centre) / (noise * math.sqrt(1 + 1 / n)), freedom)
    low, high = _bounds((cut - centre) / noise, n, freedom, confidence)
    return Forecast(noise, np.asarray(probability), low, high)


def _bounds(distance: Floats, n: int, freedom: float, confidence: float) -> tuple[Floats, Floats]:
    """Return quantiles over the posterior of Phi((cut - mu) / sigma), on a grid of equal probabilities."""
    from scipy.special import ndtr, ndtri
    from scipy.stats import chi2

    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    shrink = np.sqrt(chi2.ppf(levels, freedom) / freedom)  # s / sigma
    shift = ndtri((np.arange(_CENTRES) + 0.5) / _CENTRES) / math.sqrt(n)
    found = np.empty((2, len(distance)))
    for begin in range(0, len(distance), 1024):  # a page of memory at a time
        part = distance[begin : begin + 1024, None, None] * shrink[:, None] - shift
        found[:, begin : begin + 1024] = np.quantile(part.reshape(len(part), -1), (1 - confidence, confidence), axis=1)
    low, high = np.asarray(ndtr(found))
    return low, high


def any_of(probabilities: Floats, axis: int = -1) -> Floats:
    """Return 1 - prod (1 - p) along an axis, exact for small p: the chance of at least one of independent events."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(np.log1p(-np.minimum(probabilities, 1.0)).sum(axis=axis)) + 0.0)  # never -0
