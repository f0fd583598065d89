"""`--stability-compare-fail`: how much worse is no failure; globs on checks and metrics, aware of the better side."""

import pytest

SOURCE = """
import os

class ToyMoved(ToyDrift):
    def find(self, subject):
        return ToyDrift(float(os.environ.get("DRIFT", 4))).find(subject)

def test_moved(stability):
    stability.measure(ToyMoved(), TOY)
"""


@pytest.mark.parametrize(
    ("drift", "rules", "verdict"),
    [
        (5, ("toy_moved.max_ulp: 25%", "toy_moved.radius: 2%", "toy_moved.cells: 7"), "pass"),
        (5, ("toy_moved.max_ulp: 24%", "toy_moved.radius: 2%", "toy_moved.cells: 7"), "fail"),
        (5, ("toy_*.max_ulp: 1ulp", "*.radius: x1.1", "*.c*: 7"), "pass"),
        (5, ("toy_moved[test_moved].*: x1.25",), "pass"),
        (5, ("other.*: any",), "fail"),
        (5, ("*.*: any",), "pass"),
        (9, ("*.*: any", "*.max_ulp: 1"), "fail"),
        (3, ("*.max_ulp: 0",), "pass"),
    ],
)
def test_a_rule_decides(inner, monkeypatch, drift, rules, verdict):
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", str(drift))
    options = [f"--stability-compare-fail={rule}" for rule in rules]
    run = inner(SOURCE, "--stability-baseline=main", *options, into="again")
    assert list(run.verdicts.values()) == [verdict]
    assert run.result.ret == (1 if verdict == "fail" else 0)


def test_what_was_allowed_stands_in_the_message(inner, monkeypatch):
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", "9")
    run = inner(SOURCE, "--stability-baseline=main", "--stability-compare-fail=*.max_ulp: 5%", into="again")
    (record,) = run.records.values()
    assert "  worse    max_ulp         9         4       5%   +125 %  ULP" in record["message"]
    assert run.run["run"]["settings"]["compare_fail"] == ["*.max_ulp: 5%"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--stability-baseline=main", "--stability-compare-fail=radius:5"),
            "'radius:5' is not CHECK.METRIC",
        ),
        (("--stability-baseline=main", "--stability-compare-fail=a.b:x0.9"), "a ratio is x1 or more"),
        (("--stability-compare-fail=a.b:5",), "--stability-compare-fail works on a baseline; name it with baseline"),
    ],
)
def test_what_cannot_be_meant_costs_no_collection(inner, options, sentence):
    run = inner("raise SystemExit('collected')", *options)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text
    assert "collected" not in run.text


def test_a_rule_that_fits_nothing_is_said(inner):
    inner(SOURCE, "--stability-save=main")
    run = inner(SOURCE, "--stability-baseline=main", "--stability-compare-fail=toy_movd.*: 5%", into="again")
    assert "--stability-compare-fail toy_movd.*: 5% met no reading of this run" in run.text
