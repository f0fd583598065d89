"""Numbers to try a kernel with: drawn on the CPU from integers only, so that every machine has the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import format_of, from_total_order

Floats = NDArray[np.float64]
Shape = tuple[int, ...]
Draw = Callable[[Shape, Generator], Floats]
"""A draw of one's own: the shape and a numpy generator in, float64 numbers out, which are rounded to the dtype."""

_TERMS, _WORD = 12, 32
_CHUNK = 4096  # numbers at once: their words stay in the processor's cache


def normal(shape: Shape, random: Generator) -> Floats:
    """Nearly normal, variance 1: the centred sum of 12 uniform 32-bit integers (Irwin-Hall; ends at 6 deviations)."""
    sums = np.empty(math.prod(shape))
    for part in np.array_split(sums, range(_CHUNK, len(sums), _CHUNK)):
        words = random.integers(0, 1 << _WORD, size=(len(part), _TERMS), dtype=np.uint32)
        part[:] = words.astype(np.float64) @ np.ones(_TERMS)  # exact in any order: below 2^36
    return np.asarray((sums - (_TERMS << _WORD - 1)) / float(1 << _WORD)).reshape(shape)


def outliers(shape: Shape, random: Generator) -> Floats:
    """Normal, but one element of 64 is 1024 times as large, as the massive activations of language models are."""
    chosen = random.integers(0, 64, size=shape) == 0
    return normal(shape, random) * np.where(chosen, 1024.0, 1.0)


def wide(shape: Shape, random: Generator) -> Floats:
    """Magnitudes over 29 powers of two: 2^-10 to 2^10 from row to row, 2^-4 to 2^4 within a row; random signs."""
    rows = random.integers(-10, 11, size=(*shape[:-1], 1)[: len(shape)])
    exponents = rows + random.integers(-4, 5, size=shape)
    fractions = 1 + random.integers(0, 1 << 52, size=shape) / float(1 << 52)
    return np.asarray(np.ldexp(fractions * (1 - 2 * random.integers(0, 2, size=shape)), exponents))


def edge_of(dtype: torch.dtype) -> Draw:
    """Signed zeros, subnormals, the ends of the normal numbers, the neighbours of 1, and plain numbers of all sizes.

    The largest is such that the sum of 2^24 squares does not overflow, but never below 8.
    """
    row = format_of(dtype)
    one = row.bias << row.mantissa
    patterns = [0, 1, (1 << row.mantissa) - 1, 1 << row.mantissa, one - 1, one, one + 1]
    small = from_total_order(torch.tensor(patterns), dtype).double().numpy()
    plain = np.array([2.0**-row.mantissa, 0.1, 1 / 3, 2.0, 3.0, math.ldexp(1.0, max(row.bias // 2 - 12, 3))])
    values = np.concatenate([small, plain, -small, -plain])
    return lambda shape, random: values[random.integers(0, len(values), size=shape)]


def mirrored(values: Floats, axis: int, random: Generator) -> Floats:
    """Make the second half of an axis the first half's opposite, but for a part in about a thousand.

    Sums along the axis then lose some ten bits. With an odd number of elements the last one stays as it is.
    """
    half = values.shape[axis] // 2
    kept, opposite, rest = np.split(values, [half, 2 * half], axis=axis)
    return np.concatenate([kept, -kept * (1 + normal(opposite.shape, random) / 1024), rest], axis=axis)


def repeated(values: Floats, axis: int) -> Floats:
    """Make the second half of an axis the same as the first: what is multiplied with a mirrored axis."""
    half = values.shape[axis] // 2
    kept, _, rest = np.split(values, [half, 2 * half], axis=axis)
    return np.concatenate([kept, kept, rest], axis=axis)


DRAWS = ("normal", "outliers", "wide", "cancelling", "edge")
"""From the plainest to the strangest."""


def named(draw: str | Draw, dtype: torch.dtype) -> Draw:
    """Return the draw of a name; UsageError for an unknown one. `cancelling` is normal until a kernel mirrors it."""
    if not isinstance(draw, str):
        return draw
    if draw not in DRAWS:
        raise UsageError(f"draw {draw!r} is not one of {', '.join(DRAWS)}, nor a function of (shape, random)")
    return {"normal": normal, "outliers": outliers, "wide": wide, "cancelling": normal, "edge": edge_of(dtype)}[draw]


def name_of_draw(draw: str | Draw) -> str:
    """Return what a draw is called in rows and places."""
    return draw if isinstance(draw, str) else str(getattr(draw, "__name__", type(draw).__name__))
