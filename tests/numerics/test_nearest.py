"""Nearest rows against brute force over all of them, across blocks, with equal rows and rows of length 0."""

import numpy as np
import pytest
import torch

from stabilitykit.numerics import nearest as module
from stabilitykit.numerics.nearest import nearest, row_cosines


def drawn(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def brute(W, x):
    """Every cosine by itself, in a loop; the ids from the nearest on, equal ones by id."""
    found = []
    for row in W.double().numpy():
        lengths = np.sqrt((row * row).sum()) * np.sqrt((x * x).sum())
        found.append(float((row * x).sum() / lengths) if lengths else -np.inf)
    return sorted(range(len(found)), key=lambda one: (-found[one], one)), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [7, 8192])
def test_the_nearest_rows_are_those_of_brute_force(dtype, block, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", block)
    W, X = torch.from_numpy(drawn(60, 16)).to(dtype), drawn(4, 16, seed=1)
    found = nearest(W, X, 10)
    for x, ids, cosines in zip(X, found.ids, found.cosines, strict=True):
        order, every = brute(W, x)
        assert ids.tolist() == order[:10]
        assert cosines == pytest.approx([every[one] for one in order[:10]], rel=1e-13)


def test_rows_closer_than_float32_can_tell_are_in_order():
    """Two rows whose cosines differ by 1e-12: in float32 they are equal, and the lower id would come first."""
    x = np.array([[1.0, 0.0]])
    W = torch.tensor([[1.0, 2e-6], [1.0, 1e-6], [0.0, 1.0]], dtype=torch.float64)
    assert nearest(W, x, 2).ids.tolist() == [[1, 0]]


def test_more_close_rows_than_float32_can_tell():
    """Forty of them, ever nearer: what picks candidates in float32 finds the first ones."""
    W = torch.tensor([[1.0, (40 - k) * 1e-6] for k in range(40)], dtype=torch.float64)
    assert nearest(W, np.array([[1.0, 0.0]]), 3).ids.tolist() == [[39, 38, 37]]


@pytest.mark.parametrize("rows", [7, 101])
def test_equal_rows_come_by_id_whatever_the_product_makes_of_them(rows):
    """A product of matrices rounds the last of these rows differently, because of where it stands."""
    W = torch.from_numpy(drawn(577)).repeat(rows, 1)
    found = nearest(W, drawn(3, 577, seed=5), 2)
    assert found.ids.tolist() == [[0, 1]] * 3
    assert (found.cosines[:, 0] == found.cosines[:, 1]).all()


def test_equal_rows_come_by_id(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 3)
    W = torch.from_numpy(drawn(12, 5))
    W[[2, 7, 11]] = torch.from_numpy(drawn(5, seed=3))
    found = nearest(W, W[[7]].numpy(), 3)
    assert found.ids.tolist() == [[2, 7, 11]]
    assert found.cosines[0] == pytest.approx(1.0)


def test_a_row_without_length_comes_last():
    W = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    found = nearest(W, np.array([[1.0, 0.0]]), 3)
    assert found.ids.tolist() == [[2, 1, 0]]
    assert np.isnan(found.cosines[0, 2])
    assert nearest(W[:2], np.array([[1.0, 0.0]]), 1).ids.tolist() == [[1]], "also behind one that points away"


def test_asking_for_more_rows_than_there_are_gives_all():
    assert nearest(torch.eye(3), np.ones((1, 3)), 9).ids.tolist() == [[0, 1, 2]]


def test_cosines_of_chosen_rows():
    assert row_cosines(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), [1, 0], np.array([2.0, 0.0])).tolist() == [1.0, 0.6]
