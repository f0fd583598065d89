"""The message of a failed gate, fragment by fragment: what a person sees first, and all of it in fifteen lines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from stabilitykit.errors import UsageError
from stabilitykit.results.failure import StabilityFailure, describe
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Result, Worst

METRICS = (
    Metric("max_ulp", "ULP", "lower", "largest distance"),
    Metric("radius", "input", "higher", "largest step"),
    Metric("rho", "", "higher", "a ratio"),
    Metric("cases", "cases", "neither", "count"),
)
VALUES = (17, 2.5e-9, 1.25, 102)
COMMANDS = ('Rerun:  pytest "test_toy.py::test_toy[tiny]" --stability-seed=0', "Accept: raise max_ulp in the test")


@pytest.fixture
def result() -> Result:
    return Result(
        measurement="Toy",
        check_id="toy",
        verdict="differs",
        title="Toy(batch=8)",
        sentence="It differs.",
        readings={metric.name: Reading(metric, value) for metric, value in zip(METRICS, VALUES, strict=True)},
        subject={"name": "my-model", "dtype": "bfloat16", "device": "cpu", "path": "decode", "site": ""},
        worst=Worst("y[3, 117]", "alone", "-1.82 (0xbfe9)", "in batch", "-1.95 (0xbffa)"),
        noise="0 ULP over 16 repeats",
        causes=("an order that depends on the batch", "padding", "a kernel chosen by shape"),
    )


def message(result: Result, commands: tuple[str, ...] = (), **limits: object) -> list[str]:
    with pytest.raises(StabilityFailure) as caught:
        result.judge(limits, commands)
    assert caught.value.result is result
    return str(caught.value).splitlines()


def test_the_whole_message(result: Result) -> None:
    assert message(result, COMMANDS, max_ulp="<= 4", radius=1e-12) == [
        "Toy(batch=8): max_ulp 17 breaks <= 4 on my-model [bfloat16, cpu, decode]",
        "",
        "  metric   observed     limit  unit",
        "  max_ulp        17      <= 4  ULP",
        "  radius    2.5e-09  >= 1e-12  input",
        "  rho          1.25         -",
        "  cases         102         -  cases",
        "",
        "worst at y[3, 117]: alone -1.82 (0xbfe9)   in batch -1.95 (0xbffa)",
        "noise floor: 0 ULP over 16 repeats",
        "",
        "This usually means (a) an order that depends on the batch, (b) padding, or (c) a kernel chosen by shape.",
        *COMMANDS,
    ]


def test_the_failure_is_an_assertion_with_the_name_that_users_import() -> None:
    assert issubclass(StabilityFailure, AssertionError)
    assert f"{StabilityFailure.__module__}.{StabilityFailure.__qualname__}" == "stabilitykit.StabilityFailure"
    import stabilitykit

    assert stabilitykit.StabilityFailure is StabilityFailure


def test_the_first_line_counts_the_other_broken_limits(result: Result) -> None:
    first = message(result, radius=">= 1", max_ulp="<= 4", rho=">= 1", cases="<= 1")[0]
    assert first.startswith("Toy(batch=8): radius 2.5e-09 breaks >= 1 (and 2 more) on my-model")


def test_what_is_not_there_leaves_no_empty_line(result: Result) -> None:
    bare = replace(result, worst=None, noise="", causes=(), readings={"max_ulp": result.readings["max_ulp"]})
    assert message(bare, max_ulp=4) == [
        "Toy(batch=8): max_ulp 17 breaks <= 4 on my-model [bfloat16, cpu, decode]",
        "",
        "  metric   observed  limit  unit",
        "  max_ulp        17   <= 4  ULP",
    ]
    assert message(replace(bare, noise="none"), max_ulp=4)[4:] == ["", "noise floor: none"]
    assert message(bare, COMMANDS, max_ulp=4)[4:] == ["", *COMMANDS]


@pytest.mark.parametrize(
    ("causes", "text"),
    [
        (("one",), "This usually means (a) one."),
        (("one", "two"), "This usually means (a) one, or (b) two."),
        (("one", "two", "three"), "This usually means (a) one, (b) two, or (c) three."),
    ],
)
def test_causes_are_a_sentence(result: Result, causes: tuple[str, ...], text: str) -> None:
    assert message(replace(result, causes=causes), max_ulp=4)[-1] == text


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (
            {"site": "logits", "path": "prefill", "device": "cuda:0", "dtype": "float32", "name": "m"},
            "m [float32, cuda:0, prefill, logits]",
        ),
        ({"name": "toy", "dtype": "float32", "batch": 4}, "toy [float32]"),
        ({}, "subject"),
    ],
)
def test_a_subject_is_described_by_its_numeric_setting(subject: dict[str, Any], text: str) -> None:
    assert describe(subject) == text


@pytest.mark.parametrize("count", [1, 5, 6, 7, 15, 600])
@pytest.mark.parametrize("full", [True, False])
def test_a_message_has_at_most_fifteen_lines_and_shows_every_broken_reading_first(
    result: Result, count: int, full: bool
) -> None:
    many = {f"m{n}": Reading(Metric(f"m{n}", "u", "lower", "planted"), n) for n in range(count)}
    long = replace(result, readings=many)
    if not full:
        long = replace(long, worst=None, noise="", causes=())
    last = f"m{count - 1}"
    lines = message(long, COMMANDS if full else (), **{"m0": 100, last: -1})
    assert len(lines) <= 15
    shown = [line.split()[0] for line in lines[3:] if line.startswith("  m")]
    assert last in shown
    left_out = count - len(shown)
    assert (f"  and {left_out} more readings" in lines) == (left_out > 0)
    if left_out:
        assert len(lines) == 15
        assert shown == [f"m{n}" for n in range(len(shown) - 1)] + [last]


def test_many_commands_never_push_the_broken_reading_out(result: Result) -> None:
    lines = message(result, tuple(f"command {n}" for n in range(20)), rho=">= 2")
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["metric", "rho", "and"]


@pytest.mark.parametrize(
    ("value", "limit", "observed", "bound"),
    [
        (1.0000001, "<= 1", "1.0000001", "<= 1"),
        (0.9999999, ">= 1", "0.9999999", ">= 1"),
        (16777217.0, "<= 16777216", "16777217", "<= 16777216"),
        (1e15 + 2, "<= 1e15", "1000000000000002.0", "<= 1e+15"),
        (4.5, "<= 4", "4.5", "<= 4"),
        (math.nan, "<= 4", "nan", "<= 4"),
        (1.2345678e-12, ">= 1.2345679e-12", "1.2345678e-12", ">= 1.2345679e-12"),
    ],
)
def test_what_is_printed_breaks_the_limit_that_is_printed(
    result: Result, value: float, limit: str, observed: str, bound: str
) -> None:
    short = replace(result, readings={"x": Reading(Metric("x", "u", "lower", "planted"), value)})
    lines = message(short, x=limit)
    assert lines[0].startswith(f"Toy(batch=8): x {observed} breaks {bound} on")
    assert lines[3].split() == ["x", observed, *bound.split(), "u"]


# ---- check ----


def test_limits_that_hold_raise_nothing(result: Result) -> None:
    result.check(max_ulp=17, radius=2.5e-9, rho=">= 1.25", cases="== 102")
    result.check()


@pytest.mark.parametrize("limits", [{"max_ulp": 16}, {"radius": 2.6e-9}, {"rho": "< 1"}, {"cases": 101}])
def test_a_limit_that_is_broken_raises(result: Result, limits: dict[str, object]) -> None:
    with pytest.raises(StabilityFailure) as caught:
        result.check(**limits)
    assert caught.value.result is result


def test_an_unknown_metric_lists_the_known_ones(result: Result) -> None:
    with pytest.raises(UsageError) as caught:
        result.check(max_ulps=4)
    assert str(caught.value) == "unknown metric 'max_ulps'; Toy reports max_ulp, radius, rho, cases"


def test_a_bad_limit_is_a_mistake_even_if_another_is_broken(result: Result) -> None:
    with pytest.raises(UsageError, match="write a number or a comparison"):
        result.check(max_ulp=0, radius="small")
