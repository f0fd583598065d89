"""What is kept of a record: the question without its answers, the model without its weights, numbers without nan."""

import math
from dataclasses import replace

import numpy as np
import pytest

from stabilitykit.baselines.measured import NAMED, entry_of
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result

RADIUS = Metric("radius", "input", "higher", "")
SUBJECT = {
    "name": "subject",
    "model": "/builds/42/my-model/",
    "model_digest": "d" * 64,
    "architecture": "LlamaForCausalLM",
    "layers": 3,
    "hidden_size": 4,
    "prompt": "one",
    "token_ids": [1, 2],
    "batch": 1,
    "x0_digest": "changes with the weights",
    "proofs": {"repeatable": True},
}
ENVIRONMENT = {"threads": 1, "torch": "2", "gpu": None, "numpy": "2.4", "weight_digest": "d" * 64, "load_average": 3.5}


def result(**more):
    values = {
        "readings": {"radius": Reading(RADIUS, 2.0)},
        "parameters": {"direction": "v1", "n": 3},
        "subject": SUBJECT,
        "environment": ENVIRONMENT,
        **more,
    }
    return Result("Toy", "toy", "measured", "Toy()", "", **values)


def record(**more):
    recipes = more.pop("recipes", ())
    return Record("toy[a]", "n", "measured", result(**more), recipes=recipes)


def test_of_a_path_the_last_part_is_the_models_name():
    entry = entry_of(record())
    assert entry.model == {"name": "my-model", "architecture": "LlamaForCausalLM", "layers": 3, "hidden_size": 4}
    assert entry_of(record(subject={**SUBJECT, "model": "C:\\models\\my-model"})).model["name"] == "my-model"


def test_the_question_has_no_answer_in_it():
    entry = entry_of(record())
    assert entry.asked == {
        "measurement": "Toy",
        "parameters": {"direction": "v1", "n": 3},
        "prompt": "one",
        "token_ids": [1, 2],
        "batch": 1,
    }


def test_weights_and_what_changes_from_run_to_run_are_no_part_of_the_setting():
    entry = entry_of(record())
    assert entry.weights == "d" * 64
    assert (entry.setting.identity, entry.setting.context) == ({"threads": 1, "torch": "2"}, {"numpy": "2.4"})
    other = entry_of(record(environment={**ENVIRONMENT, "weight_digest": "e" * 64, "load_average": 0.1}))
    assert (other.setting, other.weights) == (entry.setting, "e" * 64)


def test_several_subjects_are_known_by_their_names():
    readings = {"radius": Reading(RADIUS, 2.0, place={"subject": "two"})}
    entry = entry_of(record(readings=readings, rows=({"subject": "one"}, {"subject": "two"}, {"subject": "one"})))
    assert entry.asked["subjects"] == ["one", "two"]
    assert "prompt" not in entry.asked


def test_nan_is_not_kept_and_half_an_interval_is_none():
    readings = {
        "radius": Reading(RADIUS, math.nan),
        "half": Reading(RADIUS, 2.0, low=1.0),
        "whole": Reading(RADIUS, 2.0, 1, 3),
    }
    kept = entry_of(record(readings=readings)).readings
    assert list(kept) == ["half", "whole"]
    assert (kept["half"].low, kept["whole"].low, kept["whole"].high) == (None, 1.0, 3.0)


@pytest.mark.parametrize("verdict", ["crash", "timeout", "skipped", "unsupported"])
def test_without_a_result_there_is_nothing_to_keep(verdict):
    assert entry_of(Record("toy[a]", "n", verdict)) is None


def test_equality_of_a_thing_with_itself_is_not_kept():
    assert entry_of(replace(record(), result=replace(result(), verdict="not-distinct"))) is None


RECIPE = {"direction": "Direction(a)", "recipe": {"kind": "axis"}, "digest": "1" * 8, "readings": {"radius": 2.0}}
BASIS = {"direction": "Direction(b)", "recipe": {"basis": "x"}, "digest": "2" * 8, "readings": {"radius": 3.0}}


def test_what_a_search_drew_is_kept_beside_the_question_with_the_bits_it_needs():
    drawn = {"direction": "Direction(kind='axis', data=(0, 1), dim=4)", "n": 3}
    rows = np.arange(8.0).reshape(2, 4)
    entry = entry_of(record(parameters=drawn, recipes=(RECIPE, BASIS), arrays={"recipes": rows}))
    assert entry.asked["parameters"] == {"n": 3}
    assert [(one.direction, dict(one.readings)) for one in entry.courses] == [
        ("Direction(a)", {"radius": 2.0}),
        ("Direction(b)", {"radius": 3.0}),
    ]
    assert entry.bits == {"2" * 8: rows[1].astype("<f8").tobytes()}


def test_directions_that_were_given_as_a_list_are_the_question():
    given = {"directions": ["Direction(kind='axis', data=(0, 1), dim=4)"]}
    entry = entry_of(record(parameters=given, recipes=(RECIPE,)))
    assert (entry.courses, entry.asked["parameters"]) == ((), given)


@pytest.mark.parametrize("direction", ["v1", "v1 as recorded"])
def test_a_named_direction_is_kept_with_its_bits_under_its_name(direction):
    vector = np.array([0.5, 0.25, 0.0, -1.0])
    entry = entry_of(record(parameters={"direction": direction}, arrays={NAMED: vector}))
    assert entry.asked["parameters"] == {"direction": "v1"}
    ((name, digest),) = entry.named.items()
    assert (name, entry.bits) == ("v1", {digest: vector.tobytes()})
