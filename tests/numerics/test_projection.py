"""The plane of a set of vectors: against the eigenvectors of their covariance, and what a picture must not do."""

import numpy as np
import pytest

from stabilitykit.numerics.projection import plane_of


def drawn(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def test_scores_are_those_of_the_covariance():
    X = drawn(9, 5)
    found = plane_of(X)
    centred = X - X.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    for axis in range(2):
        v = vectors[:, -1 - axis]
        v = v * np.sign(v[np.abs(v).argmax()])
        assert found.scores[:, axis] == pytest.approx(centred @ v, abs=1e-12)
        assert found.shares[axis] == pytest.approx(values[-1 - axis] / values.sum())


def test_points_of_a_plane_keep_their_distances():
    plane = drawn(6, 2) @ np.linalg.qr(drawn(20, 2, seed=1))[0].T + 7.0
    found = plane_of(plane)
    assert found.shares.sum() == pytest.approx(1)
    for i in range(6):
        for j in range(6):
            apart = np.linalg.norm(plane[i] - plane[j])
            assert np.linalg.norm(found.scores[i] - found.scores[j]) == pytest.approx(apart, abs=1e-12)


def test_the_sign_does_not_depend_on_that_of_the_points():
    """The axis of -X is that of X, so the points are mirrored and no more."""
    X = drawn(7, 4)
    assert plane_of(-X).scores == pytest.approx(-plane_of(X).scores, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_axes_beyond_the_rank_are_empty(rows):
    found = plane_of(drawn(rows, 4))
    assert found.scores.shape == (rows, 2)
    assert found.shares.shape == (2,)
    assert found.scores[:, 1].tolist() == [0.0] * rows
    assert found.shares[0] == pytest.approx(float(rows > 1))


def test_large_coordinates_are_centred_first():
    X = drawn(5, 3)
    assert plane_of(X + 1e6).scores == pytest.approx(plane_of(X).scores, abs=1e-8)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_vectors_of_one_coordinate_have_as_many_axes_as_were_asked_for(axes):
    """All but the first of them empty."""
    X = np.array([[1.0], [4.0], [-2.0], [5.0]])
    found = plane_of(X, axes)
    assert found.scores.shape == (4, axes)
    assert found.scores[:, 0] == pytest.approx([-1, 2, -4, 3], rel=1e-12)
    assert not found.scores[:, 1:].any()
    assert found.shares.tolist() == [1.0] + [0.0] * (axes - 1)


@pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e30])
def test_a_picture_in_another_unit_is_the_same_picture(scale):
    X = drawn(7, 4)
    small, found = plane_of(scale * X), plane_of(X)
    assert small.scores / scale == pytest.approx(found.scores, rel=1e-12, abs=1e-12)
    assert small.shares == pytest.approx(found.shares, rel=1e-12)
