"""Rows of states compared: against plain sums in exact arithmetic, and where floats would hide the answer."""

import math
from fractions import Fraction

import pytest
import torch

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.comparison import compare


def exact(a, b):
    """The measures of two lists of floats by exact fractions, rounded once at the end."""
    left, right = [Fraction(x) for x in a], [Fraction(x) for x in b]
    gaps = [abs(y - x) for x, y in zip(left, right, strict=True)]
    l2, length, other = (math.sqrt(sum(x * x for x in v)) for v in (gaps, left, right))
    dot = float(sum(x * y for x, y in zip(left, right, strict=True)))
    return {
        "changed": sum(gap > 0 for gap in gaps),
        "percent_changed": 100 * sum(gap > 0 for gap in gaps) / len(gaps),
        "mean_abs": float(sum(gaps) / len(gaps)),
        "max_abs": float(max(gaps)),
        "l2": l2,
        "relative_l2": l2 / length,
        "cosine": dot / (length * other),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_measures_are_those_of_exact_fractions(dtype):
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(5, 7, generator=generator).to(dtype)
    b = a.clone()
    b[:, ::2] += torch.randn(5, 4, generator=generator).to(dtype) / 8
    found = compare(a, b)
    for row in range(5):
        wanted = exact(a[row].tolist(), b[row].tolist())
        got = found.row(row)
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, rel=1e-13), name
        assert got["angle_rad"] == pytest.approx(math.acos(wanted["cosine"]), rel=1e-9)
        assert got["changed"] == 4


def test_a_tiny_angle_is_not_rounded_away():
    """cos(1e-9) is 1 in float64; the angle is still there."""
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 1e-9]]).double()
    found = compare(a, b).row(0)
    assert found["cosine"] == 1.0
    assert found["angle_rad"] == pytest.approx(1e-9, rel=1e-12)


def test_opposite_rows_are_half_a_turn_apart():
    a = torch.tensor([[0.3, -0.7, 0.1]]).double()
    assert compare(a, -3 * a).row(0)["angle_rad"] == pytest.approx(math.pi, rel=1e-7)
    assert compare(a, -3 * a).row(0)["cosine"] == pytest.approx(-1)


def test_bits_are_counted_and_a_threshold_counts_sizes():
    a, b = torch.tensor([[0.0, 1.0, 1.0, 1.0]]), torch.tensor([[-0.0, 1.0, 1.25, 1.5]])
    assert compare(a, b).row(0)["changed"] == 3  # the sign of zero is a bit
    assert compare(a, b, tau=0.25).row(0)["changed"] == 1
    assert compare(a, b, tau=0.2).row(0)["percent_changed"] == 50
    assert compare(a, b).row(0)["max_ulp"] == 2**22


def test_zero_rows_have_no_direction():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    both = compare(zero, zero).row(0)
    assert (both["changed"], both["l2"]) == (0, 0)
    assert all(math.isnan(both[name]) for name in ("relative_l2", "cosine", "angle_rad"))
    grown = compare(zero, one).row(0)
    assert grown["relative_l2"] == math.inf
    assert math.isnan(grown["angle_rad"])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="rows"):
        compare(torch.zeros(3), torch.zeros(3))
    with pytest.raises(UsageError, match=r"shape \(2, 0\); give rows"):
        compare(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(UsageError, match="dtype"):
        compare(torch.zeros(1, 3), torch.zeros(1, 3).double())
    with pytest.raises(UsageError, match="tau"):
        compare(torch.zeros(1, 3), torch.zeros(1, 3), tau=-1.0)
    with pytest.raises(InvalidError, match="NaN"):
        compare(torch.zeros(1, 3), torch.full((1, 3), math.nan))


def test_opposite_rows_are_half_a_turn_apart_however_their_lengths_round():
    """Of some of these the difference of the unit vectors is longer than 2, which is no sine of half an angle."""
    a = torch.randn(500, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    unit = a / torch.linalg.vector_norm(a, dim=1, keepdim=True)
    assert (torch.linalg.vector_norm(2 * unit, dim=1) > 2).any()
    assert compare(a, -a).angle_rad.tolist() == pytest.approx([math.pi] * 500, abs=1e-7)


def test_a_row_of_one_element_changes_wholly_or_not_at_all():
    assert compare(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.0]])).percent_changed.tolist() == [100, 0]
