"""`--stability-budget`: what tells most comes first, no test begins after the time, and the rest is listed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stabilitykit.plugin import budget
from stabilitykit.plugin.budget import ORDER
from stabilitykit.plugin.suite import SUITE

Inner = Callable[..., object]

CLOCK = """
import stabilitykit.plugin.budget as budget

NOW = [0.0]
budget._CLOCK = lambda: NOW[0]
"""
SOURCE = """
from conftest import NOW

@pytest.mark.parametrize("number", range(8))
def test_slow(stability, number):
    NOW[0] += 5
    stability.measure(ToyDrift(drift=0.0), TOY)

def test_plain():
    pass
"""


@pytest.fixture(autouse=True)
def clock(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of each process that only its tests move."""
    monkeypatch.setattr(budget, "_CLOCK", budget._CLOCK)
    pytester.makeconftest(CLOCK)


@pytest.mark.parametrize(
    "workers", [pytest.param(0, id="one process"), pytest.param(2, id="two workers", marks=pytest.mark.long)]
)
def test_no_test_begins_after_the_time_and_the_rest_is_listed(inner: Inner, workers: int) -> None:
    words = ("-n", str(workers)) if workers else ()
    done = inner(SOURCE, "--stability-budget=8", *words, apart=bool(workers))
    verdicts = list(done.verdicts.values())
    assert verdicts.count("measured") == 2 * max(workers, 1), "one that has begun is finished"
    left = [check for check, verdict in done.verdicts.items() if verdict == "skipped"]
    assert len(left) == 8 - 2 * max(workers, 1)
    assert f"the budget of 8 s was spent: {len(left)} checks were not measured: " in done.text
    assert all(check in done.text.split("not measured: ")[1] for check in left)
    assert int(done.result.ret) == 0
    passed = done.result.parseoutcomes()["passed"]
    assert passed == verdicts.count("measured") + 1, "what measures nothing is not skipped"


def test_enough_time_leaves_nothing_out(inner: Inner) -> None:
    done = inner(SOURCE, "--stability-budget=60")
    done.result.assert_outcomes(passed=9)
    assert "was spent" not in done.text


def test_the_suite_begins_with_what_tells_most(inner: Inner) -> None:
    words = ("--stability-suite", "--collect-only", "-q", "--stability-model=tiny")
    files = {}
    for option in ((), ("--stability-budget=60",)):
        lines = inner("def test_own(): pass", "test_inner.py", *words, *option, apart=True).text.splitlines()
        names = [line.split("::")[0].rsplit("/", 1)[-1] for line in lines if "::test_" in line]
        files[bool(option)] = list(dict.fromkeys(names))
    assert files[True] == ["test_inner.py", *(f"test_{name}.py" for name in ORDER)]
    assert sorted(files[True]) == sorted(files[False]) != files[True]


def test_every_file_of_the_suite_has_its_place() -> None:
    assert sorted(ORDER) == sorted(path.stem.removeprefix("test_") for path in SUITE.glob("test_*.py"))


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_what_is_no_time_is_refused(inner: Inner, value: str) -> None:
    done = inner(SOURCE, f"--stability-budget={value}")
    assert int(done.result.ret) == 4
    assert f"--stability-budget '{value}' is not a number of seconds above 0" in done.text
