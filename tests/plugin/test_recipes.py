"""The worst directions of a search: recorded so that a machine can read them, and proved from the record."""

import json

import torch

from stabilitykit.numerics.digest import digest
from stabilitykit.plugin.recipes import ARRAY
from stabilitykit.report.read import read
from stabilitykit.strategies import Direction

BASIS = torch.eye(6, dtype=torch.float64)[[4, 2]]
WORST = Direction("axis", (0, -1), 6), Direction("sign", (0,), 6)
CHECK = "along[test_search]"


def test_the_worst_recipes_are_recorded_with_their_bits(either, listed):
    run = either(listed)
    (record,) = run.run["records"]
    assert [Direction.from_dict(entry["recipe"]) for entry in record["recipes"]] == list(WORST)
    assert [entry["worst_of"] for entry in record["recipes"]] == [["first", "seen"], ["filled"]]
    assert record["recipes"][1]["readings"] == {"first": 1 / 6**0.5, "filled": 6, "seen": 1 / 6**0.5}
    bits = read(run.folder)[CHECK].result.arrays[ARRAY]
    assert bits.tobytes() == torch.stack([direction.expand() for direction in WORST]).numpy().tobytes()


def test_the_csv_has_the_recipe_of_each_reading(inner, listed):
    readings = read(inner(listed).folder).readings().set_index("reading")
    assert readings.recipe["first"] == WORST[0].to_dict()
    assert readings.recipe["filled"] == WORST[1].to_dict()


def test_a_recipe_on_a_basis_names_it(inner, listed):
    run = inner(listed.replace("(1, 1)", "(4, 1)").replace('("sign", (0,)', '("axis", (5, 1)'))
    worst = run.run["records"][0]["recipes"][-1]
    assert (worst["recipe"]["kind"], worst["worst_of"]) == ("subspace", ["filled"])
    assert worst["confirmed"]
    assert worst["recipe"]["basis"] == digest(BASIS)


def test_each_worst_direction_is_measured_once_more_from_its_record(inner, listed):
    run = inner(listed, "-s")
    assert len(run.asked) == 6
    assert run.asked[4:] == [repr(direction) for direction in WORST]
    (record,) = run.run["records"]
    assert (record["examples"], [entry["confirmed"] for entry in record["recipes"]]) == (4, [True, True])


def test_what_it_took_counts_as_the_checks_work(inner, listed):
    run = inner(
        listed.replace(
            "d = self.direction.expand()", "d = self.direction.expand() + subject.evaluate(subject.copies(1))[0]"
        )
    )
    assert run.run["work"]["forwards"] == 6


def test_one_question_alone_is_no_search(inner, listed):
    run = inner(listed.replace("in LISTED", "in LISTED[:1]"), "-s")
    assert len(run.asked) == 1
    assert [entry["confirmed"] for entry in run.run["records"][0]["recipes"]] == [False]


EACH = """
class Each(Along):
    direction: object = ()

    def find(self, subject):
        Along.asked.append("all")
        return Finding({"first": Reading(self.metrics[0], 1.0, place={"direction": str(self.direction[1])})}, "each")


def test_each(stability):
    for _ in range(2):
        stability.measure(Each(direction=tuple(LISTED)), SUBJECT)
    assert Along.asked == ["all", "all"]


def test_once_more(stability):
    assert Along.asked == ["all", "all"], "what was asked as a whole is not asked in part"
"""


def test_a_list_of_recipes_in_one_question_is_recorded_and_not_split(inner, listed):
    run = inner(listed.split("def test_search")[0] + "from stabilitykit import Reading\n" + EACH)
    run.result.assert_outcomes(passed=2)
    (record,) = run.run["records"]
    assert [entry["direction"] for entry in record["recipes"]] == [repr(WORST[0])]


def test_a_failure_over_a_list_blames_none_of_it(inner, listed):
    run = inner(
        listed.split("def test_search")[0] + "from stabilitykit import Reading\n" + EACH.replace("all", "ALL", 1)
    )
    run.result.assert_outcomes(failed=2)
    assert "Measured last along" not in run.text
    assert not run.run["records"][0]["recipes"][0]["failing"]


NAMED = """
class Named(Along):
    def find(self, subject):
        return Finding({"first": len(subject.name), "filled": 9 - len(subject.name)}, "named")


def test_named(stability):
    for name in ("a", "bb", "ccc"):
        subject = FunctionSubject(lambda X: X, torch.zeros(DIM), name=name)
        stability.measure(Named(direction=LISTED[1]), subject)
"""


def test_the_same_direction_on_two_subjects_is_two_recipes(inner, listed):
    run = inner(listed.split("def test_search")[0] + NAMED)
    run.result.assert_outcomes(passed=1)
    (record,) = run.run["records"]
    found = [(entry["worst_of"], entry["readings"], entry["confirmed"]) for entry in record["recipes"]]
    assert found == [(["first"], {"first": 3, "filled": 6}, True), (["filled"], {"first": 1, "filled": 8}, True)]


def test_what_does_not_repeat_fails_the_search(inner, listed):
    """The planted defect: the answer depends on more than the direction."""
    run = inner(listed.replace("stability.measure(Along", "stability.measure(Forgetful"))
    run.result.assert_outcomes(failed=1, passed=1)
    sentence = "measured again from its record, Direction(kind='axis', data=(0, -1), dim=6) gave other bits"
    assert f"{sentence} (calls 5, was 2)" in run.text
    (record,) = run.run["records"]
    assert record["verdict"] == "fail"
    assert sentence in record["message"]
    assert [entry["confirmed"] for entry in record["recipes"]] == [False, False]
    assert [entry["failing"] for entry in record["recipes"]] == [True, False]
    assert "Measured last along" not in run.text


def test_other_arrays_alone_fail_it_too(inner, listed):
    source = listed.replace('arrays={"d": d.numpy()}', 'arrays={"d": d.numpy(), "n": np.array(len(Along.asked))}')
    run = inner("import numpy as np\n" + source)
    assert "gave other bits (the readings are the same, rows or arrays are not)" in run.text


def test_a_recipe_that_expands_differently_later_fails_the_search(inner, listed):
    """The planted defect: a recipe that is not what was measured, although the measurement would repeat."""
    later = "    monkeypatch.setattr(Direction, 'expand', lambda self, basis=None: BASIS[0])\n"
    source = listed.replace("def test_search(stability)", "def test_search(stability, monkeypatch)")
    run = inner(source.replace("\n\ndef test_then", f"{later}\n\ndef test_then"))
    run.result.assert_outcomes(failed=1, passed=1)
    assert "its expansion has other bits than were measured" in run.text


def test_a_failing_assertion_names_the_recipe(inner, drawn):
    run = inner(drawn.replace("assert True", "assert abs(float(direction.expand(BASIS)[4])) < 0.9"))
    run.result.assert_outcomes(failed=1, passed=1)
    found = Direction("subspace", (1,), 6).on(BASIS)
    line = f"Measured last along {found!r}; recipe {json.dumps(found.to_dict())}"
    assert line in run.text
    (record,) = run.run["records"]
    assert line in record["message"]
    first = record["recipes"][0]
    assert (first["recipe"], first["failing"]) == (found.to_dict(), True)
    assert sum(entry["failing"] for entry in record["recipes"]) == 1
    assert all(entry["worst_of"] for entry in record["recipes"][1:]), "what it shrank from is not kept"
    rows = read(run.folder)[CHECK].result.arrays[ARRAY]
    assert rows[0].tobytes() == found.expand().numpy().tobytes()
    assert len(rows) == len(record["recipes"])
    assert "the failure" in (run.folder / "index.html").read_text(encoding="utf-8")


def test_a_broken_limit_keeps_the_recipe_it_shrank_to(inner, drawn):
    run = inner(drawn.replace("def test_search", "@pytest.mark.stability(limits={'first': 0.9})\ndef test_search"))
    first, *others = run.run["records"][0]["recipes"]
    assert Direction.from_dict(first["recipe"]) == Direction("axis", (0, 1), 6)
    assert first["failing"]
    assert not any(entry["failing"] for entry in others)


def test_an_error_within_a_search_leaves_the_recipe(inner, drawn):
    source = drawn.replace(
        "        d = self",
        "        if self.direction.kind == 'sparse':\n            raise InvalidError('nan')\n        d = self",
    )
    (record,) = inner(source).run["records"]
    assert record["verdict"] == "invalid"
    assert record["recipes"][0]["failing"]
    assert record["recipes"][0]["recipe"]["kind"] == "sparse"
