"""The expressions of --stability-compare-fail: what they read, what they refuse, and their edges in exact numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabilitykit.baselines.tolerance import Tolerance, chosen
from stabilitykit.errors import UsageError

NEXT = float(np.nextafter(100.0, 200.0))


@pytest.mark.parametrize(
    ("expression", "kind", "amount"),
    [
        ("first_change.radius: 5%", "percent", 5),
        ("first_change[tiny-float32].radius:0.5%", "percent", 0.5),
        ("*.max_ulp: 2ulp", "ulp", 2),
        ("gain*.*: x1.5", "ratio", 1.5),
        ("a.b:1e-6", "absolute", None),
        ("a.b: any", "any", 0),
        ("a/b:c@d.e : 150%", "percent", 150),
    ],
)
def test_what_is_read(expression, kind, amount):
    rule = Tolerance.parse(expression)
    assert rule.kind == kind
    assert amount is None or rule.amount == amount
    assert Tolerance.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "",
            "radius: 5%",
            "a.radius",
            "a.radius 5%",
            "a.radius: 5 %",
            "a.radius: -5%",
            "a.radius: nan",
            "a.radius: inf",
        ),
        *("a.radius: x0.5", "a.radius: 1.5ulp", "a.radius: five", "a.radius: 1e9999", "a.radius<=5", "a.radius: 5%%"),
        "a.radius: ١%",
        *(f"a.radius: {'9' * 5000}{unit}" for unit in ("", "%", "ulp")),  # more digits than Python converts
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(expression):
    with pytest.raises(UsageError, match=r"^compare-fail ") as caught:
        Tolerance.parse(expression)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "then", "inside", "outside"),
    [
        ("5%", 100.0, 105.0, float(np.nextafter(105.0, 200))),
        ("5%", -100.0, -105.0, float(np.nextafter(-105.0, -200))),
        ("0.5", 100.0, 100.5, float(np.nextafter(100.5, 200))),
        ("x1.5", 100.0, 150.0, float(np.nextafter(150.0, 200))),
        ("x1.5", 150.0, 100.0, float(np.nextafter(100.0, 0))),
        ("x2", 1.0, 2.0, -1.0),
        ("1ulp", 100.0, NEXT, float(np.nextafter(NEXT, 200))),
        ("2ulp", -5e-324, 5e-324, 1e-323),
        ("0ulp", 0.0, -0.0, 5e-324),
        ("x9", 0.0, 0.0, 5e-324),
        ("99%", math.inf, math.inf, 1.0),
        ("x99", 1.0, 1.0, math.inf),
    ],
)
def test_the_edge_belongs_to_what_is_allowed(typed, then, inside, outside):
    rule = Tolerance.parse(f"a.b: {typed}")
    assert rule.covers(inside, then, "input")
    assert not rule.covers(outside, then, "input")


def test_decimals_are_compared_as_typed():
    """1.1 - 1.0 is more than the float 0.1, and 2.0 - 1.9 more than 5 % of 2.0: the bound is rounded, not the step."""
    assert 1.1 - 1.0 > 0.1
    assert Tolerance.parse("a.b: 0.1").covers(1.1, 1.0, "")
    assert Tolerance.parse("a.b: 5%").covers(1.9, 2.0, "")
    assert Tolerance.parse("a.b: 90%").covers(1.7e308, 1e308, "")
    assert Tolerance.parse("a.b: x3").covers(1.7e308, 1e308, "")


def test_ulp_of_a_number_of_ulp_are_that_many():
    rule = Tolerance.parse("*.max_ulp: 2ulp")
    assert rule.covers(6.0, 4.0, "ULP")
    assert not rule.covers(7.0, 4.0, "ULP of the logit")
    assert not rule.covers(6.0, 4.0, "input")


def test_the_last_rule_that_fits_is_the_exception():
    rules = [Tolerance.parse(one) for one in ("*.*: 5%", "toy.*: any", "toy[b].radius: 1%")]
    assert chosen(rules, "toy[b]", "radius").typed == "1%"
    assert chosen(rules, "toy[a]", "radius").typed == "any"
    assert chosen(rules, "other[a]", "radius").typed == "5%"
    assert chosen(rules[1:], "other[a]", "radius") is None


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from(["3%", "x1.5", "7ulp", "1e-3", "any"]))
def test_what_is_equal_is_covered_and_infinity_by_any_alone(a, b, typed):
    rule = Tolerance.parse(f"a.b: {typed}")
    assert rule.covers(a, a, "")
    if math.isinf(a) != math.isinf(b):
        assert rule.covers(a, b, "") == (typed == "any")
