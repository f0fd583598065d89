"""Components needed, against a softmax of each partial state taken anew, and on states whose counts are planted."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm

from stabilitykit.numerics.components import beyond_normal, curve, entropy, needed


def drawn(V=70, d=40, seed=0):
    random = np.random.Generator(np.random.PCG64(seed))
    return (torch.from_numpy(random.standard_normal(shape)) for shape in ((V, d), (V,), (d,)))


def anew(W, bias, h, token):
    """Each partial state put together and read by itself, plain and rescaled."""
    W, bias, h = (one.double().numpy() for one in (W, bias, h))
    order = sorted(range(len(h)), key=lambda j: (-abs(h[j]), j))
    plain, rescaled = [softmax(bias)[token]], [softmax(bias)[token]]
    for k in range(1, len(h) + 1):
        part = np.zeros_like(h)
        part[order[:k]] = h[order[:k]]
        plain.append(softmax(W @ part + bias)[token])
        rescaled.append(softmax(W @ part * (np.linalg.norm(h) / np.linalg.norm(part)) + bias)[token])
    return np.array(plain), np.array(rescaled)


def informative(m, d=24, V=500):
    """A head in which m components speak for token 7, equally, and nothing else speaks at all."""
    W = torch.zeros(V, d, dtype=torch.float64)
    W[7, :m] = math.log(V) / m
    return W, torch.zeros(V), torch.linspace(1.0, 1.0 - 1e-6, d, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curve_is_that_of_each_partial_state(dtype):
    W, bias, h = (one.to(dtype) for one in drawn(d=75))
    found = curve(W, bias, h, 5)
    plain, rescaled = anew(W, bias, h, 5)
    assert found.plain == pytest.approx(plain, rel=1e-12)
    assert found.rescaled == pytest.approx(rescaled, rel=1e-12)
    assert found.plain[-1] == pytest.approx(found.rescaled[-1], rel=1e-14)


def test_without_components_all_tokens_are_alike():
    W, _, h = drawn()
    found = curve(W, torch.zeros(len(W)), h, 3)
    assert found.plain[0] == found.rescaled[0] == pytest.approx(1 / len(W), rel=1e-15)


def test_equal_components_are_taken_in_order():
    W, bias, _ = drawn(d=6)
    found = curve(W, bias, torch.tensor([1.0, -2.0, 2.0, 1.0, -1.0, 2.0]), 0)
    assert found.order.tolist() == [1, 2, 5, 0, 3, 4]
    W, bias, _ = drawn(d=2000)
    assert curve(W, bias, torch.arange(2000) % 2.0 + 1, 0).order.tolist() == [*range(1, 2000, 2), *range(0, 2000, 2)]


@pytest.mark.parametrize("m", [1, 2, 5, 17, 24])
def test_planted_components_are_all_needed_and_no_more(m):
    """With one of them it is the grandmother cell; with all of them, everything."""
    W, bias, h = informative(m)
    found = curve(W, bias, h, 7)
    counted = needed(found.plain, 0.99)
    assert (counted.first, counted.stay) == (m, m)
    assert needed(found.plain, 1e-3).first == 1


def test_a_curve_that_falls_again_is_left_for_good_later():
    """A component that speaks against the token, smaller than those for it."""
    W = torch.zeros(50, 4, dtype=torch.float64)
    W[7] = torch.tensor([8.0, -9.0, 6.0, 0.0])
    counted = needed(curve(W, torch.zeros(50), torch.tensor([4.0, 3.0, 2.5, 1.0]), 7).plain, 0.9)
    assert (counted.first, counted.stay) == (1, 3)


@pytest.mark.parametrize(
    ("values", "first", "stay", "margin"),
    [
        ([0.0, 0.5, 0.95, 0.4, 0.92, 1.0], 2, 4, 0.02),
        ([0.0, 1.0, 1.0], 1, 1, 0.1),
        ([0.9, 0.2, 1.0], 2, 2, 0.1),
        ([0.5, 0.9, 0.1, 1.0], 1, 3, 0.0),
    ],
)
def test_counts_of_a_curve_that_is_written_down(values, first, stay, margin):
    """The state without components is none of them, and a probability on the line is enough."""
    counted = needed(np.array(values), 0.9)
    assert (counted.first, counted.stay) == (first, stay)
    assert counted.margin == pytest.approx(margin, abs=1e-15)


def test_a_change_below_the_margin_moves_no_count():
    W, bias, h = drawn(seed=4)
    values = curve(W, bias, h, int((W @ h + bias).argmax())).plain
    counted = needed(values, 0.9)
    for sign in (-1, 1):
        moved = np.append(values[:-1] + sign * counted.margin * 0.99, values[-1])
        again = needed(moved, 0.9)
        assert (again.first, again.stay) == (counted.first, counted.stay)
    nearest = 1 + int(np.abs(values[1:] - 0.9 * values[-1]).argmin())
    moved = values.copy()
    moved[nearest] += 1.01 * (0.9 * values[-1] - values[nearest])
    assert (moved[nearest] >= 0.9 * values[-1]) != (values[nearest] >= 0.9 * values[-1])


def test_permuted_components_change_nothing():
    W, bias, h = drawn()
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).permutation(len(h)))
    ours, theirs = curve(W, bias, h, 2), curve(W[:, order], bias, h[order], 2)
    assert np.array_equal(ours.plain, theirs.plain)
    assert np.array_equal(ours.rescaled, theirs.rescaled)


@pytest.mark.parametrize("scale", [2.0**-20, -8.0])
def test_a_scale_that_moves_between_head_and_state_changes_nothing(scale):
    W, bias, h = drawn()
    ours, theirs = curve(W, bias, h, 2), curve(W / scale, bias, h * scale, 2)
    assert np.array_equal(ours.plain, theirs.plain)
    assert np.array_equal(ours.rescaled, theirs.rescaled)


def test_a_constant_on_all_logits_changes_nothing_however_large():
    W, bias, h = drawn()
    ours = curve(W, bias, h, 2).plain
    assert curve(W, bias + 1e4, h, 2).plain == pytest.approx(ours, rel=1e-9)
    assert curve(W, bias - 1e4, h, 2).plain == pytest.approx(ours, rel=1e-9)


def test_a_state_of_zeros_says_nothing_and_needs_one():
    W, bias, h = drawn()
    found = curve(W, bias, h * 0, 2)
    assert np.isfinite(found.rescaled).all()
    assert (needed(found.plain, 0.9).first, needed(found.plain, 0.9).stay) == (1, 1)


def test_numbers_beyond_the_normal_bound_are_counted():
    random = np.random.Generator(np.random.PCG64(2))
    x = random.standard_normal(1000)
    x[[3, 500]] = 9.0, -9.0
    bound = norm.isf(0.05 / 2000)
    assert beyond_normal(x) == int((np.abs((x - x.mean()) / x.std(ddof=1)) > bound).sum()) == 2
    assert beyond_normal(random.standard_normal(1000)) == 0
    assert beyond_normal(np.ones(5)) == 0


def test_the_bound_is_two_sided_and_grows_with_the_number():
    """n - 1 alike numbers and one apart: their z is (n - 1) / sqrt(n), against the bound of n numbers."""
    for n in range(3, 40):
        x = np.zeros(n)
        x[0] = 1.0
        assert beyond_normal(x) == ((n - 1) / math.sqrt(n) > norm.isf(0.05 / (2 * n)))


def test_entropy_of_even_certain_and_drawn_logits():
    assert float(entropy(torch.full((64,), 1e4))) == pytest.approx(math.log(64), rel=1e-15)
    assert float(entropy(torch.tensor([1e4, 0.0, 0.0]))) == 0.0
    z = torch.from_numpy(np.random.Generator(np.random.PCG64(3)).standard_normal((3, 50)))
    p = softmax(z.numpy(), axis=1)
    assert entropy(z).numpy() == pytest.approx(-(p * np.log(p)).sum(axis=1), rel=1e-13)
