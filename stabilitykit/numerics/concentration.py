"""Do changes gather at some places more than chance would have them? Entropy against its exact expectation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def concentration(counts: NDArray[np.int64], sizes: Sequence[int]) -> float:
    """Return 1 - S / E[S]: 0 as evenly spread as chance would, 1 all in one place; nan where chance has no choice.

    `counts` (P,): how many of the sets hold each of P places; `sizes`: how many different places each set holds, so
    that both sum to N. S = -sum c/N log c/N, and E[S] is its mean if every set were drawn uniformly. Slightly below 0
    where the sets are more even than chance. O(P + n^2) for n sets.
    """
    expected = expected_entropy(sizes, len(counts))
    return 1 - entropy(counts) / expected if expected > 0 else math.nan


def entropy(counts: NDArray[np.int64]) -> float:
    """Return the entropy -sum c/N log c/N of counts with the sum N, in nats; 0 for no counts at all."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def expected_entropy(sizes: Sequence[int], places: int) -> float:
    """Return the mean entropy of the counts if each set of k places were drawn uniformly from all sets of k.

    A place lies in a set with probability k / P, in different sets independently, so its count has the Poisson-binomial
    distribution; all places have the same one, and the entropy is a sum over places: E[S] is exact.
    """
    total = sum(sizes)
    if total == 0:
        return 0.0
    chance = np.ones(1)
    for size in sizes:
        chance = np.convolve(chance, [1 - size / places, size / places])
    shares = np.arange(1, len(chance)) / total
    # Clipped: the entropy of one certain place is 0, not the rounding of a logarithm.
    return max(0.0, float(-places * (chance[1:] * shares * np.log(shares)).sum()))
