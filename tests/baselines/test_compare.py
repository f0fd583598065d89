"""What becomes of a check beside its baseline; every status with its planted cause and its clean twin."""

import math
from dataclasses import replace

import numpy as np
import pytest
from oracles.kept import ELSEWHERE, HERE, course, made

from stabilitykit.baselines.compare import compare
from stabilitykit.baselines.entry import Kept, Setting
from stabilitykit.baselines.tolerance import Tolerance
from stabilitykit.baselines.words import explanation, sentence


def rules(*expressions):
    return [Tolerance.parse(expression) for expression in expressions]


def kinds(found):
    return {drift.name: drift.kind for drift in found.drifts}


def test_the_same_bits_hold():
    found = compare(made(), [made()])
    assert (found.status, found.changes, found.broken) == ("same", (), ())
    assert sentence(found, "b") == ""


@pytest.mark.parametrize(
    ("values", "status", "kind"),
    [
        ({"radius": float(np.nextafter(2.0, 0))}, "drifted", {"radius": "worse"}),
        ({"radius": float(np.nextafter(2.0, 3))}, "better", {"radius": "better"}),
        ({"max_ulp": 5.0}, "drifted", {"max_ulp": "worse"}),
        ({"max_ulp": 3.0}, "better", {"max_ulp": "better"}),
        ({"cells": 8.0}, "drifted", {"cells": "changed"}),
        ({"cells": 8.0, "radius": 3.0}, "better", {"cells": "followed", "radius": "better"}),
        ({"cells": 8.0, "radius": 3.0, "max_ulp": 5.0}, "drifted", {"cells": "changed", "max_ulp": "worse"}),
        ({"radius": -0.0}, "drifted", {"radius": "worse"}),
        ({"radius": math.inf}, "better", {"radius": "better"}),
    ],
)
def test_one_float_for_the_worse_drifts_and_one_for_the_better_does_not(values, status, kind):
    found = compare(made(**values), [made()])
    assert found.status == status
    assert kinds(found) == {"radius": "same", "max_ulp": "same", "cells": "same"} | kinds(found) | kind


@pytest.mark.parametrize(
    ("rule", "now", "kind"),
    [
        ("toy.radius: 5%", 1.9, "within"),
        ("toy.radius: 5%", 1.8999, "worse"),
        ("toy.*: x2", 1.0, "within"),
        ("other.radius: 99%", 1.9, "worse"),
        ("toy.radius: any", 0.0, "within"),
        ("toy.radius: 5%", 200.0, "better"),
    ],
)
def test_a_tolerance_bounds_the_worse_side(rule, now, kind):
    found = compare(made(radius=now), [made()], rules(rule))
    assert kinds(found)["radius"] == kind
    assert found.status == {"within": "same", "worse": "drifted", "better": "better"}[kind]


def test_a_tolerance_bounds_both_sides_of_what_has_no_better_one():
    for now in (6.5, 7.5):
        assert compare(made(cells=now), [made()], rules("toy.cells: 0.5")).status == "same"
    for now in (6.4, 7.6):
        assert compare(made(cells=now), [made()], rules("toy.cells: 0.5")).status == "drifted"


@pytest.mark.parametrize(
    ("low", "high", "kind", "allowed"),
    [
        (2.0, 3.0, "same", "interval"),
        (3.0, 4.0, "same", "interval"),
        (3.5, 5.0, "worse", "interval"),
        (0.1, 0.9, "better", "interval"),
    ],
)
def test_of_what_was_sampled_the_intervals_are_compared(low, high, kind, allowed):
    then = made(readings={"rate": Kept(2.0, "share", "lower", 1.0, 3.0)})
    now = made(readings={"rate": Kept((low + high) / 2, "share", "lower", low, high)})
    (drift,) = compare(now, [then]).drifts
    assert (drift.kind, drift.allowed) == (kind, allowed)
    if kind == "worse":
        assert compare(now, [then], rules("toy.rate: 0.5")).status == "same"
        assert compare(now, [then], rules("toy.rate: 0.49")).status == "drifted"


def test_a_reading_that_is_gone_is_a_drift_and_a_new_one_is_not():
    whole = made()
    less = replace(whole, readings={"radius": whole.readings["radius"]})
    assert kinds(compare(less, [whole])) == {"radius": "same", "max_ulp": "gone", "cells": "gone"}
    assert compare(less, [whole], rules("*.*: any")).status == "same"
    assert compare(whole, [less]).status == "same"


def test_no_entry_is_new():
    found = compare(made(), [])
    assert found.status == "new"
    assert sentence(found, "b") == "b has no entry for this check; add it with --stability-update new"


def test_another_numeric_environment_is_not_compared_and_the_fields_are_named():
    found = compare(made(setting=ELSEWHERE, radius=0.0), [made()])
    assert (found.status, found.changes) == ("elsewhere", (("threads", 1, 2),))
    assert "threads was 1, is 2" in sentence(found, "b")
    here = compare(made(radius=0.0), [made(setting=ELSEWHERE), made()])
    assert (here.status, here.then.setting) == ("drifted", HERE)


def test_of_several_environments_the_nearest_is_named():
    far = Setting({"torch": "2.9", "threads": 4, "gpu": "H100"}, {})
    found = compare(made(), [made(setting=far), made(setting=ELSEWHERE)])
    assert found.changes == (("threads", 2, 1),)


def test_a_field_that_says_nothing_changes_no_environment():
    from stabilitykit.baselines.measured import KINDS, _facts

    identity = {name: "x" for name, kind in KINDS.items() if kind == "identity"}
    assert _facts(identity | {"gpu": None}, "identity") == {n: "x" for n in identity if n != "gpu"}


def test_another_question_is_not_compared():
    asked = {"measurement": "Toy", "parameters": {"angles": 5}, "prompt": "two"}
    found = compare(made(asked=asked, radius=0.0), [made()])
    assert found.status == "other question"
    assert "prompt was one, is two; angles was 3, is 5" in sentence(found, "b")


def test_another_model_under_the_same_check_is_foreign_in_every_environment():
    other = {"name": "toy", "hidden_size": 4}
    for setting in (HERE, ELSEWHERE):
        found = compare(made(model=other, setting=setting), [made()])
        assert (found.status, found.changes) == ("foreign", (("hidden_size", 3, 4),))
    assert "is of another model; hidden_size was 3, is 4" in sentence(found, "b")


def test_other_weights_explain_a_drift_and_alone_are_none():
    moved = compare(made(weights="v" * 64, radius=1.0), [made()])
    assert moved.status == "drifted"
    assert explanation(moved.changes) == f"Changed since: weights was {'w' * 12}, is {'v' * 12}."
    assert compare(made(weights="v" * 64), [made()]).status == "same"


def test_a_changed_version_explains_a_drift():
    setting = Setting(HERE.identity, {"python": "3.12", "kit": "0.1.0"})
    found = compare(made(setting=setting, radius=1.0), [made()])
    assert (found.status, found.changes) == ("drifted", (("python", "3.11", "3.12"),))


def test_nothing_changed_is_said_too():
    found = compare(made(radius=1.0), [made()])
    assert explanation(found.changes).startswith(
        "Nothing that is recorded of weights, versions and settings has changed"
    )


def test_a_search_is_compared_along_its_recorded_directions_only():
    then = made(radius=1.5, courses=(course(radius=1.5),))
    now = made(radius=0.1, courses=(course("Direction(b)", radius=0.1),))
    assert compare(now, [then], along={"d" * 8: {"radius": 1.5}}).status == "same"
    worse = compare(now, [then], along={"d" * 8: {"radius": 1.4}})
    assert [(drift.kind, drift.place) for drift in worse.drifts] == [("worse", "Direction(a)")]
    assert kinds(compare(now, [then])) == {"radius": "gone"}


def test_two_directions_under_one_name_are_not_compared():
    then, now = made(named={"v1": "a" * 8}), made(named={"v1": "b" * 8}, radius=1.0)
    found = compare(now, [then])
    assert (found.status, found.changes) == ("other question", (("v1", "a" * 8, "b" * 8),))
    assert compare(then, [then]).status == "same"
