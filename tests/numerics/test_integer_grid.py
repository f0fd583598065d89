"""Rounding to a grid of small integers, against the nearest of the grid written out."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.numerics.integer_grid import on_grid, steps


def test_eight_bits_are_the_nearest_of_the_grid():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.012, 1.274, 2.54], dtype=torch.float64)
    grid = torch.arange(-127, 128, dtype=torch.float64) * 0.02
    nearest = grid[(x[:, None] - grid).abs().argmin(dim=1)]
    assert torch.allclose(on_grid(x), nearest, atol=1e-12)
    assert torch.equal(on_grid(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_a_scale_of_its_own(bits, dtype):
    X = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((3, 40))).to(dtype)
    X[0] *= 1000
    X[2] = 0
    rows = on_grid(X, bits, "row")
    assert torch.equal(rows[1], on_grid(X[1], bits))
    assert torch.equal(rows[2], X[2])
    assert len(rows[1].unique()) <= 2**bits - 1 == 2 * steps(bits) + 1
    assert not on_grid(X, bits)[1].any() or bits == 8  # one scale a tensor leaves the small row nothing, or little
    half = X[1].abs().max() / steps(bits) / 2
    assert (rows[1] - X[1]).abs().max() <= half * (1 + 1e-6)
    assert (rows[1] - X[1]).abs().max() > half / 2


def test_sixteen_bit_floats_keep_their_dtype():
    x = torch.tensor([1.0, 0.3, -0.7], dtype=torch.bfloat16)
    assert on_grid(x).dtype == torch.bfloat16
    assert torch.allclose(on_grid(x).double(), on_grid(x.double()), rtol=2**-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_has_no_largest_number_has_no_grid(bad):
    """A nan is larger than nothing, and its neighbours must not go to a grid of some other size."""
    X = torch.tensor([[0.3, bad, 0.7], [0.3, 0.0, 0.7]])
    assert on_grid(X).isnan().all()
    rows = on_grid(X, per="row")
    assert rows[0].isnan().all()
    assert torch.equal(rows[1], on_grid(X[1]))


def test_a_grid_of_float64_has_the_digits_of_float64():
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal(200))
    step = float(x.abs().max()) / 127
    assert on_grid(x).numpy() == pytest.approx(np.round(x.numpy() / step) * step, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_floats_are_rounded_to_their_grid_in_float32(dtype):
    """A step that is itself rounded to sixteen bits is off a hundred times as much after a hundred steps."""
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(2)).standard_normal(2000)).to(dtype)
    assert torch.equal(on_grid(x), on_grid(x.float()).to(dtype))


@pytest.mark.parametrize("shape", [(120,), (2, 3, 20)])
def test_a_row_is_that_of_the_last_axis_of_any_shape(shape):
    X = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal(shape))
    rows = X.reshape(-1, shape[-1])
    assert torch.equal(on_grid(X, per="row").reshape(rows.shape), torch.stack([on_grid(row) for row in rows]))
