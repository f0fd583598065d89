"""docs/extending.md works as printed: the tests of its blocks, with its hooks as conftest, on a model of its loader."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BUILD = """

def build(name):
    assert name == "mine"
    loaded = stabilitykit.load("tiny")
    return loaded.model, loaded.tokenizer
"""


@pytest.fixture
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_page_runs(pytester: pytest.Pytester, inner: Callable[..., object], blocks: list[str]) -> None:
    function, metric, hooks, suite = blocks
    pytester.makeconftest(hooks + BUILD)
    pytester.makepyfile(test_function=function, test_metric=metric, test_suite=suite + BUILD)
    options = ("--stability-model=engine:mine", "-k", "not TestMine or run_to_run")
    run = inner("def test_it(stability, stability_subject):\n    stability_subject\n", *options, apart=True)
    outcomes = run.result.parseoutcomes()
    assert (outcomes.pop("passed"), list(outcomes)) == (5, ["deselected"]), run.text
    records = run.records
    assert records["batch_invariance[test_rows_do_not_see_each_other]"]["verdict"] == "pass"
    readings = records["first_change_in_ulp[test_room_in_spacings]"]["result"]["readings"]
    assert [one["value"] > 0 for one in readings if one["metric"] == "spacings"] == [True]
    assert all("job" in record["result"]["environment"] for record in records.values())
    assert "rack" in run.run["run"]["environment"]
