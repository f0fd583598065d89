"""Accuracy against values by hand, and against exact fractions for random results of every dtype."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError
from stabilitykit.numerics.accuracy import Accuracy, accuracy, gap
from stabilitykit.numerics.bits import FORMATS, Format, nudge
from stabilitykit.numerics.rounding import round_once

INF, NAN = math.inf, math.nan
ULP = 2.0**-23


def rows(*given: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(given, dtype=torch.float64).to(dtype)


def test_every_number_by_hand() -> None:
    t = rows([1.0, 1.5, 2.0**-10], [4.0, 1.0, 0.0])
    y = rows([1.0, 1.5 + 2 * ULP, 2.0**-10 + ULP], [4.0, 1.0, 0.0], dtype=torch.float32)
    found = accuracy(y, t, torch.tensor([ULP / 4, 100.0], dtype=torch.float64))
    # 2 ULP of 1.5; 2^10 ULP of 2^-10 itself; the row's largest has a spacing of ULP, half of which outweighs `moved`.
    assert found == Accuracy(6, 4, 0, 1024.0, (2 + 1024) / 2, 2.0, 4.0, (0, 1))


def test_what_the_inputs_move_excuses_an_error_row_by_row() -> None:
    t = rows([1.0, 1.0], [1.0, 1.0])
    y = rows([1.0, 1 + 8 * ULP], [1.0, 1 + 8 * ULP], dtype=torch.float32)
    moved = torch.tensor([16 * ULP, 2 * ULP], dtype=torch.float64)
    assert accuracy(y, t, moved).excess == 4.0
    assert accuracy(y, t, moved).worst == (1, 1)
    assert accuracy(y[:1], t[:1], moved[:1]).excess == 0.5


@pytest.mark.parametrize("place", [(0, 3), (1, 0), (1, 4)])
def test_the_worst_place_is_a_row_and_a_column(place: tuple[int, int]) -> None:
    t = torch.ones(2, 5, dtype=torch.float64)
    y = t.float()
    y[place] += 4 * ULP
    assert accuracy(y, t, torch.zeros(2, dtype=torch.float64)).worst == place


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_nothing_is_accurate(shape: tuple[int, int]) -> None:
    t = torch.ones(shape, dtype=torch.float64)
    found = accuracy(t.float(), t, torch.zeros(shape[0], dtype=torch.float64))
    assert (found.elements, found.correct, found.max_ulp, found.excess, found.worst) == (0, 0, 0, 0, None)


def test_a_correctly_rounded_result_is_correct_and_has_an_excess_of_at_most_one() -> None:
    t = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 99)))
    for dtype in FORMATS:
        found = accuracy(round_once(t, dtype), t, torch.zeros(8, dtype=torch.float64))
        assert (found.correct, found.max_ulp, found.median_ulp, found.max_scaled_ulp) == (792, 0, 0, 0)
        assert found.worst is None
        assert (found.excess == 0) if dtype == torch.float64 else (0.5 < found.excess <= 1)


def test_a_small_row_is_not_hidden_behind_a_large_one() -> None:
    t = rows([1e6, 1e6], [1.0, 1.0])
    y = rows([1e6, 1e6], [1.0, 1 + 64 * ULP], dtype=torch.float32)
    assert accuracy(y, t, torch.zeros(2, dtype=torch.float64)).max_scaled_ulp == 64


@pytest.mark.parametrize(
    ("y", "t", "broken"),
    [
        ([NAN, 1.0], [1.0, 1.0], 1),
        ([INF, 1.0], [1.0, 1.0], 1),
        ([-INF, INF], [INF, -INF], 2),
        ([NAN, NAN], [NAN, 1.0], 2),
        ([INF, 1.0], [3.4e38, 1.0], 1),
    ],
)
def test_what_is_not_finite_without_reason_is_counted_and_no_size_is_given(
    y: list[float], t: list[float], broken: int
) -> None:
    found = accuracy(rows(y, dtype=torch.float32), rows(t), torch.zeros(1, dtype=torch.float64))
    assert (found.not_finite, found.worst) == (broken, (0, 0))
    assert all(map(math.isnan, (found.max_ulp, found.median_ulp, found.max_scaled_ulp, found.excess)))
    assert found.correct == sum(a == b for a, b in zip(y, t, strict=True))


def test_an_infinity_that_the_truth_rounds_to_is_right() -> None:
    found = accuracy(rows([INF, 1.0], dtype=torch.float32), rows([1e39, 1.0]), torch.zeros(1, dtype=torch.float64))
    assert found == Accuracy(2, 2, 0, 0.0, 0.0, 0.0, 0.0, None)
    short = accuracy(rows([3.4028235e38, 1.0], dtype=torch.float32), rows([1e39, 1.0]), torch.zeros(1).double())
    assert (short.max_ulp, short.max_scaled_ulp, short.excess, short.worst) == (1, INF, INF, (0, 0))


def test_a_format_that_saturates_is_right_at_its_largest_number() -> None:
    t = rows([1e5, -1e5, 3.0])
    found = accuracy(round_once(t, torch.float8_e4m3fn), t, torch.zeros(1, dtype=torch.float64))
    assert found == Accuracy(3, 3, 0, 0.0, 0.0, 0.0, 0.0, None)


def test_both_zeros_are_correct() -> None:
    zeros = torch.tensor([[0.0, -0.0]])
    assert accuracy(zeros, -zeros.double(), torch.zeros(1).double()) == Accuracy(2, 2, 0, 0.0, 0.0, 0.0, 0.0, None)


def test_a_truth_that_is_no_number_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidError, match=r"the reference is no number at \[0, 1\] \(1 in all\)"):
        accuracy(rows([1.0, 1.0], dtype=torch.float32), rows([1.0, NAN]), torch.zeros(1).double())


def test_of_several_that_are_no_number_the_first_is_named() -> None:
    with pytest.raises(InvalidError, match=r"no number at \[0, 2\] \(3 in all\)"):
        accuracy(torch.ones(2, 3), rows([1.0, 1.0, NAN], [NAN, 1.0, NAN]), torch.zeros(2).double())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_right(shape: tuple[int, int]) -> None:
    found = accuracy(torch.zeros(shape), torch.zeros(shape).double(), torch.zeros(shape[0]).double())
    assert found == Accuracy(0, 0, 0, 0.0, 0.0, 0.0, 0.0, None)


def test_equal_infinities_are_no_distance_apart() -> None:
    assert gap(rows([INF, INF, 1.0]), rows([INF, -INF, 3.0])).tolist() == [[0.0, INF, 2.0]]


def test_the_worst_place_is_not_one_that_is_right_and_may_be_one_unit_off() -> None:
    """The first truth lies 0.4 ULP off its float and has an excess of 0.8; 1 ULP of the third is far less."""
    t = rows([1 + 0.4 * ULP, 2.0**-9, 2.0**-10])
    y = rows([1.0, 2.0**-9, 2.0**-10 + 2.0**-33], dtype=torch.float32)
    found = accuracy(y, t, torch.zeros(1).double())
    assert (found.correct, found.max_ulp, found.worst) == (2, 1, (0, 2))
    assert found.excess == pytest.approx(0.8)


def test_an_error_of_one_is_as_large_as_it_is() -> None:
    found = accuracy(rows([3.0, 4.0], dtype=torch.float32), rows([2.0, 4.0]), torch.zeros(1).double())
    assert (found.max_scaled_ulp, found.excess) == (2.0**21, 2.0**22)


def test_an_infinity_does_not_count_as_the_size_of_its_row() -> None:
    found = accuracy(rows([INF, 0.25 + ULP / 4], dtype=torch.float32), rows([1e39, 0.25]), torch.zeros(1).double())
    assert (found.max_scaled_ulp, found.excess, found.worst) == (1.0, 2.0, (0, 1))


def test_the_worst_place_is_one_that_differs_however_well_its_error_is_excused() -> None:
    y = rows([1.0, 1 + 8 * ULP, 1 + 4 * ULP], dtype=torch.float32)
    found = accuracy(y, torch.ones(1, 3).double(), torch.tensor([16 * ULP], dtype=torch.float64))
    assert (found.excess, found.worst) == (0.5, (0, 1))


def test_the_median_is_over_all_that_differ_by_one_ulp_or_more() -> None:
    y = rows([1.0, 1 + ULP, 1 + 3 * ULP], dtype=torch.float32)
    assert accuracy(y, torch.ones(1, 3).double(), torch.zeros(1).double()).median_ulp == 2
    assert accuracy(y[:, :2], torch.ones(1, 2).double(), torch.zeros(1).double()).median_ulp == 1


# ---- independent oracle: exact fractions ----


def exponent(size: Fraction, row: Format) -> int:
    lowest = 1 - row.bias
    e = size.numerator.bit_length() - size.denominator.bit_length() if size else lowest
    e = e if not size or Fraction(2) ** e <= size else e - 1
    return max(e, lowest)


def quantum(size: Fraction, row: Format) -> Fraction:
    return Fraction(2) ** (exponent(size, row) - row.mantissa)


def place(value: Fraction, row: Format) -> int:
    """Signed count of numbers from zero."""
    size = abs(value)
    steps = (exponent(size, row) - 1 + row.bias) * 2**row.mantissa + size / quantum(size, row)
    return int(steps) * (1 if value >= 0 else -1)


@pytest.mark.parametrize("dtype", [dtype for dtype in FORMATS if dtype != torch.float64])
def test_random_results_agree_with_exact_fractions(dtype: torch.dtype) -> None:
    random, row = np.random.default_rng(5), FORMATS[dtype]
    t = torch.from_numpy(random.normal(size=(3, 40)) * np.array([[1.0], [0.01], [20.0]]))
    t[0, :5] = 0
    y = nudge(round_once(t, dtype), torch.from_numpy(random.integers(-3, 4, size=(3, 40))))
    moved = torch.tensor([0.0, 1e-3, 1e-9], dtype=torch.float64)
    truth = [[Fraction(value) for value in line] for line in t.tolist()]
    got = [[Fraction(value) for value in line] for line in y.double().tolist()]
    best = [[round(v / quantum(abs(v), row)) * quantum(abs(v), row) for v in line] for line in truth]
    steps = [
        abs(place(a, row) - place(b, row)) for p, q in zip(got, best, strict=True) for a, b in zip(p, q, strict=True)
    ]
    scaled, excess = [], []
    for line, true, right, move in zip(got, truth, best, moved.tolist(), strict=True):
        unit = quantum(max(map(abs, right)), row)
        scaled.append(max(abs(a - b) for a, b in zip(line, right, strict=True)) / unit)
        excess.append(max(abs(a - b) for a, b in zip(line, true, strict=True)) / max(Fraction(move), unit / 2))
    found = accuracy(y, t, moved)
    assert (found.elements, found.correct, found.not_finite) == (120, steps.count(0), 0)
    assert found.max_ulp == max(steps)
    assert found.median_ulp == median([step for step in steps if step])
    assert found.max_scaled_ulp == pytest.approx(float(max(scaled)), rel=1e-12, abs=0)
    assert found.excess == pytest.approx(float(max(excess)), rel=1e-12, abs=0)
    assert found.worst is not None
    assert found.worst[0] == excess.index(max(excess))


def test_the_worst_place_is_among_those_that_differ_however_near_a_tie_another_one_was() -> None:
    """1 is right, and off by nearly half its spacing; the small number is wrong, and by far less than that."""
    t = rows([1 + 0.9 * ULP / 2, 2.0**-20])
    y = rows([1.0, 2.0**-20 * (1 + ULP)], dtype=torch.float32)
    found = accuracy(y, t, torch.zeros(1, dtype=torch.float64))
    assert (found.correct, found.worst) == (1, (0, 1))


def test_negated_results_are_as_accurate() -> None:
    """Also where all of a row have one sign, and its largest number is the one furthest below zero."""
    t = torch.from_numpy(np.random.default_rng(2).uniform(0.1, 10, size=(4, 9)))
    y = nudge(t.float(), torch.arange(36).reshape(4, 9) % 5)
    moved = torch.zeros(4, dtype=torch.float64)
    assert accuracy(-y, -t, moved) == accuracy(y, t, moved)


def test_zeros_that_are_right_have_no_excess_where_half_a_spacing_is_zero() -> None:
    """As it is in float64, whose smallest number has no half."""
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert accuracy(zeros, zeros, zeros[:, 0]) == Accuracy(6, 6, 0, 0.0, 0.0, 0.0, 0.0, None)
