"""Columns of a head against plain numpy and scipy, and a column that sticks out."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from scipy.stats import median_abs_deviation

from stabilitykit.numerics import columns
from stabilitykit.numerics.columns import distances, entropies, gram, principal, robust_z


@pytest.fixture
def matrix(monkeypatch):
    """More rows and columns than are held at a time, neither a multiple of it."""
    monkeypatch.setattr(columns, "_ROWS", 100)
    monkeypatch.setattr(columns, "_COLUMNS", 7)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((330, 25))).float()


def test_products_and_distances(matrix):
    exact = matrix.double().numpy()
    assert gram(matrix) == pytest.approx(exact.T @ exact, rel=1e-12, abs=1e-12)
    assert distances(gram(matrix)) == pytest.approx(cdist(exact.T, exact.T), rel=1e-10, abs=1e-5)


def test_equal_columns_are_no_distance_apart(matrix):
    matrix[:, 3] = matrix[:, 4]
    assert distances(gram(matrix))[3, 4] < 1e-5
    rounded = np.array([[1.0, 1.0 + 2**-50], [1.0 + 2**-50, 1.0]])
    assert not distances(rounded).any()


def test_entropy_of_each_column(matrix):
    exact = softmax(matrix.double().numpy() * 5, axis=0)
    assert entropies(matrix * 5) == pytest.approx(scipy_entropy(exact, axis=0), rel=1e-6)


def test_robust_deviations(matrix):
    x = np.append(matrix.double().numpy()[:, 0], 1e6)
    assert robust_z(x) == pytest.approx((x - np.median(x)) / (1.4826 * median_abs_deviation(x)), rel=1e-12)
    assert not robust_z(np.ones(4)).any()


def test_principal_axes_are_the_singular_vectors_of_the_standardised_table(matrix):
    X = matrix.double().numpy()
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    u, s, vt = np.linalg.svd(Z, full_matrices=False)
    found = principal(X, 3)
    signs = np.sign([row[np.abs(row).argmax()] for row in vt[:3]])
    assert found.scores == pytest.approx(u[:, :3] * s[:3] * signs, rel=1e-8, abs=1e-9)
    assert found.shares == pytest.approx((s**2 / (s**2).sum())[:3], rel=1e-10)


def test_a_constant_column_has_no_part(matrix):
    X = matrix.double().numpy()
    constant = np.concatenate([X, np.full((len(X), 1), 3.0)], axis=1)
    assert principal(constant).scores == pytest.approx(principal(X).scores, abs=1e-9)
