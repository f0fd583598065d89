"""Every measurement leaves a record, whatever becomes of the test, with and without xdist."""

import pytest

MIXED = """
def test_fine(stability):
    assert stability.measure(ToyDrift(0.0), TOY).readings["max_ulp"].value == 0

def test_differs(stability):
    stability.measure(ToyDrift(3.0), TOY)

@pytest.mark.stability(limits={"max_ulp": 4})
@pytest.mark.parametrize("drift", [1.0, 17.0])
def test_limited(stability, drift):
    stability.measure(ToyDrift(drift), TOY)

def test_two_kinds(stability):
    stability.measure(ToyGate(0.0), TOY)
    stability.measure(ToyDrift(2.0), TOY)

def test_invalid(stability):
    stability.measure(ToyInvalid(), TOY)

def test_unsupported(stability):
    stability.measure(ToyUnsupported(), TOY)

def test_checked_by_hand(stability):
    stability.measure(ToyDrift(5.0), TOY).check(max_ulp=4)

def test_own_assertion(stability):
    stability.measure(ToyDrift(0.0), TOY)
    assert False, "the test's own"

def test_skipped(stability):
    pytest.skip("not today")

def test_unrelated():
    pass
"""

VERDICTS = {
    "toy_drift[test_fine]": "measured",
    "toy_drift[test_differs]": "differs",
    "toy_drift[1.0]": "pass",
    "toy_drift[17.0]": "fail",
    "toy_gate[test_two_kinds]": "pass",
    "toy_drift[test_two_kinds]": "differs",
    "toy_invalid[test_invalid]": "invalid",
    "toy_unsupported[test_unsupported]": "unsupported",
    "toy_drift[test_checked_by_hand]": "fail",
    "toy_drift[test_own_assertion]": "fail",
    "skipped[test_skipped]": "skipped",
}


def test_every_verdict_arrives_at_the_controller(either):
    run = either(MIXED)
    run.result.assert_outcomes(passed=5, failed=4, skipped=2)
    assert run.verdicts == VERDICTS
    assert [record["check_id"] for record in run.run["records"]] == sorted(VERDICTS)
    assert sum("stability report: " in line for line in run.result.outlines) == 1
    assert run.run["run"]["environment"]["torch"]


def test_a_failure_says_what_broke_and_what_to_do_next(inner):
    run = inner(MIXED, "--stability-seed=3")
    run.result.stdout.fnmatch_lines(
        [
            "E * stabilitykit.StabilityFailure: ToyDrift(drift=17.0): max_ulp 17 breaks <= 4 on toy [[]float32, cpu[]]",
            "E *max_ulp * 17 * <= 4  ULP",
            "E *usually means (a) a planted cause.",
            'E *Rerun:  pytest "test_inner.py::test_limited[[]17.0[]]" --stability-seed=3',
            "E *Accept: --stability-limit 'toy_drift[[]17.0[]].max_ulp<=17*'",
        ]
    )
    assert "breaks" in run.records["toy_drift[17.0]"]["message"]


def test_a_result_is_recorded_before_it_is_judged(inner):
    """Judging is made to blow up; the numbers must be there all the same."""
    run = inner(
        """
def test_judged(stability, monkeypatch):
    def explode(*_, **__):
        raise RuntimeError("the judge is ill")

    monkeypatch.setattr("stabilitykit.results.result.Result.judge", explode)
    stability.measure(ToyGate(9.0), TOY)
"""
    )
    run.result.assert_outcomes(failed=1)
    record = run.records["toy_gate[test_judged]"]
    assert record["verdict"] == "fail"
    assert record["result"]["readings"][0]["value"] == 9.0


def test_numbers_reach_junit_by_name(either):
    run = either(MIXED, "--junitxml=junit.xml")
    xml = (run.folder.parent / "junit.xml").read_text(encoding="utf-8")
    assert 'name="stability.max_ulp" value="17"' in xml
    assert 'name="stability.toy_gate.max_ulp" value="0"' in xml


def test_equal_checks_of_two_tests_get_their_tests_names(inner):
    run = inner(
        """
@pytest.mark.parametrize("drift", [0.0])
def test_one(stability, drift):
    stability.measure(ToyDrift(drift), TOY)

@pytest.mark.parametrize("drift", [0.0])
def test_other(stability, drift):
    stability.measure(ToyDrift(drift), TOY)
"""
    )
    ids = [record["check_id"] for record in run.run["records"]]
    assert ids == ["toy_drift[0.0]@test_one", "toy_drift[0.0]@test_other"]


def test_nothing_measured_leaves_no_report(inner):
    run = inner("def test_unrelated():\n    pass\n")
    assert run.result.ret == 0
    assert not run.folder.exists()
    assert "stability report" not in run.text


def test_quiet_prints_the_path_alone(inner):
    run = inner("def test_fine(stability):\n    stability.measure(ToyDrift(0.0), TOY)\n", "-q")
    assert "toy_drift[test_fine]" not in run.text
    assert "stability: " not in run.text
    run.result.stdout.fnmatch_lines(["stability report: *out?index.html"])


def test_a_measurement_outside_a_test_is_refused(inner):
    run = inner(
        """
from stabilitykit.plugin.testlog import CURRENT

def test_outside(stability, pytestconfig, monkeypatch):
    monkeypatch.setitem(pytestconfig.stash._storage, CURRENT, None)
    with pytest.raises(UsageError, match="no test is running"):
        stability.measure(ToyDrift(0.0), TOY)
"""
    )
    run.result.assert_outcomes(passed=1)


@pytest.mark.long
def test_a_crashed_worker_is_a_record(inner):
    run = inner(
        """
import os

def test_dies(stability):
    os._exit(9)

def test_lives(stability):
    stability.measure(ToyDrift(0.0), TOY)

def test_unrelated_dies():
    os._exit(9)
""",
        "-n",
        "2",
        "--max-worker-restart=3",
        apart=True,
    )
    assert run.verdicts == {"dies[test_dies]": "crash", "toy_drift[test_lives]": "measured"}
    assert run.result.ret == 1
