"""A search beside its baseline: recorded directions are measured again, bit for bit, and nothing else is compared."""

import pytest

from stabilitykit.baselines.store import read
from stabilitykit.strategies import Direction

FIRST = Direction("axis", (0, -1), 6)
ON_BASIS = "Direction(kind='subspace', data=(3, 4), dim=6)"
CHECK = "along[test_search]"


@pytest.fixture
def held(inner, listed):
    """Save the worst of four directions, one of them on a basis; then search anew beside that."""
    inner(listed.replace("in LISTED", "in [LISTED[3], LISTED[1]]"), "--stability-save=main").result.assert_outcomes(
        passed=2
    )
    return lambda source, *more: inner(source, "-s", "--stability-baseline=main", *more, into="again")


def test_recorded_directions_come_first_and_are_what_is_compared(held, drawn, pytester):
    run = held(drawn)
    run.result.assert_outcomes(passed=2)
    entry = read(pytester.path / ".stability" / "main.jsonl").of(CHECK)[0]
    assert {course.direction for course in entry.courses} == {
        repr(FIRST),
        "Direction(kind='subspace', data=(3, 4), dim=6)",
    }
    assert set(run.asked[:2]) == {repr(FIRST), "Direction(kind='subspace', data=(3, 4), dim=6) as recorded"}
    (record,) = run.run["records"]
    assert (record["verdict"], record["baseline"]["status"]) == ("pass", "same")
    assert record["result"]["readings"] != {}
    assert f"first along {FIRST!r}" in record["baseline"]["readings"]


def test_the_vector_is_replayed_and_not_todays_basis(held, drawn):
    run = held(drawn.replace("[[4, 2]]", "[[0, 1]]"))
    (record,) = run.run["records"]
    assert record["baseline"]["status"] == "same"


def test_a_reading_along_one_of_them_that_moved_fails(held, drawn):
    run = held(drawn.replace("abs(float(d[0]))", "2 * abs(float(d[0]))"))
    run.result.assert_outcomes(failed=1, passed=1)
    (record,) = run.run["records"]
    assert f"first along {FIRST!r} 2 is worse than its baseline 1" in record["message"].splitlines()[0]
    assert not any(entry["failing"] for entry in record["recipes"]), "what was measured last is not what failed"
    assert "Measured last along" not in run.text


def test_a_search_that_does_not_replay_has_lost_them(held, drawn):
    run = held(drawn.replace('    @stability.examples("along", DIM)\n', ""))
    (record,) = run.run["records"]
    assert "gone" in {one["kind"] for one in record["baseline"]["readings"].values()}


def test_another_dimension_is_said(held, drawn):
    run = held(drawn.replace("DIM = 6", "DIM = 7"))
    run.result.assert_outcomes(failed=1, passed=1)
    assert f"of {CHECK} in .stability/main.jsonl has 6 coordinates and the input has 7" in run.text


def test_a_test_that_a_resumed_run_takes_over_stays_as_it_was_judged(held, drawn):
    held(drawn)
    run = held(drawn, "--stability-resume")
    run.result.assert_outcomes(passed=2)
    assert "1 of 1 checks were taken over" in run.text
    (record,) = run.run["records"]
    assert (record["verdict"], record["baseline"]["status"]) == ("pass", "same")
