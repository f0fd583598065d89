"""What rounding leaves of a step: its length, its direction, and the steps from which on it lets something through."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from stabilitykit.numerics.bits import ordered
from stabilitykit.numerics.lattice import Lattice

LOST = 0.99
"""Alignment below which a rounded step no longer goes in its direction."""

_LARGEST = float(np.finfo(np.float64).max)
_PER_OCTAVE = 8
"""Steps an octave of the search for the step from which on the direction is kept."""


def step_columns(delta: Tensor, nominal: float, direction: Tensor) -> dict[str, Any]:
    """Return what rounding left of a step of length `nominal` along a direction: delta (H,) is what was made of it."""
    norm = float(delta.norm())
    return {
        "realised_norm": norm,
        "realised_ratio": norm / nominal if nominal else math.nan,
        "alignment": cosine(delta, direction.double().cpu()),
        "coords_moved": int((delta != 0).sum()),
    }


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle of two float64 vectors, within [-1, 1]; nan for a zero."""
    lengths = float(a.norm()) * float(b.norm())
    return max(-1.0, min(1.0, float(a @ b) / lengths)) if lengths else math.nan


def thresholds(lattice: Lattice) -> dict[str, Any]:
    """Return the steps, as nominal lengths in input units, at which rounding begins to let a step through.

    `eps_first_move`: a coordinate that is not zero changes its value; `eps_first_move_any`: one that is zero may be it;
    `eps_half_moved`: half of the coordinates with d_i != 0 have changed. All three are first float64 steps. `zeros`:
    exact zeros of x0 with d_i != 0. `eps_aligned`: see `_aligned`. O(70 H) each, and some 1000 H for the last.
    """
    length = float(lattice.direction.double().norm())
    start = ordered(lattice.x0)
    can_move, zero = lattice.direction != 0, start == 0

    def moved(s: float, where: Tensor) -> int:
        return int((where & (ordered(lattice.at(s)) != start)).sum())

    def first(where: Tensor, count: int) -> float:
        return _first(lambda s: moved(s, where) >= count, 0.0, _LARGEST)

    anything = first(can_move, 1)
    listed = first(can_move & ~zero, 1) if bool((can_move & ~zero).any()) else anything
    return {
        "eps_first_move": length * listed,
        "eps_first_move_any": length * anything,
        "eps_half_moved": length * first(can_move, (int(can_move.sum()) + 1) // 2),
        "eps_aligned": length * _aligned(lattice, anything),
        "zeros": int((can_move & zero).sum()),
    }


def _aligned(lattice: Lattice, bottom: float) -> float:
    """Return the step below which, as steps shrink, the alignment first falls under LOST; nan if it is never above."""
    d = lattice.direction.double()

    def kept(s: float) -> bool:
        return cosine(lattice.at(s).double() - lattice.x0.double(), d) >= LOST

    high = 4 * (float(lattice.x0.double().norm()) or 1.0) / float(d.norm())
    if not kept(high):
        return math.nan
    while high > bottom:
        low = high * 2 ** (-1 / _PER_OCTAVE)
        if not kept(low):
            return _first(kept, low, high)
        high = low
    return bottom


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return a float64 at which `holds`, while it does not at the one before: the first, where it stays true.

    Bisection over the bits of non-negative numbers, from `low`, where it does not hold, to `high`, where it does; nan
    if it does not there.
    """
    if not holds(high):
        return math.nan
    below, above = (int(np.float64(s).view(np.int64)) for s in (low, high))
    while above - below > 1:
        middle = (below + above) // 2
        reached = holds(float(np.int64(middle).view(np.float64)))
        below, above = (below, middle) if reached else (middle, above)
    return float(np.int64(above).view(np.float64))
