"""Concentration against every possible draw, listed, and against its two ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stabilitykit.numerics.concentration import concentration, entropy, expected_entropy


def counted(sets: tuple[tuple[int, ...], ...], places: int) -> list[int]:
    return [sum(place in one for one in sets) for place in range(places)]


def plain_entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -math.fsum(c / total * math.log(c / total) for c in counts if c)


@pytest.mark.parametrize(("sizes", "places"), [((1, 1), 3), ((2, 1, 3), 4), ((1, 2, 2, 0), 3), ((4, 4), 4), ((1,), 5)])
def test_the_expected_entropy_is_the_mean_over_all_draws(sizes: tuple[int, ...], places: int) -> None:
    draws = itertools.product(*(list(itertools.combinations(range(places), size)) for size in sizes))
    entropies = [plain_entropy(counted(draw, places)) for draw in draws]
    assert expected_entropy(sizes, places) == pytest.approx(sum(entropies) / len(entropies), abs=1e-12)


def test_entropy_is_that_of_the_shares() -> None:
    assert entropy(np.array([2, 0, 1, 1])) == pytest.approx(plain_entropy([2, 0, 1, 1]))
    assert entropy(np.array([0, 5])) == 0
    assert entropy(np.array([0, 0])) == 0


def test_all_in_one_place_is_1_and_chance_is_0() -> None:
    assert concentration(np.array([6, 0, 0, 0]), [1] * 6) == 1
    assert concentration(np.array([3, 3, 3, 3]), [4, 4, 4]) == pytest.approx(0, abs=1e-15)
    random = np.random.default_rng(0)
    sizes = [int(size) for size in random.integers(1, 30, size=40)]
    counts = sum(np.bincount(random.permutation(200)[:size], minlength=200) for size in sizes)
    assert abs(concentration(np.asarray(counts), sizes)) < 0.02


def test_more_even_than_chance_is_below_0() -> None:
    assert concentration(np.array([1, 1, 1, 1]), [1] * 4) < 0


@pytest.mark.parametrize(("counts", "sizes"), [([0, 0], [0, 0]), ([0, 1], [1]), ([], [])])
def test_without_a_choice_there_is_no_concentration(counts: list[int], sizes: list[int]) -> None:
    assert math.isnan(concentration(np.array(counts, dtype=np.int64), sizes))
