"""`--stability-update`: `new` adds what the baseline lacks, `all` also replaces what moved, which then passes."""

from dataclasses import replace

import pytest

from stabilitykit.baselines.store import read, write

SOURCE = """
import os

class ToyMoved(ToyDrift):
    def find(self, subject):
        return ToyDrift(float(os.environ.get("DRIFT", 4))).find(subject)

def test_moved(stability):
    stability.measure(ToyMoved(), TOY)
"""
ADDED = (
    SOURCE
    + """
def test_added(stability):
    stability.measure(ToyDrift(1.0), TOY)
"""
)
MOVED = "toy_moved[test_moved]"


@pytest.fixture
def value(pytester):
    """Return what a baseline has of the check that moved, and of which checks it has anything."""

    def of(name="main"):
        found = read(pytester.path / ".stability" / f"{name}.jsonl")
        return found.of(MOVED)[0].readings["max_ulp"].value, sorted(check for check, _ in found.entries)

    return of


def test_new_makes_a_file_and_adds_what_is_missing(inner, value):
    run = inner(SOURCE, "--stability-baseline=main", "--stability-update=new")
    run.result.assert_outcomes(passed=1)
    assert "baseline written: .stability/main.jsonl (1 added)" in run.text
    run = inner(ADDED, "--stability-baseline=main", "--stability-update=new")
    assert "(1 added)" in run.text
    assert value() == (4.0, ["toy_drift[test_added]", MOVED])
    assert "--stability-update new writes" not in run.text, "it has just done so"


def test_new_does_not_accept_a_drift(inner, value, monkeypatch):
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", "5")
    run = inner(ADDED, "--stability-baseline=main", "--stability-update=new", into="again")
    run.result.assert_outcomes(passed=1, failed=1)
    assert value() == (4.0, ["toy_drift[test_added]", MOVED])


@pytest.mark.parametrize("drift", [5, 3])
def test_all_takes_what_moved_either_way(inner, value, monkeypatch, drift):
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", str(drift))
    run = inner(SOURCE, "--stability-baseline=main", "--stability-update=all", into="again")
    run.result.assert_outcomes(passed=1)
    assert "baseline written: .stability/main.jsonl (1 changed)" in run.text
    assert value() == (drift, [MOVED])
    run = inner(SOURCE, "--stability-baseline=main", into="after")
    assert run.verdicts == {MOVED: "pass"}


def test_all_says_of_a_drift_that_it_was_not_held(inner, monkeypatch):
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", "5")
    run = inner(SOURCE, "--stability-baseline=main", "--stability-update=all", into="again")
    (record,) = run.records.values()
    assert (record["verdict"], record["message"]) == ("differs", "not held to .stability/main.jsonl, which is updated")


def test_all_takes_another_model_in_the_place_of_the_first(inner, value, pytester):
    inner(SOURCE, "--stability-save=main")
    path = pytester.path / ".stability" / "main.jsonl"
    (entry,) = (former := read(path)).entries.values()
    elsewhere = replace(entry, setting=replace(entry.setting, identity={"threads": 9}))
    write(former, [entry, elsewhere])
    wider = SOURCE + "\nTOY = FunctionSubject(lambda X: X, torch.zeros(4), name='toy')\n"
    run = inner(wider, "--stability-baseline=main", "--stability-update=new", into="again")
    run.result.assert_outcomes(failed=1)
    run = inner(wider, "--stability-baseline=main", "--stability-update=all", into="again")
    run.result.assert_outcomes(passed=1)
    (entry,) = read(path).of(MOVED)
    assert entry.model["hidden_size"] == 4, "of the first model nothing is left, in no environment"


def test_what_is_the_same_is_left_as_it_is(inner, pytester):
    inner(SOURCE, "--stability-save=main")
    path = pytester.path / ".stability" / "main.jsonl"
    before = path.stat().st_mtime_ns
    run = inner(SOURCE, "--stability-baseline=main", "--stability-update=all", into="again")
    assert "(nothing to add)" in run.text
    assert path.stat().st_mtime_ns == before


def test_a_question_that_changed_is_replaced_by_all_alone(inner, value):
    inner(SOURCE, "--stability-save=main")
    other = SOURCE.replace("ToyMoved()", "ToyMoved(0.0, 'up')")
    run = inner(other, "--stability-baseline=main", "--stability-update=new", into="again")
    assert "which has the answer to another question (direction was none, is up)" in run.text
    assert "--stability-update all writes what was measured" in run.text
    run = inner(other, "--stability-baseline=main", "--stability-update=all", into="again")
    assert "(1 changed)" in run.text
    assert "--stability-update all writes" not in run.text, "it has just done so"
    run = inner(other, "--stability-baseline=main", "--stability-require-baseline", into="again")
    run.result.assert_outcomes(passed=1)


def test_a_failed_test_is_not_taken(inner, value):
    inner(SOURCE, "--stability-save=main")
    asserted = SOURCE + "    assert not 'reached'\n"
    run = inner(asserted, "--stability-baseline=main", "--stability-update=all", into="again")
    run.result.assert_outcomes(failed=1)
    assert "(nothing to add)" in run.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--stability-baseline=main", "--stability-update=some"), "--stability-update 'some' is none of new, all"),
        (("--stability-update=new",), "--stability-update works on a baseline; name it with baseline"),
        (
            ("--stability-baseline=main", "--stability-save=main"),
            "save 'main' is compared with as the baseline",
        ),
    ],
)
def test_what_cannot_be_meant_costs_no_collection(inner, options, sentence):
    run = inner("raise SystemExit('collected')", *options)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text
    assert "collected" not in run.text
