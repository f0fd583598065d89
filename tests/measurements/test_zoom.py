"""Zooms against the maps they look into: new points, exact ends, refusals, and the end of the lattice."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.planted_maps import PLANE, SPAN, UNIT, X0, bent, line, noise

from stabilitykit.errors import IncomparableError, UsageError
from stabilitykit.measurements.landscape import Landscape
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.zoom import Zoom
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.noise import threads

N = 17
ASKED = Landscape(PLANE, span=SPAN, n=N, unit="abs", at="prompt", again=None)


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def subject(fn=line, x0=X0, batch=4):
    return FunctionSubject(fn, x0, batch=batch)


def values(result):
    return {name: reading.value for name, reading in result.readings.items()}


def test_the_whole_of_a_map_is_the_map():
    whole = (-SPAN, SPAN)
    old, new = measure(ASKED, subject(noise)), measure(Zoom(ASKED, (whole, whole), n=N, again=None), subject(noise))
    assert set(old.arrays) == set(new.arrays)
    assert all(old.arrays[name].tobytes() == new.arrays[name].tobytes() for name in old.arrays)
    assert str(values(old)) == str(values(new))


def test_points_between_those_of_the_map_are_run_anew():
    region = ((UNIT, 3 * UNIT), (-2 * UNIT, 2 * UNIT))
    model = subject()
    result = measure(Zoom(ASKED, region, n=33, again=0), model)
    assert result.execution.forwards >= 33 * 33
    e1, e2, D = (result.arrays[name] for name in ("e1", "e2", "D"))
    assert (e1[0], e1[-1], e2[0], e2[-1]) == (UNIT, 3 * UNIT, -2 * UNIT, 2 * UNIT)
    for i in (0, 7, 32):
        for j in (0, 5, 31):
            z = line((X0 + (e1[i] * PLANE[0] + e2[j] * PLANE[1]))[None])[0]
            assert D[i, j] == float(z[0] - z[1])
    assert len(np.unique(D)) > 5 * 3, "more values than the old cells of the region have"
    assert values(result)["gradient"] == pytest.approx(values(measure(ASKED, model))["gradient"])


def test_a_number_enlarges_the_middle_and_a_zoom_can_be_zoomed():
    once = Zoom(ASKED, 4.0, n=9, again=0)
    result = measure(once, subject())
    assert (result.arrays["e1"][0], result.arrays["e1"][-1]) == (-SPAN / 4, SPAN / 4)
    twice = measure(Zoom(once, 2.0, n=9, again=0), subject())
    assert twice.arrays["e2"][-1] == SPAN / 8
    off = Zoom(ASKED, ((0.0, SPAN), (-SPAN, 0.0)), n=9)
    beside = measure(Zoom(off, 2.0, n=9, again=0), subject())
    assert (beside.arrays["e1"][0], beside.arrays["e1"][-1]) == (SPAN / 4, SPAN * 3 / 4)
    assert (beside.arrays["e2"][0], beside.arrays["e2"][-1]) == (-SPAN * 3 / 4, -SPAN / 4)


@pytest.mark.parametrize(
    "region",
    [
        ((0.0, SPAN * 1.01), (0.0, SPAN)),
        ((0.0, SPAN), (-1.0, 0.0)),
        ((SPAN / 2, SPAN / 4), (0.0, SPAN)),
        ((0.0, 0.0), (0.0, SPAN)),
        ((2 * SPAN, 3 * SPAN), (0.0, SPAN)),
        ((0.0, math.nan), (0.0, SPAN)),
        ((0.0, math.inf), (0.0, SPAN)),
    ],
)
def test_what_is_not_inside_is_refused_and_never_moved(region):
    """The study moved the ends to the nearest old axis value: its own examples became one cell."""
    model = subject()
    with pytest.raises(UsageError, match=r"is not inside the map, whose e[12] runs from"):
        measure(Zoom(ASKED, region), model)
    with pytest.raises(UsageError, match="is not inside"):
        measure(Zoom(measure(ASKED, model), region), model)


def test_below_the_lattice_a_zoom_says_so_and_then_refuses():
    single = subject(lambda X: line(X).float(), X0.float())
    asked = replace(ASKED, span=2.0**-18)
    coarse = measure(Zoom(asked, 64.0, n=17, again=0), single)
    assert values(coarse)["inputs"] < 17 * 17 / 4
    assert "the grid is finer than floats are" in coarse.sentence
    fine = measure(Zoom(asked, 2.0, n=9, again=0), single)
    assert "finer" not in fine.sentence
    before = single.counter.forwards
    with pytest.raises(UsageError, match="are one input: the lattice is coarser"):
        measure(Zoom(asked, 2.0**16, n=17), single)
    assert single.counter.forwards - before < 17 * 17, "only the noise floor ran"


def test_a_stored_map_is_zoomed_from_its_own_bits():
    asked = Landscape(("v1", "v2"), span=SPAN, n=9, unit="abs", again=0)
    old = measure(asked, subject(bent))
    stored = Result.from_dict(json.loads(old.to_json()))
    model = subject(bent)
    new = measure(Zoom(stored, 3.0, n=9, again=0), model)
    live = measure(Zoom(asked, 3.0, n=9, again=0), subject(bent))
    assert all(new.arrays[name].tobytes() == live.arrays[name].tobytes() for name in new.arrays)
    assert new.subject["pair"] == old.subject["pair"]
    assert new.subject["tie_distance"] == old.subject["tie_distance"]
    assert new.subject["map_middle"] == old.subject["map_middle"]
    assert model.counter.backwards <= 2, "neither tie nor vectors are sought again"
    again = measure(Zoom(new, 2.0, n=9, again=0), subject(bent))
    assert again.arrays["e1"][-1] == pytest.approx(SPAN / 6)


def test_a_bfloat16_map_comes_back_bit_for_bit():
    half = subject(lambda X: line(X).bfloat16(), X0.bfloat16() * 1.1)
    asked = replace(ASKED, span=2.0, n=9)
    old = measure(asked, half)
    stored = Result.from_dict(json.loads(old.to_json()))
    new = measure(Zoom(stored, ((-2.0, 2.0), (-2.0, 2.0)), n=9, again=None), half)
    assert new.arrays["D"].tobytes() == old.arrays["D"].tobytes()


def test_the_map_of_another_model_is_refused():
    old = measure(ASKED, subject())
    with pytest.raises(IncomparableError, match="has dtype float64, line has float32"):
        measure(Zoom(old, 2.0), subject(x0=X0.float()))
    other = replace(old, subject={**old.subject, "model_digest": "else"})
    with pytest.raises(IncomparableError, match="model_digest"):
        measure(Zoom(other, 2.0), subject())


def test_what_is_no_map_or_no_part_is_refused():
    old = measure(ASKED, subject())
    with pytest.raises(UsageError, match="is no map"):
        Zoom(3)
    with pytest.raises(UsageError, match="is no map"):
        Zoom(replace(old, measurement="Staircase"))
    for region in (1.0, 0.5, math.inf, ((1, 2),), "all", ((1, 2), 3)):
        with pytest.raises(UsageError, match="region="):
            Zoom(ASKED, region)
    with pytest.raises(UsageError, match="make no map"):
        Zoom(ASKED, 2.0, n=2)


def test_the_map_is_told_by_its_title_and_not_by_its_numbers():
    old = measure(ASKED, subject())
    for zoom in (Zoom(ASKED, 3.0), Zoom(old, 3.0), Zoom(Zoom(old, 3.0), 3.0)):
        text = json.dumps(zoom.parameters())
        assert len(text) < 2000
        assert len(zoom.title) < 400
    assert Zoom(ASKED, 3.0).identity != Zoom(replace(ASKED, n=19), 3.0).identity
    assert Zoom(old, 3.0).identity != Zoom(old, 4.0).identity
    elsewhere = replace(old, subject={**old.subject, "map_middle": "another"})
    assert Zoom(old, 3.0).identity != Zoom(elsewhere, 3.0).identity


def test_the_stated_cost_bounds_the_work():
    model = subject(bent)
    for of in (ASKED, measure(ASKED, model), Zoom(ASKED, 2.0)):
        zoom = Zoom(of, 3.0, n=15, again=40)
        stated = zoom.cost(model)
        took = measure(zoom, subject(bent)).execution
        assert 0.5 * stated.forwards < took.forwards <= stated.forwards
        assert took.backwards <= stated.backwards


def test_a_zoom_of_a_stored_map_runs_the_model_no_more_often_than_the_map_did(toys):
    """Its middle is one at which the model was measured already: nothing about its bits is proved again."""
    on, runs = toys.subject([toys.Times(2.0)], batch=4, site="logits"), []
    on.model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    stored = measure(Landscape(torch.eye(8)[:2], span=0.5, n=3, unit="abs", at="prompt", again=None), on)
    took = len(runs)
    measure(Zoom(stored, 2.0, n=3, again=None), on)
    assert len(runs) - took <= took
