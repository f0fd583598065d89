"""`--stability-baseline`: each check is held to what was there before, inside its test, and a drift is explained."""

from dataclasses import replace

import pandas as pd
import pytest

from stabilitykit.baselines.store import read, write

SOURCE = """
import os

class ToyMoved(ToyDrift):
    def find(self, subject):
        return ToyDrift(float(os.environ.get("DRIFT", 3))).find(subject)

def test_moved(stability):
    stability.measure(ToyMoved(), TOY)

def test_still(stability):
    stability.measure(ToyDrift(5.0), TOY)
"""
MOVED = "toy_moved[test_moved]"


@pytest.fixture
def moved(inner, monkeypatch):
    """Save, then measure again with another drift of one of two checks."""
    inner(SOURCE, "--stability-save=main")

    def again(drift, *options, run=inner):
        monkeypatch.setenv("DRIFT", str(drift))
        return run(SOURCE, "--stability-baseline=main", *options, into="again")

    return again


def test_the_same_passes(moved):
    run = moved(3)
    run.result.assert_outcomes(passed=2)
    assert set(run.verdicts.values()) == {"pass"}, "a difference that was there before is held, and shown as held"
    (record,) = [record for check, record in run.records.items() if check == MOVED]
    assert record["gate"]
    assert record["baseline"]["status"] == "same"
    assert record["baseline"]["readings"]["max_ulp"] == {"then": 3.0, "allowed": "exact", "kind": "same"}


def test_a_drift_fails_the_right_test_and_says_what_moved(moved):
    run = moved(4)
    run.result.assert_outcomes(passed=1, failed=1)
    assert run.verdicts == {MOVED: "fail", "toy_drift[test_still]": "pass"}
    message = run.records[MOVED]["message"].splitlines()
    assert message == [
        "ToyMoved(): max_ulp 4 is worse than its baseline 3 (and 2 more) on toy [float32, cpu]",
        "",
        "           metric   observed  baseline  allowed   change  unit",
        "  worse    max_ulp         4         3    exact  +33.3 %  ULP",
        "  worse    radius         96        97    exact  -1.03 %  input",
        "  changed  cells          28        21    exact  +33.3 %  inputs",
        "",
        "Nothing that is recorded of weights, versions and settings has changed: the arithmetic has.",
        "",
        'Rerun:  pytest "test_inner.py::test_moved" --stability-baseline=main',
        "Accept: --stability-baseline=.stability/main.jsonl --stability-update=all",
    ]
    assert "  stabilitykit.StabilityFailure: ToyMoved(): max_ulp 4 is worse than its baseline 3" in run.text
    rows = pd.read_csv(run.folder / "results.csv", keep_default_na=False, dtype=str)
    found = rows.loc[rows.check_id == MOVED, ["reading", "baseline", "baseline_hex", "allowed", "drift"]]
    assert found.iloc[0].tolist() == ["max_ulp", "3.0", (3.0).hex(), "exact", "worse"]


def test_of_two_checks_in_one_test_the_one_that_drifted_is_filed(inner, monkeypatch):
    both = SOURCE.split("def test_moved")[0] + "def test_both(stability):\n"
    both += (
        "    stability.measure(ToyMoved(), TOY, name='first')\n    stability.measure(ToyDrift(5.0), TOY, name='then')\n"
    )
    inner(both, "--stability-save=main")
    monkeypatch.setenv("DRIFT", "4")
    run = inner(both, "--stability-baseline=main", into="again")
    assert run.verdicts == {"first[test_both]": "fail", "then[test_both]": "pass"}


def test_a_stopped_run_is_not_resumed_beside_another_baseline(inner):
    inner(SOURCE, "--stability-save=main")
    inner(SOURCE, "--stability-baseline=main", into="again")
    inner(SOURCE.replace("5.0", "6.0"), "--stability-baseline=main", "--stability-update=all")
    run = inner(SOURCE, "--stability-baseline=main", "--stability-resume", into="again")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "is of a run with baseline_digest" in run.text


def test_what_got_better_passes_and_is_said(moved):
    run = moved(2)
    run.result.assert_outcomes(passed=2)
    assert run.verdicts[MOVED] == "pass"
    told = "max_ulp 2, was 3; radius 98, was 97; keep that with --stability-update all"
    assert run.records[MOVED]["message"] == f"better than .stability/main.jsonl: {told}"
    assert f"better than .stability/main.jsonl: {MOVED}; --stability-update all writes what was measured" in run.text


def test_without_a_file_all_is_new(inner, pytester):
    run = inner(SOURCE, "--stability-baseline=main")
    run.result.assert_outcomes(passed=2)
    assert set(run.verdicts.values()) == {"differs"}, "red does not turn into another colour for want of a baseline"
    run = inner(SOURCE.replace("5.0", "0.0"), "--stability-baseline=main")
    assert run.verdicts["toy_drift[test_still]"] == "new"
    told = run.records["toy_drift[test_still]"]["message"]
    assert told == ".stability/main.jsonl has no entry for this check; add it with --stability-update new"
    assert "new to .stability/main.jsonl: " in run.text
    assert not (pytester.path / ".stability").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "line 1: this is no line of a baseline of stabilitykit"),
        ('{"schema_version": 1}\n', "line 1: this is no line of a baseline of stabilitykit"),
        (b"\xff", "is not UTF-8 (byte 0)"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_an_unreadable_one_costs_no_collection(inner, pytester, content, sentence):
    path = pytester.path / "bad.jsonl"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = inner("raise SystemExit('collected')", "--stability-baseline=bad.jsonl")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--stability-baseline: " in run.text
    assert sentence in run.text
    assert "collected" not in run.text


def test_another_model_under_the_same_check_always_fails(moved, pytester):
    _edit(pytester, lambda entry: {"model": {**entry.model, "hidden_size": 4}})
    run = moved(3)
    run.result.assert_outcomes(failed=2)
    assert set(run.verdicts.values()) == {"fail"}
    assert "is of another model; hidden_size was 4, is 3; compare with the baseline of this one" in run.text


def test_another_numeric_environment_is_incomparable_and_explained(moved, pytester):
    _edit(pytester, lambda entry: {"setting": _with(entry.setting, threads=9)})
    run = moved(4)
    run.result.assert_outcomes(passed=2)
    (told,) = [record["message"] for check, record in run.records.items() if check == MOVED]
    assert "has this check for other numeric environments only; threads was 9, is 1" in told
    assert "not compared with" in run.text


def test_another_question_is_incomparable(moved, inner):
    run = inner(SOURCE.replace("ToyDrift(5.0)", "ToyDrift(6.0)").replace("ToyMoved()", "ToyMoved(0.0, 'up')"),
                "--stability-baseline=main", into="again")  # fmt: skip
    run.result.assert_outcomes(passed=2)
    assert "answers another question; drift was 5.0, is 6.0" in run.records["toy_drift[test_still]"]["message"]
    assert "direction was none, is up" in run.records[MOVED]["message"]


def test_a_changed_version_explains_the_drift(moved, pytester):
    _edit(pytester, lambda entry: {"setting": _with(entry.setting, context={"numpy": "1.0"})})
    run = moved(4)
    assert "Changed since: numpy was 1.0, is " in run.records[MOVED]["message"]


def test_entries_that_no_check_met_are_named_with_the_command(moved, inner):
    run = inner(SOURCE, "--stability-baseline=main", "-k", "still", into="again")
    assert f"stale in .stability/main.jsonl, unless left out on purpose: {MOVED} of 2 met no check" in run.text
    assert "stabilitykit baseline prune" in run.text


def test_a_limit_that_is_broken_stays_the_finding(moved):
    run = moved(3, "--stability-limit=toy_moved.max_ulp<=1")
    assert run.records[MOVED]["message"].startswith("ToyMoved(): max_ulp 3 breaks <= 1")
    assert run.records[MOVED]["baseline"] == {}


def test_the_worst_of_many_measurements_is_what_is_compared(inner):
    source = "def test_many(stability):\n    for drift in (0.0, 3.0, 1.0):\n"
    source += "        stability.measure(ToyDrift(drift), TOY)\n"
    inner(source, "--stability-save=main")
    run = inner(source.replace("0.0, 3.0, 1.0", "1.0, 0.0, 3.0"), "--stability-baseline=main")
    run.result.assert_outcomes(passed=1)
    assert list(run.verdicts.values()) == ["pass"]


def test_the_ini_file_names_one_beside_itself(moved, pytester, inner):
    pytester.makeini("[pytest]\nstability_baseline = main\n")
    run = inner(SOURCE, into="again")
    assert set(run.verdicts.values()) == {"pass"}


def _with(setting, context=None, **identity):
    return type(setting)({**setting.identity, **identity}, {**setting.context, **(context or {})})


def _edit(pytester, change):
    path = pytester.path / ".stability" / "main.jsonl"
    found = read(path)
    write(found, [replace(entry, **change(entry)) for entry in found.entries.values()])
