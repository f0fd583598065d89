"""`--stability-require-baseline`: what could not be compared fails; nothing passes for want of a baseline."""

import pytest

SOURCE = """
def test_known(stability):
    stability.measure(ToyDrift(1.0), TOY)
"""
ADDED = (
    SOURCE
    + """
def test_added(stability):
    stability.measure(ToyDrift(1.0), TOY)
"""
)


def test_a_check_without_an_entry_fails_with_the_sentence(inner):
    inner(SOURCE, "--stability-save=main")
    run = inner(ADDED, "--stability-baseline=main", "--stability-require-baseline", into="again")
    run.result.assert_outcomes(passed=1, failed=1)
    assert run.verdicts == {"toy_drift[test_known]": "pass", "toy_drift[test_added]": "fail"}
    message = run.records["toy_drift[test_added]"]["message"]
    assert message.startswith(
        "toy_drift[test_added]: .stability/main.jsonl has no entry for this check; add it with --stability-update new\n"
    )
    assert (
        'Rerun:  pytest "test_inner.py::test_added" --stability-baseline=main --stability-require-baseline' in message
    )


def test_another_question_fails(inner):
    inner(SOURCE, "--stability-save=main")
    other = SOURCE.replace("1.0", "2.0")
    run = inner(other, "--stability-baseline=main", "--stability-require-baseline", into="again")
    run.result.assert_outcomes(failed=1)
    assert "answers another question; drift was 1.0, is 2.0" in run.text


def test_what_is_being_added_does_not_fail(inner):
    inner(SOURCE, "--stability-save=main")
    run = inner(
        ADDED, "--stability-baseline=main", "--stability-require-baseline", "--stability-update=new", into="again"
    )
    run.result.assert_outcomes(passed=2)
    run = inner(ADDED, "--stability-baseline=main", "--stability-require-baseline", into="after")
    run.result.assert_outcomes(passed=2)
    assert set(run.verdicts.values()) == {"pass"}


def test_no_file_costs_no_collection(inner):
    run = inner("raise SystemExit('collected')", "--stability-baseline=main", "--stability-require-baseline")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "--stability-require-baseline: there is no .stability/main.jsonl; write it with --stability-update=new"
        in run.text
    )
    assert "collected" not in run.text


def test_it_needs_a_baseline(inner):
    run = inner("raise SystemExit('collected')", "--stability-require-baseline")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--stability-require-baseline works on a baseline; name it with baseline" in run.text
