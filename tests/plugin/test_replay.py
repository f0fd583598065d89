"""`--stability-replay`: recorded directions come first, with their own bits, and each reading is compared."""

import hashlib
import json

import numpy as np
import pytest

from stabilitykit.plugin.recipes import ARRAY
from stabilitykit.strategies import Direction

WORST = Direction("axis", (0, -1), 6), Direction("sign", (0,), 6)
CHECK = "along[test_search]"


@pytest.fixture
def former(inner, listed):
    """A run whose search of four directions was worst along two of them."""
    run = inner(listed)
    run.result.assert_outcomes(passed=2)
    return run.folder


@pytest.fixture
def replaying(inner, former):
    return lambda source, *options: inner(source, "-s", f"--stability-replay={former}", *options, into="again")


def test_the_recorded_directions_come_first_and_are_compared(replaying, former, drawn):
    run = replaying(drawn)
    run.result.assert_outcomes(passed=2)
    assert run.asked[:2] == [repr(direction) for direction in WORST]
    (record,) = run.run["records"]
    assert record["examples"] == 12
    assert [replay["same"] for replay in record["replays"]] == [True, True]
    for direction in WORST:
        assert f"replayed {direction!r} in another setting: all 3 readings as recorded" in run.text
    assert run.run["run"]["settings"]["replay"] == str(former)


def test_without_the_option_nothing_is_replayed(inner, drawn):
    run = inner(drawn, "-s")
    (record,) = run.run["records"]
    assert (record["examples"], record["replays"]) == (10, [])


def test_a_changed_reading_is_told_with_both_values(replaying, drawn):
    run = replaying(drawn.replace("abs(float(d[0]))", "2 * abs(float(d[0]))"))
    assert f"replayed {WORST[0]!r} in another setting: first 2.0, was 1.0; 2 as recorded" in run.text
    (record,) = run.run["records"]
    assert record["replays"][0]["readings"]["first"] == {"then": 1.0, "now": 2.0, "same": False}
    assert record["verdict"] == "measured", "another setting promises no bits"
    assert "first 2.0, was 1.0" in (run.folder / "index.html").read_text(encoding="utf-8")


def test_a_failing_direction_is_replayed_first_and_fails_again(inner, drawn):
    former = inner(drawn.replace("def test_search", "@pytest.mark.stability(limits={'first': 0.9})\ndef test_search"))
    former.result.assert_outcomes(failed=1, passed=1)
    again = drawn.replace("search(direction):", "search(direction):\n        assert direction.expand()[0] < 0.9")
    run = inner(again, "-s", f"--stability-replay={former.folder}", into="again")
    assert "Falsifying explicit" in run.text or "direction=Direction(kind='axis', data=(0, 1), dim=6)" in run.text
    assert run.asked == [], "the first example was the recorded failure"


def test_what_is_replayed_is_the_vector_and_not_todays_basis(inner, listed, drawn):
    former = inner(listed.replace("in LISTED", "in LISTED[3:]"))
    run = inner(drawn.replace("[[4, 2]]", "[[0, 1]]"), "-s", f"--stability-replay={former.folder}", into="again")
    assert run.asked[0] == "Direction(kind='subspace', data=(3, 4), dim=6) as recorded"
    replay = run.run["records"][0]["replays"][0]
    assert (replay["same"], replay["readings"]["seen"]["now"]) == (True, 0.6)


def test_a_check_without_a_record_takes_its_namesakes(replaying, drawn):
    run = replaying(drawn.replace("test_search", "test_other"))
    assert run.asked[:2] == [repr(direction) for direction in WORST]
    assert run.run["records"][0]["replays"][0]["check_id"] == CHECK
    run = replaying(drawn.replace('examples("along"', 'examples("across"'))
    assert run.run["records"][0]["replays"] == []


def test_another_dimension_is_said_in_one_sentence(replaying, former, drawn):
    run = replaying(drawn.replace("DIM = 6", "DIM = 7"))
    run.result.assert_outcomes(failed=1, passed=1)
    assert f"{WORST[0]!r} of {CHECK} in {former} has 6 coordinates and the input of {CHECK} has 7" in run.text
    assert [record["verdict"] for record in run.run["records"]] == ["incomparable"]


def test_damaged_bits_are_not_replayed(replaying, former, drawn):
    path = former / "arrays" / "along-test_search.npz"
    arrays = dict(np.load(path))
    arrays[ARRAY][1, 2] = np.nextafter(arrays[ARRAY][1, 2], 1)
    np.savez(path, **arrays)
    run = json.loads((former / "run.json").read_text(encoding="utf-8"))
    run["digests"][f"arrays/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (former / "run.json").write_text(json.dumps(run), encoding="utf-8")
    run = replaying(drawn)
    run.result.assert_outcomes(failed=1, passed=1)
    assert f"{WORST[1]!r}: its record has other bits than were measured; measure again" in run.text


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("", None, "--stability-replay 'out' holds no run.json; name a folder that a run wrote its report into"),
        ("{", "", "cannot be read as a report"),
        ('"schema_version": 1', '"schema_version": 9', "has schema 9"),
    ],
)
def test_a_folder_that_cannot_be_read_costs_no_collection(inner, former, old, new, sentence):
    path = former / "run.json"
    text = path.read_text(encoding="utf-8")
    path.unlink() if new is None else path.write_text(text.replace(old, new, 1), encoding="utf-8")
    run = inner("raise SystemExit('collected')", "--stability-replay=out", into="again")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text
    assert "collected" not in run.text


def test_a_run_without_a_search_cannot_be_replayed(inner, drawn):
    former = inner("def test_drift(stability):\n    stability.measure(ToyDrift(3.0), TOY)\n")
    run = inner(drawn, f"--stability-replay={former.folder}", into="again")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "recorded a direction; name the report of a run with a search in it" in run.text


@pytest.fixture
def tiny(inner):
    """A run of the suite's search on a tiny model."""
    options = ("--stability-suite", "--stability-model=tiny", "-k", "searched_directions", "-p", "no:xdist")
    former = inner("", *options)
    former.result.assert_outcomes(passed=1)
    return former.folder, lambda *more: inner("", *options, f"--stability-replay={former.folder}", *more, into="again")


def test_the_suites_search_repeats_bit_for_bit(tiny):
    run = tiny[1]()
    (record,) = run.run["records"]
    assert record["replays"]
    assert all(replay["promised"] and replay["same"] for replay in record["replays"])
    assert "in the same setting: all 15 readings as recorded" in run.text


def test_another_prompt_is_another_setting(tiny, pytester):
    (pytester.path / "mine.txt").write_text("Birds sing\n", encoding="utf-8")
    run = tiny[1]("--stability-prompts=mine.txt")
    (record,) = run.run["records"]
    assert record["replays"]
    assert not any(replay["promised"] for replay in record["replays"])
    assert record["verdict"] == "measured"


def test_other_bits_in_the_same_setting_differ_and_fail_under_strict(tiny):
    """The planted defect: one recorded reading is moved by one float."""
    path = tiny[0] / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    readings = data["records"][0]["recipes"][0]["readings"]
    readings["radius"] = float(np.nextafter(readings["radius"], 1))
    path.write_text(json.dumps(data), encoding="utf-8")
    run = tiny[1]()
    run.result.assert_outcomes(passed=1)
    assert [record["verdict"] for record in run.run["records"]] == ["differs"]
    run = tiny[1]("--stability-strict")
    run.result.assert_outcomes(failed=1)
    assert "A recorded direction, replayed in the same setting, gave other bits." in run.text
