"""The power table from records made by hand: one of each outcome, what is left out, and what each check adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stabilitykit.baselines.power import Runs, lines, outcome, power
from stabilitykit.errors import UnreadableError
from stabilitykit.faults.catalogue import NOTHING, fault_named
from stabilitykit.report.figures import figures
from stabilitykit.report.read import Report
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Execution, Result

SPLIT, RARE, TURNED = (fault_named(name) for name in ("split-k", "stale-kv@every-101st", "wrong-rope"))


def record(check, verdict="measured", found="measured", status="same", fired=1, rows=1, result=True):
    made = Result("Toy", check, found, "Toy()", "", {}, execution=Execution(forwards=rows)) if result else None
    baseline = {"status": status} if status else {}
    planted = {"fault": "x", "calls": 9, "fired": fired}
    return Record(f"{check}[toy-float32]", f"t.py::{check}", verdict, made, baseline=baseline, planted=planted)


def report(*records):
    settings = {"models": ["toy"], "dtypes": ["float32"]}
    return Report(Run("id", "2026", "pytest", settings, {}), records)


CLEAN = record("a", status="")


@pytest.mark.parametrize(
    ("planted", "word"),
    [
        (record("a", "fail", status="drifted"), "baseline"),
        (record("a", "fail", status="foreign"), "baseline"),
        (record("a", "fail", status=""), "alone"),
        (record("a", "fail", "fail", status=""), "alone"),
        (record("a", "invalid", status="", result=False), "alone"),
        (record("a", "crash", status="", result=False), "alone"),
        (record("a", "fail", "differs", status="drifted"), "alone"),
        (record("a", "differs", "differs", status="same"), "alone"),
        (record("a", "pass", status="better"), "better"),
        (record("a", "incomparable", status="other question"), "uncompared"),
        (record("a", "unsupported", status="", result=False), "refused"),
        (record("a", "skipped", status="", result=False), "refused"),
        (None, "refused"),
        (record("a", "pass"), "missed"),
        (record("a", "pass", fired=0), "no place"),
        (record("a", "fail", status="drifted", fired=0), "baseline"),
    ],
)
def test_outcomes(planted, word):
    assert outcome(CLEAN, planted) == word


def test_a_check_that_differs_by_itself_is_judged_by_its_baseline():
    clean = record("a", "differs", "differs", status="")
    assert outcome(clean, record("a", "fail", "differs", status="drifted")) == "baseline"
    assert outcome(clean, record("a", "pass", "differs")) == "missed"


def runs():
    """`cheap` sees a fault beside the baseline, `same` too, `dear` sees it alone; `red` and `moved` cannot be used."""
    names = {"cheap": 1, "same": 5, "dear": 70, "red": 2, "moved": 3}
    clean = [
        record(name, "fail" if name == "red" else "measured", status="", rows=rows) for name, rows in names.items()
    ]
    nothing = [record(name, "pass", status="better" if name == "moved" else "same", fired=0) for name in names]
    split = [record("cheap", "fail", status="drifted"), record("same", "fail", status="drifted")]
    split += [record("dear", "fail", "differs", status="drifted"), record("moved", "pass"), record("red", "fail")]
    rare = [record(name, "pass", fired=2) for name in names]
    turned = [record(name, "pass", fired=0) for name in names]
    planted = {SPLIT: report(*split), RARE: report(*rare), TURNED: report(*turned)}
    return Runs(report(*clean), report(*nothing), planted)


def test_the_table():
    result = power(runs(), "FaultPower()")
    rows = {row["check"]: row for row in result.rows if row["part"] == "check"}
    assert list(rows) == ["cheap", "same", "dear"]
    assert [rows[name]["adds"] for name in rows] == ["split-k", "", "split-k"]
    assert [rows[name]["split-k"] for name in rows] == ["baseline", "baseline", "alone"]
    assert {rows[name]["stale-kv@every-101st"] for name in rows} == {"missed"}
    assert {rows[name]["wrong-rope"] for name in rows} == {"no place"}
    faults = {row["fault"]: row for row in result.rows if row["part"] == "fault"}
    assert (faults["split-k"]["caught_by"], faults["split-k"]["caught_alone_by"]) == (3, 1)
    assert faults["split-k"]["alone"] == "dear"
    assert (faults["stale-kv@every-101st"]["fired"], faults["stale-kv@every-101st"]["calls"]) == (10, 45)
    values = {name: reading.value for name, reading in result.readings.items()}
    assert values == {
        "missed": 1,
        "caught": 1,
        "caught_alone": 1,
        "without_place": 1,
        "false_alarms": 2,
        "adding_checks": 2,
        "checks": 3,
    }
    assert "missed: stale-kv@every-101st. Red with nothing planted, so not asked: red, moved." in result.sentence
    assert result.execution.forwards == 76


def test_two_checks_of_one_test_count_its_fault_once():
    """The counts are of the test: a test with two checks would count them twice."""
    both = [replace(record(name, "pass", fired=7), nodeid="t.py::both") for name in ("a", "b")]
    clean, nothing = ([replace(one, planted={}) for one in both] for _ in range(2))
    result = power(Runs(report(*clean), report(*nothing), {SPLIT: report(*both)}), "FaultPower()")
    assert next(row["fired"] for row in result.rows if row["part"] == "fault") == 7


def test_a_test_that_failed_before_it_measured_has_another_name():
    clean, nothing = record("searched_flip", status=""), record("searched_flip", "pass", fired=0)
    broken = replace(record("searched_flips", "invalid", status="", result=False), nodeid=f"elsewhere/{clean.nodeid}")
    for planted, word in ((broken, "alone"), (replace(broken, nodeid="t.py::other"), "refused")):
        result = power(Runs(report(clean), report(nothing), {SPLIT: report(planted)}), "FaultPower()")
        assert result.rows[-1]["split-k"] == word


def test_nothing_that_is_green():
    one = [record("red", "fail", status="")]
    with pytest.raises(UnreadableError, match="no check of the clean run can be used: red"):
        power(Runs(report(*one), report(*one), {SPLIT: report(*one)}), "FaultPower()")


def test_lines_and_maps():
    result = power(runs(), "FaultPower()")
    told = "\n".join(lines(result))
    assert "split-k" in told
    assert "dear" in told
    assert "same " not in told.split("check")[1]  # it adds nothing
    maps = figures(result)
    assert [one.title for one in maps] == ["Faults at every call", "Faults at some calls"]
    trace = maps[0].traces[0]
    assert [label.split()[0] for label in trace["y"]] == ["dear", "same", "cheap"]
    assert trace["x"] == ["split-k", "wrong-rope"]
    assert trace["text"] == [["!", ""], ["b", ""], ["b", ""]]
    assert trace["z"] == [[4, 0], [3, 0], [3, 0]]
    assert NOTHING.name not in str(maps)
