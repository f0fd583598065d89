"""Angles between lines, and the mean of many."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.numerics.acute import acute_angle, coherence


@pytest.mark.parametrize("degrees", [1e-7, 1e-3, 30.0, 89.9, 90.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_angle_comes_back_whatever_the_sign_and_length(degrees, sign):
    turned = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0], dtype=torch.float64)
    measured = acute_angle(sign * 7 * turned, torch.tensor([3.0, 0.0, 0.0]))
    assert measured == pytest.approx(degrees, rel=1e-8)


def test_no_line_has_no_angle():
    assert math.isnan(acute_angle(torch.zeros(3), torch.ones(3)))


def test_coherence_is_the_mean_over_pairs():
    vectors = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((7, 4)))
    pairs = [acute_angle(vectors[i], vectors[j]) for i in range(7) for j in range(i)]
    assert coherence(vectors) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    assert math.isnan(coherence(vectors[:1]))


def test_parallel_lines_are_no_angle_apart_though_their_cosine_is_rounded():
    """Of some unit vectors the product with themselves is one bit more than 1, which has no arc cosine."""
    vectors = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal((40, 5)))
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    assert (unit.square().sum(dim=1) > 1).any()
    for vector in vectors:
        assert 0 <= coherence(torch.stack([vector, -2 * vector, 4 * vector])) < 1e-5


def test_two_lines_are_as_coherent_as_the_angle_between_them():
    lines = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert coherence(lines) == pytest.approx(45)
