"""All options about baselines with two workers: they compare, and the controller alone writes."""

import pytest

from stabilitykit.baselines.store import read

pytest.importorskip("xdist")

SOURCE = """
import os

class ToyMoved(ToyDrift):
    def find(self, subject):
        return ToyDrift(self.drift + float(os.environ.get("DRIFT", 0))).find(subject)

@pytest.mark.parametrize("drift", [1.0, 2.0, 3.0])
def test_moved(stability, drift):
    stability.measure(ToyMoved(drift), TOY)
"""
ADDED = (
    SOURCE
    + """
def test_added(stability):
    stability.measure(ToyDrift(0.0), TOY)
"""
)


@pytest.fixture
def workers(inner):
    return lambda source, *options, into: inner(source, "-n", "2", *options, into=into)


def test_they_do_as_one_process_does(inner, workers, monkeypatch, pytester):
    folder = pytester.path / ".stability"
    inner(SOURCE, "--stability-save=main")
    monkeypatch.setenv("DRIFT", "1")
    options = (
        *("--stability-baseline=main", "--stability-update=new", "--stability-require-baseline"),
        *("--stability-compare-fail=toy_moved[3.0].*: x2", "--stability-save=other"),
    )
    run = workers(ADDED, *options, into="one")
    run.result.assert_outcomes(passed=2, failed=2)
    assert run.verdicts == {
        "toy_moved[1.0]": "fail",
        "toy_moved[2.0]": "fail",
        "toy_moved[3.0]": "pass",
        "toy_drift[test_added]": "new",
    }
    assert "ToyMoved(drift=1.0): max_ulp 2 is worse than its baseline 1" in run.records["toy_moved[1.0]"]["message"]
    added, known = {"toy_drift[test_added]"}, {f"toy_moved[{drift}]" for drift in (1.0, 2.0, 3.0)}
    assert {check for check, _ in read(folder / "main.jsonl").entries} == added | known
    assert {check for check, _ in read(folder / "other.jsonl").entries} == added | {"toy_moved[3.0]"}
    inner(SOURCE.replace("3.0]", "3.0, 4.0]"), "--stability-baseline=other", "--stability-update=all", into="two")
    alone = read(folder / "other.jsonl")
    assert alone.of("toy_moved[1.0]")[0].readings["max_ulp"].value == 2.0
    assert len({entry.setting.numeric for entry in alone.entries.values()}) == 1, "a worker is no other environment"
