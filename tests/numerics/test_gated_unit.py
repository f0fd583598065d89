"""The closed form of the nearest linear map: against quadrature, regression, and gates whose answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from stabilitykit.numerics.gated_unit import nearest_linear, nearest_linear_ungated


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0, 25.0])
@pytest.mark.parametrize("activation", [torch.nn.functional.silu, torch.nn.functional.gelu])
def test_one_unit_is_what_adaptive_quadrature_gives(size, activation):
    """E[y x] for y = act(g.x)(u.x), integrated along g; the rest of u keeps E[act]."""
    gate, up = size * torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([[1.0, -2.0]], dtype=torch.float64)

    def expected(power):
        def value(t):
            return t**power * float(activation(torch.tensor(size * t, dtype=torch.float64)))

        def weighed(t):
            return value(t) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

        return quad(weighed, -9, 0, epsabs=1e-13, limit=200)[0] + quad(weighed, 0, 9, epsabs=1e-13, limit=200)[0]

    along = float(gate[0] @ up[0]) / size
    direction = gate[0] / size
    oracle = along * expected(2) * direction + expected(0) * (up[0] - along * direction)
    assert torch.allclose(nearest_linear(gate, up, activation)[0], oracle, rtol=1e-9, atol=1e-12)


def test_a_regression_on_samples_tends_to_it():
    """Least squares of 200,000 samples, as the authors fit it: within what sampling leaves."""
    gate, up, x = drawn(6, 5, seed=1), drawn(6, 5, seed=2), drawn(200_000, 5, seed=3)
    y = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
    fitted = torch.linalg.lstsq(x, y).solution.T
    exact = nearest_linear(gate, up, torch.nn.functional.silu)
    noise = (y - x @ exact.T).std(dim=0) / math.sqrt(len(x))
    assert ((fitted - exact).abs() <= 6 * noise[:, None]).all()
    assert (fitted - exact).norm() > 1e-4  # it is the limit and no copy of the samples


def test_gates_with_a_known_answer():
    """A constant gate gives up itself; a gate of length zero gives act(0) up; a linear gate has no linear part."""
    gate, up = drawn(4, 3, seed=4), drawn(4, 3, seed=5)
    assert torch.allclose(nearest_linear(gate, up, torch.ones_like), up, rtol=1e-12)
    assert torch.allclose(nearest_linear(0 * gate, up, lambda a: a + 0.25), 0.25 * up, rtol=1e-12)
    assert nearest_linear(gate, up, lambda a: a).abs().max() < 1e-12


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.7])
@pytest.mark.parametrize("activation", [torch.nn.functional.relu, torch.nn.functional.gelu])
def test_a_unit_without_a_gate_is_what_quadrature_gives(shift, activation):
    """E[y x] for y = act(w.x + b), which lies along w."""
    rows = torch.tensor([[1.2, -1.6]], dtype=torch.float64)

    def weighed(t):
        value = float(activation(torch.tensor(2 * t + shift, dtype=torch.float64)))
        return t * value * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

    kink = -shift / 2
    expected = quad(weighed, -9, kink, epsabs=1e-13)[0] + quad(weighed, kink, 9, epsabs=1e-13)[0]
    found = nearest_linear_ungated(rows, torch.tensor([shift]), activation)[0]
    assert torch.allclose(found, expected * rows[0] / 2, rtol=1e-3 if activation is torch.nn.functional.relu else 1e-9)


def test_a_unit_that_reads_nothing_has_no_map():
    nothing = nearest_linear_ungated(torch.zeros(1, 3), torch.ones(1), torch.nn.functional.gelu)
    assert torch.equal(nothing, torch.zeros(1, 3, dtype=torch.float64))
    identity = nearest_linear_ungated(drawn(2, 3), torch.tensor([5.0, -1.0]), lambda a: a)
    assert torch.allclose(identity, drawn(2, 3), rtol=1e-12)


def test_a_unit_that_reads_nothing_has_no_map_however_large_its_shift():
    """The rule's rounding of so large a constant, over a length of nothing, is infinite and would leave nan."""
    shifts = torch.tensor([1e30, 3e38])
    nothing = nearest_linear_ungated(torch.zeros(2, 3), shifts, torch.nn.functional.gelu)
    assert torch.equal(nothing, torch.zeros(2, 3, dtype=torch.float64))
