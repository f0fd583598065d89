"""Lengths of a perturbation in units that carry over from model to model."""

from __future__ import annotations

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import spacing
from stabilitykit.subjects.subject import Subject

UNITS = ("abs", "rel", "ulp")


def check_unit(unit: str) -> None:
    """Refuse a unit that is not one of UNITS, in one sentence."""
    if unit not in UNITS:
        raise UsageError(f"unit {unit!r} is not one of {', '.join(UNITS)} (input units, |x0|, median spacing of x0)")


def length_of(unit: str, subject: Subject) -> float:
    """Return how long one unit is in input units: `abs` 1, `rel` |x0|, `ulp` the median spacing of the x0_i.

    The spacing of a float is its distance to the next one away from zero. UsageError for another unit, and for `rel`
    at a zero input.
    """
    check_unit(unit)
    if unit == "abs":
        return 1.0
    if unit == "ulp":
        return float(spacing(subject.x0.cpu()).median())
    length = float(subject.x0.double().norm())
    if length == 0:
        raise UsageError(f"{subject.name}: the input is zero, so no step is relative to it; use unit='abs' or 'ulp'")
    return length
