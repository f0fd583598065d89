"""From points along a ray to thresholds: where an error settles below a level for good, and how sure that is.

Everything here is arithmetic on numbers measured elsewhere; arrays of steps are ascending along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

COVERAGE = 0.95
"""Share of the replicates that lie within an interval."""


def settles(steps: Floats, errors: Floats, level: float) -> Floats:
    """Return the step from which on errors <= level, there and at all larger steps, (..., P) to (...).

    Between the last point above the level and the next one the error is taken as a power of the step, so the threshold
    is interpolated in log-log; next to an error that has no logarithm (0, inf, nan) it is the next point itself. The
    smallest step if no point fails, inf if the largest does. A nan fails. O(P).
    """
    fails = ~(errors <= level)
    last = steps.shape[-1] - 1 - np.argmax(fails[..., ::-1], axis=-1)
    found = _crossing(steps, errors, level, last, np.minimum(last + 1, steps.shape[-1] - 1))
    found = np.where(last == steps.shape[-1] - 1, np.inf, found)
    return np.where(fails.any(axis=-1), found, steps[..., 0])


def departs(steps: Floats, errors: Floats, level: float) -> Floats:
    """Return the step up to which errors <= level, there and at all smaller steps; the mirror image of `settles`.

    The smallest step if already that one fails, inf if none does.
    """
    fails = ~(errors <= level)
    first = np.argmax(fails, axis=-1)
    found = _crossing(steps, errors, level, first, np.maximum(first - 1, 0))
    return np.where(fails.any(axis=-1), found, np.inf)


def _crossing(steps: Floats, errors: Floats, level: float, failing: Indices, holding: Indices) -> Floats:
    """Return where the line through both points in log-log has the level, else the step that holds."""

    def at(values: Floats, index: Indices) -> Floats:
        return np.take_along_axis(values, np.asarray(index)[..., None], axis=-1)[..., 0]

    outside, inside = at(steps, failing), at(steps, holding)
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = np.log(at(errors, failing) / level), np.log(at(errors, holding) / level)
        share = above / (above - below)
        between = outside * (inside / outside) ** share
    return np.where(np.isfinite(above) & np.isfinite(below), between, inside)


def redrawn(strata: Indices, replicates: int, random: np.random.Generator) -> Indices:
    """Return (replicates, P) indices, ascending: as many as there are of each stratum, drawn from it with replacement.

    `strata` (P,) numbers the stratum of each point; a point alone in its stratum is in every replicate.
    """
    drawn = []
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn.append(members[random.integers(members.size, size=(replicates, members.size))])
    return np.sort(np.concatenate(drawn, axis=1), axis=1)


def spread(
    replicas: Floats, is_drawn: NDArray[np.bool_], statistic: Callable[..., Floats], random: np.random.Generator
) -> Floats:
    """Return (R,) replicates of a statistic over rays, from R replicates of each ray's value, (n, R).

    Two levels: in each replicate the rays that were drawn at random are drawn again among themselves, the others
    stay, and each takes one of its own replicates. `statistic` reduces axis 0, such as np.median. O(n R).
    """
    n, R = replicas.shape
    rays = np.repeat(np.arange(n)[:, None], R, axis=1)
    members = np.flatnonzero(is_drawn)
    if members.size:
        rays[members] = members[random.integers(members.size, size=(members.size, R))]
    return np.asarray(statistic(replicas[rays, random.integers(R, size=(n, R))], axis=0))


def interval(replicates: Floats) -> tuple[float, float]:
    """Return the central interval that holds COVERAGE of the replicates; its ends are replicates, so inf is no harm."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
