"""Limits: what holds, which way a bare number points, which checks a glob names, and every form that is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from stabilitykit.errors import UsageError
from stabilitykit.results.limit import Bound, Limit, select
from stabilitykit.results.metric import Metric, Reading

READINGS = {
    name: Reading(Metric(name, "u", better, "planted"), 1.0)
    for name, better in (("max_ulp", "lower"), ("radius", "higher"), ("cells", "neither"))
}
UP, DOWN = math.nextafter(4, 5), math.nextafter(4, 3)


@pytest.mark.parametrize(
    ("text", "kept", "broken"),
    [
        ("<=4", [4, DOWN, -math.inf, 0], [UP, math.inf]),
        ("<4", [DOWN, -math.inf], [4, UP]),
        (">=4", [4, UP, math.inf], [DOWN, 0, -math.inf]),
        (">4", [UP, math.inf], [4, DOWN]),
        ("==4", [4, 4.0], [UP, DOWN, -4]),
        ("<=inf", [math.inf, 1e308], []),
        ("<= -1e-3", [-1], [0]),
    ],
)
def test_a_bound_holds_exactly_where_it_says(text: str, kept: list[float], broken: list[float]) -> None:
    bound = Bound.parse(text, READINGS["max_ulp"])
    assert all(bound.holds(value) for value in kept)
    assert not any(bound.holds(value) for value in broken)


@pytest.mark.parametrize("comparison", ["<=", "<", ">=", ">", "=="])
@pytest.mark.parametrize("limit", ["4", "inf", "-inf"])
def test_nan_keeps_no_bound(comparison: str, limit: str) -> None:
    assert not Bound.parse(comparison + limit, READINGS["max_ulp"]).holds(math.nan)


@pytest.mark.parametrize(("metric", "comparison"), [("max_ulp", "<="), ("cells", "<="), ("radius", ">=")])
@pytest.mark.parametrize("number", [4, 4.0, -0.5, np.float64(4), np.float32(0.25), np.int64(4), Fraction(1, 4)])
def test_a_bare_number_points_where_worse_is(metric: str, comparison: str, number: float) -> None:
    assert Bound.parse(number, READINGS[metric]) == Bound(comparison, float(number))


@pytest.mark.parametrize("text", ["<=4", " <= 4 ", "<=\t4", "<=4.0", "<=4e0", "<=+4"])
def test_spaces_and_spellings_do_not_matter(text: str) -> None:
    assert Bound.parse(text, READINGS["max_ulp"]) == Bound("<=", 4.0)


@pytest.mark.parametrize(
    ("bound", "fragment"),
    [
        ("4", "limit max_ulp='4': write a number or a comparison such as '<= 4'"),
        ("", "write a number or a comparison"),
        ("=4", "write a number or a comparison"),
        ("!=4", "write a number or a comparison"),
        ("<= 4 ULP", "write a number or a comparison"),
        ("4 <=", "write a number or a comparison"),
        ("<=", "'=' is not a number"),
        ("<=four", "'four' is not a number"),
        ("<==4", "'=4' is not a number"),
        ("<=4<=5", "'4<=5' is not a number"),
        ("<=0x10", "'0x10' is not a number"),
        ("<=nan", "nan is not a limit, every comparison with it is false"),
        (math.nan, "nan is not a limit"),
        (np.float32("nan"), "nan is not a limit"),
        (10**400, "is not a number"),
        (True, "limit max_ulp=True: write a number"),
        (np.bool_(False), "write a number"),
        (None, "limit max_ulp=None: write a number"),
        ([4], "write a number"),
        (4j, "write a number"),
    ],
)
def test_every_other_form_is_refused_in_a_sentence(bound: object, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        Bound.parse(bound, READINGS["max_ulp"])
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound("<=", 4.0), "<= 4"),
        (Bound(">=", 1e-12), ">= 1e-12"),
        (Bound("<", 0.1), "< 0.1"),
        (Bound("<=", 16777217.0), "<= 16777217"),
        (Bound("==", 1 / 3), "== 0.3333333333333333"),
        (Bound("<=", math.inf), "<= inf"),
        (Bound(">", -math.inf), "> -inf"),
    ],
)
def test_a_bound_is_printed_briefly_but_exactly(bound: Bound, text: str) -> None:
    assert str(bound) == text
    assert Bound.parse(text, READINGS["max_ulp"]) == bound


# ---- limits of a whole run ----


@pytest.mark.parametrize(
    ("expression", "check", "metric", "bound"),
    [
        ("batch_invariance.max_ulp<=4", "batch_invariance", "max_ulp", "<=4"),
        (" first_change.radius >= 1e-12 ", "first_change", "radius", ">= 1e-12"),
        ("*.max_ulp<4", "*", "max_ulp", "<4"),
        ("first_change[smollm2-float32].radius>1", "first_change[smollm2-float32]", "radius", ">1"),
        ("first_change[org/model-1.5B-bfloat16].radius>1", "first_change[org/model-1.5B-bfloat16]", "radius", ">1"),
        ("run_to_run.differing_runs==0", "run_to_run", "differing_runs", "==0"),
    ],
)
def test_an_expression_is_a_check_a_metric_and_a_bound(expression: str, check: str, metric: str, bound: str) -> None:
    limit = Limit.parse(expression)
    assert (limit.check, limit.metric) == (check, metric)
    assert Bound.parse(limit.bound, READINGS["max_ulp"]) == Bound.parse(bound, READINGS["max_ulp"])
    assert str(limit) == f"{check}.{metric}{bound.strip()}"


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "max_ulp<=4",
        "batch_invariance<=4",
        "batch_invariance.max_ulp",
        "batch_invariance.max_ulp=4",
        "batch_invariance.max_ulp 4",
        "batch_invariance.<=4",
        ".max_ulp<=4",
        "batch_invariance.max_ulp<=4 ULP",
        "batch invariance.max_ulp<=4",
        "batch_invariance.max-ulp<=4",
    ],
)
def test_an_expression_of_another_form_is_refused_with_an_example(expression: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse(expression)
    assert str(caught.value) == (
        f"limit {expression!r} is not CHECK.METRIC<=NUMBER, for example 'batch_invariance.max_ulp<=4'"
    )


@pytest.mark.parametrize(("number", "fragment"), [("nan", "nan is not a limit"), ("x", "'x' is not a number")])
def test_an_expression_whose_number_is_none_is_refused_when_it_is_read(number: str, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse(f"a.b<={number}")
    assert f"'a.b<={number}'" in str(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("glob", "named", "others"),
    [
        ("run_to_run", ["run_to_run", "run_to_run[m-float32]"], ["run_to_run_2", "arun_to_run", "RUN_TO_RUN"]),
        ("run_to_run[m-float32]", ["run_to_run[m-float32]"], ["run_to_run", "run_to_run[m-bfloat16]", "run_to_runm"]),
        ("*[m-*]", ["run_to_run[m-float32]", "x[m-]"], ["run_to_run", "run_to_run[n-float32]"]),
        ("*_invariance", ["batch_invariance", "batch_invariance[m]"], ["batch_invariances"]),
        ("run?to?run", ["run_to_run"], ["runtorun"]),
        ("*", ["anything", "any[thing]"], []),
    ],
)
def test_a_glob_names_checks_in_full_or_before_the_bracket(glob: str, named: list[str], others: list[str]) -> None:
    limit = Limit.parse(f"{glob}.max_ulp<=4")
    assert [check for check in named if not limit.applies(check)] == []
    assert [check for check in others if limit.applies(check)] == []


def test_the_last_limit_that_names_a_check_decides() -> None:
    limits = tuple(Limit.parse(text) for text in ("*.max_ulp<=4", "a.max_ulp<=2", "b.max_ulp<=1", "a.radius>=3"))
    assert select(limits, "a[m]", READINGS) == {"max_ulp": "<=2", "radius": ">=3"}
    assert select(limits, "c", READINGS) == {"max_ulp": "<=4"}
    assert select((), "c", READINGS) == {}


def test_a_limit_on_a_metric_that_the_check_does_not_report_lists_those_it_does() -> None:
    with pytest.raises(UsageError) as caught:
        select((Limit.parse("a.max_ulps<=4"),), "a[m]", READINGS)
    assert str(caught.value) == ("limit a.max_ulps<=4: unknown metric 'max_ulps'; a[m] reports max_ulp, radius, cells")
    assert select((Limit.parse("a.max_ulps<=4"),), "b", READINGS) == {}
