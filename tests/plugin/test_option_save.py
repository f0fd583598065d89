"""`--stability-save`: what was measured becomes a text file; what failed or crashed does not."""

import pytest

from stabilitykit.baselines.store import read
from stabilitykit.subjects.environment import environment

DRIFT = """
@pytest.mark.parametrize("drift", [1.0, 2.0])
def test_drift(stability, drift):
    stability.measure(ToyDrift(drift), TOY)
"""


def test_the_measured_are_kept_with_their_bits(inner, pytester):
    run = inner(DRIFT, "--stability-save=main")
    run.result.assert_outcomes(passed=2)
    path = pytester.path / ".stability" / "main.jsonl"
    assert "baseline written: .stability/main.jsonl (2 added)" in run.text
    found = read(path)
    assert [check for check, _ in found.entries] == ["toy_drift[1.0]", "toy_drift[2.0]"]
    (entry,) = found.of("toy_drift[2.0]")
    assert {name: kept.value for name, kept in entry.readings.items()} == {
        "cells": 14.0,
        "max_ulp": 2.0,
        "radius": 98.0,
    }
    assert entry.readings["radius"].better == "higher"
    assert entry.asked["parameters"]["drift"] == 2.0
    assert entry.model == {"hidden_size": 3, "name": "toy"}
    assert entry.setting.identity["torch"] == environment(None)["torch"]
    assert entry.setting.context["python"] == environment(None)["python"]


def test_the_same_run_writes_the_same_bytes(inner, pytester):
    inner(DRIFT, "--stability-save=folder/one.jsonl")
    run = inner(DRIFT, "--stability-save=folder/two.jsonl")
    one, two = (pytester.path / "folder" / name for name in ("one.jsonl", "two.jsonl"))
    assert one.read_bytes() == two.read_bytes()
    before = one.stat().st_mtime_ns
    run = inner(DRIFT, "--stability-save=folder/one.jsonl")
    assert "one.jsonl (2 as they were)" in run.text
    assert one.stat().st_mtime_ns == before


UNMEASURED = """
def test_broken(stability):
    stability.measure(ToyGate(1.0), TOY)

def test_asserted(stability):
    stability.measure(ToyDrift(0.0), TOY)
    assert not "reached"

def test_invalid(stability):
    stability.measure(ToyInvalid(), TOY)

def test_unsupported(stability):
    stability.measure(ToyUnsupported(), TOY)

def test_sound(stability):
    stability.measure(ToyDrift(0.0), TOY)
"""


def test_what_failed_or_gave_no_number_is_not_kept(inner, pytester):
    run = inner(UNMEASURED, "--stability-save=main")
    run.result.assert_outcomes(passed=1, failed=3, skipped=1)
    assert [check for check, _ in read(pytester.path / ".stability" / "main.jsonl").entries] == [
        "toy_drift[test_sound]"
    ]


def test_a_file_that_is_none_is_not_overwritten(inner, pytester):
    (pytester.path / "mine.jsonl").write_text("my notes\n")
    run = inner("raise SystemExit('collected')", "--stability-save=mine.jsonl")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--stability-save: " in run.text
    assert "line 1: this is no line of a baseline of stabilitykit" in run.text
    assert (pytester.path / "mine.jsonl").read_text() == "my notes\n"


def test_of_two_runs_the_one_that_ends_last_does_not_overwrite_the_other(inner, pytester):
    source = (
        DRIFT
        + """
def test_meanwhile():
    from pathlib import Path
    Path(".stability").mkdir()
    Path(".stability/main.jsonl").write_text("another run was here")
"""
    )
    run = inner(source, "--stability-save=main")
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "has changed since this run began, so it was not written" in run.text
    assert (pytester.path / ".stability" / "main.jsonl").read_text() == "another run was here"


def test_two_tests_that_measure_the_same_keep_an_entry_each(inner, pytester):
    twice = DRIFT.replace("test_drift", "test_one") + DRIFT.replace("test_drift", "test_two")
    inner(twice, "--stability-save=main")
    checks = [check for check, _ in read(pytester.path / ".stability" / "main.jsonl").entries]
    assert checks == [f"toy_drift[{drift}]@{test}" for drift in ("1.0", "2.0") for test in ("test_one", "test_two")]
    run = inner(twice, "--stability-baseline=main", "--stability-require-baseline")
    run.result.assert_outcomes(passed=4)
