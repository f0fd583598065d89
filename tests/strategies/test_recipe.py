"""Recipes: the vectors they mean, exactly; what is refused; and that a repr is a call."""

import hashlib
import math
from fractions import Fraction

import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.numerics.digest import digest
from stabilitykit.strategies import Direction, gaussians

BASIS = torch.eye(4, dtype=torch.float64)[[2, 0]]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (Direction("axis", (1, -1), 4), [0, -1, 0, 0]),
        (Direction("sparse", ((0, 3), (3, -4)), 4), [0.6, 0, 0, -0.8]),
        (Direction("sign", (0,), 4), [0.5, 0.5, 0.5, 0.5]),
        (Direction("sign", (1,), 4), [0.5, -0.5, 0.5, -0.5]),
        (Direction("sign", (3,), 4), [0.5, -0.5, -0.5, 0.5]),
        (Direction("subspace", (1,), 4), [0, 0, 1, 0]),
        (Direction("subspace", (3, -4), 4), [-0.8, 0, 0.6, 0]),
    ],
)
def test_known_vectors(direction, expected):
    assert direction.expand(BASIS).tolist() == expected
    assert direction.on(BASIS).expand().tolist() == expected


def test_sign_rows_are_orthogonal():
    rows = torch.stack([Direction("sign", (row,), 64).expand() for row in range(64)])
    assert torch.equal(rows @ rows.T, torch.eye(64, dtype=torch.float64))


@pytest.mark.parametrize("dim", [1, 2, 576, 4096])
@pytest.mark.parametrize("kind", ["sign", "gaussian"])
def test_unit_length_in_exact_arithmetic(kind, dim):
    values = Direction(kind, (12345,), dim).expand().tolist()
    assert abs(sum(Fraction(value) ** 2 for value in values) - 1) < Fraction(dim + 4, 2**52)


def test_gaussian_follows_its_definition_with_integers_alone():
    """An independent expansion: the stream read byte by byte, the norm by an integer square root."""
    stream = hashlib.shake_256(b"stabilitykit gaussian 7").digest(5 * 24)
    words = [stream[2 * i] + 256 * stream[2 * i + 1] for i in range(60)]
    sums = [2 * sum(words[12 * j : 12 * j + 12]) - 12 * 65535 for j in range(5)]
    square = sum(value * value for value in sums)
    norm = math.sqrt(square)
    assert Fraction(norm) ** 2 == pytest.approx(square, rel=1e-15)
    assert Direction("gaussian", (7,), 5).expand().tolist() == [value / norm for value in sums]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (Direction("gaussian", (7,), 576), "95769687f4dcd306"),
        (Direction("sign", (5,), 576), "1b58ea7706e48625"),
        (Direction("sparse", ((1, 3), (5, -7), (9, 2)), 576), "288124f7ad37b2c8"),
        (Direction("subspace", (3, -5), 8), "706bfdefb0d6aec0"),
    ],
)
def test_bits_are_the_same_on_every_machine(direction, expected):
    basis = torch.stack([Direction("gaussian", (seed,), 8).expand() for seed in (1, 2)])
    assert digest(direction.expand(basis)).startswith(expected)


def test_gaussian_moments():
    draws = torch.cat([direction.expand() * math.sqrt(576) for direction in gaussians(50, 576)])
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1) < 0.01
    assert abs((draws**4).mean() - (3 - 1.2 / 12)) < 0.1


def test_gaussians_are_distinct_and_begin_alike():
    assert gaussians(3, 8, seed=1) == gaussians(5, 8, seed=1)[:3]
    everything = [d for seed in range(3) for d in gaussians(4, 8, seed)]
    assert len({digest(direction.expand()) for direction in everything}) == 12


def test_a_repr_is_a_call():
    direction = Direction("sparse", ((1, 3), (5, -7)), 576)
    assert eval(repr(direction)) == direction
    assert repr(direction.on(BASIS)) == repr(direction)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("gauss", (1,), 4), "direction kind 'gauss' is none of axis, subspace, sparse, sign, gaussian"),
        (("axis", (4, 1), 4), "names a coordinate outside 0..3"),
        (("axis", (-1, 1), 4), "names a coordinate outside 0..3"),
        (("axis", (1, 0), 4), "is the zero direction"),
        (("sparse", (), 4), "is the zero direction"),
        (("subspace", (0, 0), 4), "is the zero direction"),
        (("sign", (0,), 0), "0 dimensions"),
        (("sparse", ((0, 10**400),), 4), "has a coefficient beyond 9007199254740992"),
    ],
)
def test_what_is_no_direction_is_refused(arguments, sentence):
    with pytest.raises(UsageError) as caught:
        Direction(*arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("basis", [None, torch.eye(3), torch.eye(4)[:1]])
def test_a_subspace_needs_its_basis(basis):
    with pytest.raises(UsageError, match=r"needs a basis of at least \(2, 4\)"):
        Direction("subspace", (1, 1), 4).expand(basis)


def test_opposite_coefficients_of_equal_rows_are_zero():
    with pytest.raises(UsageError, match="zero direction"):
        Direction("subspace", (1, -1), 4).expand(torch.ones(2, 4))
