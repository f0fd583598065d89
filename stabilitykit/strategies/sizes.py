"""Hypothesis strategies that draw the sizes of a kernel's axes, the smallest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.subjects.kernel import Kernel


def shapes(kernel: Kernel, largest: int | Mapping[str, int] = 64) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw sizes of the kernel's free axes, in its signature's order; a failure shrinks each axis toward 1.

    `largest` bounds every axis, or each by its letter (64 where it names none). Half of the draws lie on a power of two
    or beside one, where kernels change their tiles. UsageError for a letter that is no free axis, or a bound below 1.
    """
    free = [axis for axis in kernel.signature.axes if axis not in kernel.fixed]
    bounds = dict.fromkeys(free, largest) if isinstance(largest, int) else {**dict.fromkeys(free, 64), **largest}
    if wrong := [axis for axis, bound in bounds.items() if axis not in free or bound < 1]:
        raise UsageError(f"largest={bounds[wrong[0]]} for {wrong[0]!r}: the axes are {', '.join(free)}, from 1 on")
    return st.tuples(*(_lengths(bounds[axis]) for axis in free))


def _lengths(largest: int) -> st.SearchStrategy[int]:
    powers = [2**k for k in range(largest.bit_length())]
    edges = sorted({near for power in powers for near in (power - 1, power, power + 1) if 1 <= near <= largest})
    return st.integers(1, largest) | st.sampled_from(edges)
