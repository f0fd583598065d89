"""What one operation rounds off, against exact fractions."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.precision import double_of
from stabilitykit.traces.rounding_errors import rounding_errors

X = [0.1, -1.7, 1e-3, 3.3]
T = torch.tensor(X)


class Body(nn.Module):
    """Runs a function of x."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


def errors_of(body, x=T):
    model = Body(body)
    x = x.clone()
    return rounding_errors(model, copy.deepcopy(model).double(), lambda: model(x))


def fractions(tensor):
    return [Fraction(float(value)) for value in tensor.flatten().tolist()]


def one(body, x=T):
    """Return the only error of a body with one operation that rounds, and the place as text."""
    errors, _ = errors_of(body, x)
    [(place, error)] = errors.of.items()
    [part] = [part for part in error.parts if part is not None]
    return str(place), part, error


def assert_exact(e, expected):
    """Within what float64 itself rounds in numbers of up to about 10; the errors are 10^7 times as large."""
    for found, exact in zip(e.flatten().tolist(), expected, strict=True):
        assert abs(Fraction(found) - exact) <= Fraction(1, 2**50)


def test_a_product_of_matrices_has_the_error_of_its_exact_sum():
    """e = y - W x, the sum taken in fractions, in a module of its own, of weights and input as they are."""
    layer = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 12).reshape(3, 4))
        y = layer(T)
    model = nn.Sequential(layer)
    errors, answer = rounding_errors(model, double_of(model), lambda: model(T))
    assert sk.bits_equal(answer, y)
    x = fractions(T)
    exact = [sum(a * b for a, b in zip(fractions(row), x, strict=True)) for row in layer.weight.detach()]
    [(place, error)] = errors.of.items()
    assert str(place) == "0/linear#0"
    assert_exact(error.parts[0], [y - true for y, true in zip(fractions(y), exact, strict=True)])
    assert errors.seen == 1


def in_place_times(x):
    x *= 0.3
    return x


def set_item(x):
    x[1:3] = torch.full((2,), 0.7, dtype=torch.float64)
    return x


def out_argument(x):
    return torch.mul(x, x, out=torch.zeros(4))


def relu_in_place(x):
    return nn.functional.relu(x, inplace=True) * 0.3


TENTHS = [0.1, 0.2, 0.3, 0.7]
FT, SEVEN = fractions(T), Fraction(0.7)
KINDS = [
    (lambda x: x * x, "/mul#0", [x * x for x in FT]),
    (lambda x: x + 1, "/add#0", [x + 1 for x in FT]),
    (lambda x: 1 - x, "/rsub#0", [1 - x for x in FT]),
    (lambda x: x.to(torch.bfloat16), "/to#0", FT),
    (lambda x: x.to(torch.bfloat16).to(torch.float32), "/to#0", FT),
    (lambda x: x.half(), "/half#0", FT),
    (in_place_times, "/mul#0", [x * Fraction(0.3) for x in FT]),
    (relu_in_place, "/mul#0", [max(x, Fraction()) * Fraction(0.3) for x in FT]),
    (set_item, "/setitem#0", [FT[0], SEVEN, SEVEN, FT[3]]),
    (out_argument, "/mul#0", [x * x for x in FT]),
    (lambda x: torch.tensor(TENTHS, dtype=torch.float32), "/tensor#0", [Fraction(x) for x in TENTHS]),
    (lambda x: x.sum(dim=0, keepdim=True).expand(4)[:1], "/sum#0", [sum(FT)]),
]


@pytest.mark.parametrize(("body", "place", "exact"), KINDS)
def test_each_kind_of_call_has_the_error_of_its_own_result(body, place, exact):
    """Products, sums, casts, calls in place, assignments, `out=` and constants; views on the way have none."""
    found, e, _ = one(body)
    with torch.no_grad():
        y = body(T.clone())
    assert found == place
    expected = [value - true for value, true in zip(fractions(y), exact, strict=True)]
    assert_exact(e, expected)
    assert max(abs(value) for value in expected) > Fraction(1, 2**30)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x.view(2, 2).transpose(0, 1)[0].contiguous(),
        lambda x: torch.cat([x, -x]).chunk(2)[1],
        lambda x: x * 2 + 0,
        lambda x: x.masked_fill(x < 0, float("-inf")),
        lambda x: torch.full((4,), float("-inf")) + x,
        lambda x: torch.empty(4),
        lambda x: x.new_empty(4).copy_(x),
        lambda x: torch.arange(4),
        lambda x: x.max(dim=0),
    ],
)
def test_what_rounds_nothing_has_no_error(body):
    """Moves, exact products, infinities, unset memory and integers."""
    errors, _ = errors_of(body)
    assert errors.of == {}


def counted(x):
    i = torch.arange(4)
    i += 1
    return x * i


@pytest.mark.parametrize("body", [in_place_times, set_item, counted, relu_in_place])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_to_watch_changes_nothing(body, dtype):
    """What is done in place is done once, in float64 and to whole numbers too, where a widened copy would be none."""
    x = T.to(dtype)
    errors, answer = errors_of(body, x)
    assert sk.bits_equal(answer, body(x.clone()))
    assert dtype != torch.float64 or errors.of == {}


def test_errors_are_taken_on_the_inputs_as_they_were():
    """The second operation is judged on what the first one gave, not on what it should have given."""
    errors, y = errors_of(lambda x: (x * x) * x)
    first, second = (error.parts[0] for error in errors.of.values())
    x = fractions(T)
    square = fractions(T * T)
    assert_exact(first, [s - a * a for s, a in zip(square, x, strict=True)])
    assert_exact(second, [out - s * a for out, s, a in zip(fractions(y), square, x, strict=True)])


def test_sizes_are_in_units_of_the_last_place():
    """An error of a half, rounded to bfloat16: half a ULP of its own element, which is a power of two below the top."""
    x = torch.tensor([1 + 2.0**-8, 8.0])
    _, e, error = one(lambda x: x.to(torch.bfloat16), x)
    assert e.tolist() == [-(2.0**-8), 0.0]
    assert (error.elements, error.max_ulp, error.scaled_ulp) == (1, 0.5, 0.0625)


def test_operations_that_give_floats_are_counted():
    """Two: the product and the view of it. Whole numbers and sizes are none."""
    errors, _ = errors_of(lambda x: (x * (torch.arange(4) + 1)).view(x.size(0)))
    assert errors.seen == 2
    assert [str(place) for place in errors.of] == ["/mul#0"]


def test_what_does_not_run_in_float64_is_named():
    """The grouped product of a mixture's experts has no float64."""
    model = sk.load("tiny:mixtral").model
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UnsupportedError, match=r"mlp.experts/.*grouped_mm#0 does not run in float64"):
        rounding_errors(model, double_of(model), lambda: model(ids, use_cache=False).logits)
