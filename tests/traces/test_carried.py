"""Errors put back into a float64 twin: the way there, and what each does to a number at the end."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.precision import true_float64
from stabilitykit.traces.account import shares_of_error
from stabilitykit.traces.carried import carried
from stabilitykit.traces.rounding_errors import rounding_errors

APPLY = torch.autograd.Function.apply
X = torch.tensor([0.1, -1.7, 1e-3, 3.3])
W = torch.linspace(-0.9, 1.1, 16).reshape(4, 4)


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.weight = nn.Parameter(W.clone(), requires_grad=False)

    def forward(self, x):
        return self.body(x, self.weight)


class Square(torch.autograd.Function):
    """x -> 0.3 x x, whose own backward is planted wrong."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * 0.3

    @staticmethod
    def backward(ctx, g):
        return 7 * g


class SplitSquare(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x * 0.3

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 7 * g


def in_place(x, w):
    y = w @ x
    y += 0.3
    y.mul_(y)
    return torch.tanh(y)


def assigned(x, w):
    y = torch.zeros_like(x)
    y[:2] = (w @ x)[:2] * 0.7
    y[2:] += (w @ x)[2:] * 0.3
    return y * y


def constants(x, w):
    with torch.no_grad():
        table = torch.cos(torch.arange(4) * 0.1)
    return (w @ x) * table


def flagged(x, w):
    y = w @ x
    nn.functional.silu(y, inplace=True)
    return y * y


def out_argument(x, w):
    y = torch.zeros_like(x)
    torch.mul(w @ x, 0.3, out=y)
    return y * y


def several(x, w):
    mean, variance = torch.std_mean(w @ x.expand(3, 4).T, dim=0)
    return torch.cat([mean * variance, x[:1] * 0.3])


BODIES = {
    "smooth": lambda x, w: torch.tanh(w @ (x * 0.3)),
    "cast": lambda x, w: (w @ x).to(torch.bfloat16).to(torch.float32) * 0.3,
    "in place": in_place,
    "assigned": assigned,
    "in place by a flag": flagged,
    "out=": out_argument,
    "constants": constants,
    "detached": lambda x, w: (w @ x).detach() * 0.3,
    "own function": lambda x, w: Square.apply(w @ x),
    "own function, split": lambda x, w: SplitSquare.apply(w @ x),
    "several": several,
}


def number(y):
    return (y.double() * torch.linspace(1, 2, len(y), dtype=torch.float64)).sum()


def set_up(body, x=X):
    model = Body(body)
    twin = copy.deepcopy(model).double()
    errors, answer = rounding_errors(model, twin, lambda: model(x.clone()))

    def at(share, **how):
        with true_float64():
            return carried(twin, lambda: twin(x.clone().double()), number, errors, share, **how)

    with torch.no_grad(), true_float64():
        true = number(twin(x.double()))
    return errors, float(number(answer)), float(true), at


def ways(found):
    return {str(place): effect.contribution for place, effect in found.effects.items()}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_all_errors_make_the_native_number_none_the_true_one_and_their_effects_the_difference(body):
    errors, native, true, at = set_up(body)
    assert errors.of
    assert abs(at(1.0).value - native) <= 1e-14 * abs(native)
    assert at(1.0, effects=False).effects == {}
    assert at(1.0, effects=False).value == at(1.0).value
    assert abs(at(0.0).value - true) <= 1e-15 * abs(true)
    nodes, weights = shares_of_error(3)
    total = sum(weight * sum(ways(at(node)).values()) for node, weight in zip(nodes, weights, strict=True))
    assert native != true
    assert total == pytest.approx(native - true, rel=1e-6, abs=0)


def test_each_effect_is_the_gradient_times_the_error():
    """m = c tanh(W (0.3 x)): gradients of its three operations written out, at half of the errors."""
    errors, _, _, at = set_up(BODIES["smooth"])
    first, second, third = (error.parts[0] for error in errors.of.values())
    x, w, c = X.double(), W.double(), torch.linspace(1, 2, 4, dtype=torch.float64)
    scaled = x * 0.3 + first / 2
    inner = w @ scaled + second / 2
    slope = 1 - torch.tanh(inner) ** 2
    products = [(w.T @ (slope * c)) * first, slope * c * second, c * third]
    found = at(0.5)
    assert list(ways(found)) == ["/mul#0", "/matmul#0", "/tanh#0"]
    for effect, product in zip(found.effects.values(), products, strict=True):
        assert effect.contribution == pytest.approx(float(product.sum()), rel=1e-12, abs=0)
        assert effect.absolute == pytest.approx(float(product.abs().sum()), rel=1e-12, abs=0)
        assert effect.squares == pytest.approx(float((product**2).sum()), rel=1e-12, abs=0)
        assert effect.absolute > abs(effect.contribution) > 0


def test_more_points_follow_a_bent_way_more_closely():
    """In bfloat16 the gradients turn on the way: one product in the middle leaves more over than two."""
    _, native, true, at = set_up(lambda x, w: torch.exp((w @ x).to(torch.bfloat16).to(torch.float32)))
    left = []
    for points in (1, 2):
        nodes, weights = shares_of_error(points)
        left.append(native - true - float(np.dot(weights, [sum(ways(at(node)).values()) for node in nodes])))
    assert abs(left[0]) > 1e-9
    assert abs(left[1]) < 1e-4 * abs(left[0])


def test_a_gradient_that_is_cut_off_leaves_its_share_over():
    """The planted defect: what goes through `.data` has no gradient, so its errors reach the number unaccounted for."""
    _, native, true, at = set_up(lambda x, w: (w @ x).data + x * 0.3)
    found = ways(at(0.5))
    assert found["/matmul#0"] == 0
    assert abs(sum(found.values()) - (native - true)) > 0.1 * abs(native - true)


def longer(x, w):
    return (torch.cat([x, x]) if x.dtype == torch.float64 else x) * 0.3


def narrow(x, w):
    return torch.from_numpy(x.numpy().astype("float32")) * 0.3


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        (longer, r"mul#0 gives float64 \[8\] in the float64 twin and \[4\] natively"),
        (narrow, r"mul#0 gives float32 \[4\] in the float64 twin"),
    ],
)
def test_a_twin_that_does_something_else_is_refused(body, fragment):
    """Another branch for float64, and a float32 hidden where no torch function sees it."""
    model = Body(body)
    twin = copy.deepcopy(model).double()
    errors, _ = rounding_errors(model, twin, lambda: model(X.clone()))
    with true_float64(), pytest.raises(UnsupportedError, match=fragment):
        carried(twin, lambda: twin(X.clone().double()), number, errors, 0.5)
    assert torch.autograd.Function.apply == APPLY


def test_own_functions_are_as_they_were_afterwards():
    _, _, _, at = set_up(BODIES["own function"])
    at(0.5)
    assert torch.autograd.Function.apply == APPLY
    x = torch.ones(3, requires_grad=True)
    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [7, 7, 7]
