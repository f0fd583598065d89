"""Distances of all pairs against loops in exact fractions, near vectors above all; their spread against big numbers."""

import itertools
import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from operator import mul

import numpy as np
import pytest

from stabilitykit.numerics.pairwise import pairs, spread, square, unit


def drawn(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def exact_root(x):
    with localcontext(Context(prec=60)):
        return (Decimal(x.numerator) / Decimal(x.denominator)).sqrt()


def exact_cosine_distance(a, b):
    x, y = ([Fraction(float(one)) for one in vector] for vector in (a, b))
    product, squares = sum(map(mul, x, y)), sum(map(mul, x, x)) * sum(map(mul, y, y))
    with localcontext(Context(prec=60)):
        return float(1 - Decimal(product.numerator) / Decimal(product.denominator) / exact_root(squares))


def exact_distance(a, b):
    return float(exact_root(sum((Fraction(float(p)) - Fraction(float(q))) ** 2 for p, q in zip(a, b, strict=True))))


def test_every_pair_once_and_none_with_itself():
    X = drawn(5, 7)
    found = pairs(X)
    listed = list(itertools.combinations(range(5), 2))
    assert len(found.cosine) == len(found.euclidean) == len(listed) == 10
    for place, (i, j) in enumerate(listed):
        assert found.euclidean[place] == pytest.approx(exact_distance(X[i], X[j]), rel=1e-14)
        assert found.cosine[place] == pytest.approx(exact_cosine_distance(X[i], X[j]), rel=1e-13)


def test_near_vectors_lose_no_digits():
    """a.a + b.b - 2 a.b has no correct digit here, nor has 1 - a.b."""
    a = drawn(64)
    b = a + 1e-11 * drawn(64, seed=1)
    found = pairs(np.stack([a, b]))
    assert found.euclidean[0] == pytest.approx(exact_distance(a, b), rel=1e-12)
    assert found.cosine[0] == pytest.approx(exact_cosine_distance(a, b), rel=1e-3)
    assert 0 < found.cosine[0] < 1e-20


def test_float32_is_widened_before_anything_is_computed():
    X = drawn(3, 50).astype(np.float32)
    assert pairs(X).euclidean[0] == pytest.approx(exact_distance(X[0], X[1]), rel=1e-14)


def test_a_vector_without_length_has_no_angle():
    found = pairs(np.array([[0.0, 0.0], [3.0, 4.0], [4.0, 3.0]]))
    assert np.isnan(found.cosine[:2]).all()
    assert found.euclidean[0] == 5.0
    assert found.cosine[2] == pytest.approx(1 - 24 / 25)


def test_fewer_than_two_vectors_have_no_pair():
    none = pairs(np.ones((1, 3)))
    assert (none.cosine.size, none.euclidean.size) == (0, 0)
    assert square(np.zeros(0), 1).tolist() == [[0.0]]


def test_a_square_is_symmetric_with_an_empty_diagonal():
    assert square(np.array([1.0, 2.0, 3.0]), 3).tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]
    assert square(np.array([1.5]), 2).tolist() == [[0, 1.5], [1.5, 0]]


def test_unit_rows():
    assert unit(np.array([[3.0, 4.0]])).tolist() == [[0.6, 0.8]]


def test_the_spread_does_not_cancel():
    """Sum and sum of squares, in one pass, would give a variance of 0 or less here."""
    values = 1e9 + np.array([0.0, 1.0, 2.0, 3.0, np.nan, np.inf])
    found = spread(values)
    assert (found["count"], found["mean"], found["median"]) == (4, 1e9 + 1.5, 1e9 + 1.5)
    assert found["sd"] == pytest.approx(math.sqrt(1.25), rel=1e-12)
    assert (found["least"], found["most"]) == (1e9, 1e9 + 3)


def test_nothing_has_no_spread():
    found = spread(np.array([np.nan]))
    assert found["count"] == 0
    assert math.isnan(found["mean"])
