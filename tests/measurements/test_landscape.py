"""Maps with planted answers: a straight decision, a checkerboard, noise, a flat region; and what a map is made of."""

import gc
import json
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.planted_maps import PLANE, SPAN, UNIT, X0, bent, board, flat, line, noise, steps, two

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.ground import within
from stabilitykit.measurements.landscape import Landscape
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.grid import normalised_flip_ratio
from stabilitykit.numerics.plane import Plane
from stabilitykit.results.result import Result
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.noise import threads

N = 17


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def asked(fn, *, dtype=torch.float64, batch=4, x0=X0, **how):
    how = {"plane": PLANE, "span": SPAN, "n": N, "unit": "abs", "at": "prompt", "again": None} | how
    return measure(Landscape(**how), FunctionSubject(fn, x0.to(dtype), batch=batch))


def values(result):
    return {name: reading.value for name, reading in result.readings.items()}


def test_a_straight_decision_is_one_line_without_width():
    result = asked(line)
    found = values(result)
    assert found["band_width"] == found["band_width_eps"] == found["band_over_noise"] == found["band_share"] == 0
    assert (found["linear_agreement"], found["roughness"], found["flip_ratio_outside"]) == (1, 0, 0)
    assert found["linear_r2"] == pytest.approx(1)
    assert found["linear_max_over_noise"] < 16
    assert (found["regions_first"], found["regions_second"]) == (1, 1)
    assert found["moran_z"] > 10
    assert (found["cells"], found["inputs"], found["unrepeated"]) == (N * N, N * N, 0)
    assert found["gradient"] == pytest.approx(math.hypot(3, 1) / UNIT)
    assert found["gradient_ratio"] == pytest.approx(1)
    assert found["gradient_cv"] == pytest.approx(0, abs=1e-9)
    assert found["gap"] == pytest.approx(0.5)
    assert result.verdict == "pass"
    assert "One straight line" in result.sentence
    assert "'0' from '1'" in result.sentence
    assert result.subject["texture"] == "smooth"


def test_each_cell_is_the_difference_at_its_own_input():
    result = asked(line, batch=3)
    D, e1, e2 = (result.arrays[name] for name in ("D", "e1", "e2"))
    for i in range(N):
        for j in range(N):
            z = line((X0 + (e1[i] * PLANE[0] + e2[j] * PLANE[1]))[None])[0]
            assert D[i, j] == float(z[0] - z[1])
            assert result.arrays["linear"][i, j] == pytest.approx(3 * (i - 8) + (j - 8) + 0.5, abs=1e-9)
    assert (e1[8], e1[0], e1[-1]) == (0, -SPAN, SPAN)


def test_a_checkerboard_has_neither_line_nor_chance():
    found = values(asked(board))
    assert found["flip_ratio"] > 0.99
    assert found["moran"] < -0.99
    assert found["moran_z"] < -10
    assert found["roughness"] > 1.5
    assert found["linear_agreement"] == pytest.approx(0.5, abs=0.05)
    assert found["band_width"] > 0
    assert found["flip_ratio_normalised"] == pytest.approx(2, abs=0.02)


def test_noise_is_a_band_and_outside_it_the_line_stands():
    result = asked(noise, span=4 * SPAN, n=65)
    found, D = values(result), result.arrays["D"]
    linear = result.arrays["linear"]
    first, second = linear[D >= 0], linear[D < 0]
    assert found["band_width"] == second.max() - first.min() > 10
    assert found["band_width_eps"] == pytest.approx(found["band_width"] * UNIT)
    assert found["band_over_noise"] == pytest.approx(found["band_width"] / found["noise_gap"])
    assert 0.3 < found["band_share"] < 0.8
    assert 0.05 < found["roughness"] < 0.9
    inside = values(asked(noise))
    assert inside["roughness"] > 0.8
    assert abs(inside["moran_z"]) < 5
    far = asked(noise, span=4 * SPAN, n=65, beyond=21 / found["noise_gap"])
    assert values(far)["flip_ratio_outside"] < found["flip_ratio_normalised"] / 5
    assert "mix in a band" in result.sentence


def test_what_lies_outside_is_counted_as_by_hand():
    result = asked(noise, beyond=3 / (spacing(torch.ones(1, dtype=torch.float64) * 30).item()))
    D, linear = result.arrays["D"], result.arrays["linear"]
    noise_gap = values(result)["noise_gap"]
    beyond = result.parameters["beyond"] * noise_gap
    where = (linear > beyond).astype(int) - (linear < -beyond)
    assert 0 < np.abs(where).mean() < 1
    assert set(np.unique(where)) == {-1, 0, 1}
    assert values(result)["flip_ratio_outside"] == normalised_flip_ratio(D >= 0, where)


def test_what_lies_just_at_the_bound_is_inside():
    """The bound is put on one cell's own prediction: its pairs no longer count, those of the next cell do."""
    first = asked(noise)
    linear, gap = first.arrays["linear"], values(first)["noise_gap"]
    for edge in np.unique(np.abs(linear[linear != 0]))[:8]:
        beyond = float(edge / gap)
        assert beyond * gap == edge
        found = values(asked(noise, beyond=beyond))["flip_ratio_outside"]
        where = (linear > edge).astype(int) - (linear < -edge)
        assert found == normalised_flip_ratio(first.arrays["D"] >= 0, where)


def test_a_flat_map_is_called_flat_and_nothing_is_random():
    result = asked(flat)
    found = values(result)
    for name in ("band_width", "band_over_noise", "flip_ratio_normalised", "roughness", "moran", "moran_z", "moran_p"):
        assert math.isnan(found[name]), name
    assert math.isnan(found["entropy_ratio"])
    assert (found["share_first"], found["flip_ratio"], found["local_entropy"]) == (1, 0, 0)
    assert result.subject["texture"] == "flat"
    assert "flat" in result.sentence
    assert "'0'" in result.sentence
    assert "random" not in result.sentence
    mirrored = asked(flat, pair=(1, 0))
    assert values(mirrored)["share_first"] == 0
    assert "'0'" in mirrored.sentence


def test_a_map_without_any_slope_has_no_gradient_and_no_variation():
    found = values(asked(lambda X: two(steps(X)[:, 0] * 0 + 1)))
    assert (found["gradient"], found["gradient_linear"], found["gradient_ratio"]) == (0, 0, 0)
    assert math.isnan(found["gradient_cv"])
    assert math.isnan(found["linear_r2"])


def test_the_pair_is_the_two_largest_unless_it_is_given():
    def three(X):
        return torch.stack([X[:, 0] * 0 + 1, X[:, 0] * 0 + 3, 3 + X[:, 0] - X0[0]], dim=1)

    assert asked(three).subject["pair"] == [1, 2]
    assert asked(three, pair=(2, 0)).subject["pair"] == [2, 0]
    with pytest.raises(UsageError, match="from 0 to 2"):
        asked(three, pair=(0, 3))


def test_a_third_token_and_equal_logits_are_counted():
    def third(X):
        u = steps(X)[:, 0]
        return torch.stack([1 + u * 0, 1 + u.clamp(min=0), torch.where(u > 4, 90.0, -1.0)], dim=1)

    result = asked(third, pair=(0, 1))
    found = values(result)
    assert found["share_third"] == 4 / N
    assert found["share_equal"] == 9 / N
    assert found["share_first"] == 9 / N
    assert (result.arrays["third"].sum(axis=1) == ([0] * 13 + [N] * 4)).all()
    assert "a third token leads" in result.sentence


def test_the_prediction_starts_in_the_slot_of_its_cell():
    """Slots that round differently are no deviation from the derivative."""

    def slotted(X):
        return line(X) + torch.arange(len(X), dtype=X.dtype)[:, None] * torch.tensor([0.25, 0, 0], dtype=X.dtype)

    found = values(asked(slotted, batch=4))
    assert found["linear_max_over_noise"] * found["noise_gap"] < 1e-9
    assert found["noise_gap"] >= 0.75


def test_the_noise_is_at_least_a_unit_of_the_logit():
    found = values(asked(lambda X: line(X).float(), dtype=torch.float32, span=2.0**-18))
    assert found["noise_gap"] == float(spacing(torch.tensor([1.25])))


def test_a_span_in_noise_is_so_many_floors_across_the_line():
    wide = asked(line, unit="noise", span=2.0**40, n=3)
    reach = wide.arrays["e1"][-1]
    found = values(wide)
    assert reach * found["gradient_linear"] == pytest.approx(2.0**40 * found["noise_gap"])
    with pytest.raises(UnsupportedError, match="no slope in this plane"):
        asked(line, unit="noise", plane=torch.eye(4, dtype=torch.float64)[2:])
    ulp = asked(line, unit="ulp", span=64.0, n=3)
    assert ulp.arrays["e1"][-1] == 64 * float(spacing(X0).median())


def test_without_a_derivative_there_is_a_map_and_no_prediction():
    class Steps(FunctionSubject):
        def vjp(self, U):
            raise UnsupportedError("no derivative here")

    how = {"plane": PLANE, "span": SPAN, "n": N, "unit": "abs", "at": "prompt"}

    class Made(Steps):
        def at(self, x, *, proved=True):
            return self

    result = measure(Landscape(**how), Made(line, X0, batch=4))
    found = values(result)
    for name in ("linear_agreement", "band_width", "roughness", "flip_ratio_outside", "gradient_linear"):
        assert math.isnan(found[name]), name
    assert found["flip_ratio"] > 0
    assert "linear" not in result.arrays
    assert [row["map"] for row in result.rows] == ["measured", "shuffled"]
    assert result.subject["texture"] == "unknown"
    with pytest.raises(UnsupportedError, match="no derivative"):
        measure(Landscape(**{**how, "unit": "noise"}), Made(line, X0, batch=4))


def test_answers_that_do_not_repeat_fail_the_check():
    calls = []

    def restless(X):
        calls.append(1)
        return line(X) + (torch.tensor([1e-3, 0, 0], dtype=X.dtype) if len(calls) % 2 else 0)

    result = asked(restless)
    assert result.readings["unrepeated"].value > 0
    assert result.verdict == "differs"
    assert "had other bits" in result.sentence


def test_a_map_repeats_bit_for_bit():
    first, second = asked(noise), asked(noise)
    assert all(first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays)
    assert str(values(first)) == str(values(second))


def test_a_map_can_be_rebuilt_from_its_arrays():
    result = Result.from_dict(json.loads(asked(noise, dtype=torch.float32, span=2.0**-18).to_json()))
    x0, directions = (torch.from_numpy(result.arrays[name]) for name in ("x0", "directions"))
    e1, e2 = np.meshgrid(result.arrays["e1"], result.arrays["e2"], indexing="ij")
    plane = Plane(x0, *directions, result.subject["map_rule"])
    Z = noise(plane.at(e1.ravel(), e2.ravel()))
    a, b = result.subject["pair"]
    assert ((Z[:, a].double() - Z[:, b].double()).numpy() == result.arrays["D"].ravel()).all()


def test_inputs_that_floats_do_not_tell_apart_are_run_once_and_said():
    result = asked(line, dtype=torch.float32, span=2.0**-24)
    found = values(result)
    assert found["inputs"] < N * N / 4
    assert len(np.unique(result.arrays["inputs"])) == found["inputs"]
    assert "the grid is finer than floats are" in result.sentence
    D, numbers = result.arrays["D"].ravel(), result.arrays["inputs"].ravel()
    assert all(len(set(D[numbers == number])) == 1 for number in np.unique(numbers))
    with pytest.raises(UsageError, match=r"e1 from (-9\.31323e-10 to 9\.31323e-10) and e2 from \1 are one input"):
        asked(line, dtype=torch.float32, span=2.0**-30)


def test_the_second_run_of_some_inputs_is_optional():
    assert values(asked(line, again=0))["repeated"] == 0
    assert values(asked(line, again=8))["repeated"] == 4 + 1, "the last batch holds one"
    assert values(asked(line, again=None))["repeated"] == N * N


def test_at_a_given_input_the_map_is_centred_there():
    there = X0 + torch.tensor([0.0, UNIT, 0.0, 0.0], dtype=torch.float64)
    moved = asked(line, at=there)
    assert (moved.arrays["x0"] == there.numpy()).all()
    assert values(moved)["gap"] == 1.5
    assert (moved.arrays["D"][:, :-1] == asked(line).arrays["D"][:, 1:]).all()


def test_at_the_tie_the_two_logits_are_equal():
    result = asked(bent, at="tie")
    assert abs(values(result)["gap"]) <= 2.0**-50
    assert result.subject["tie_distance"] > 0.1
    assert not (result.arrays["x0"] == X0.numpy()).all()
    assert 0.3 < values(result)["share_first"] < 0.7
    assert result.subject["x0_digest"] != result.subject["map_middle"]


def test_the_ground_is_found_once_for_a_subject_and_goes_with_it():
    def fresh(X):  # ties and vectors are kept for a function: another test may have asked for those of `bent`
        return bent(X)

    subject = FunctionSubject(fresh, X0, batch=4)
    asked = Landscape(("v1", "v2"), span=SPAN, n=N, unit="abs", again=0)
    first = measure(asked, subject)
    second = measure(replace(asked, n=N + 2), subject)
    assert first.execution.backwards > 1
    assert second.execution.backwards == 0
    assert second.arrays["x0"].tobytes() == first.arrays["x0"].tobytes()
    other = measure(replace(asked, pair=(1, 0)), subject)
    assert other.subject["pair"] == [1, 0]
    moved = measure(replace(asked, at=X0 * 2), subject)
    assert (moved.arrays["x0"] == 2 * X0.numpy()).all()
    kept = weakref.ref(subject)
    del subject
    gc.collect()
    assert kept() is None


def test_directions_past_the_last_are_the_last():
    subject = FunctionSubject(line, X0)
    assert within(("v1", "v10"), subject) == ["v1", "v3"]
    assert within(("-v2", "v_last"), subject) == ["-v2", "v3"]
    assert within(PLANE, subject) is PLANE


def test_named_directions_are_those_at_the_middle():
    def curved(X):
        return two(X[:, 0] ** 2 - 0.25 + 3 * X[:, 1] * X[:, 2])

    here, there = (
        asked(curved, plane=("v1", "v2")),
        asked(curved, plane=("v1", "v2"), at=X0 * torch.tensor([2.0, 1, 1, 1])),
    )
    assert here.subject["map_plane"] == ["v1", "v2"]
    gradient = torch.tensor([1.0, 3.0, -0.75, 0.0], dtype=torch.float64)
    v = torch.from_numpy(here.arrays["directions"][0])
    assert abs(float(v @ gradient)) == pytest.approx(float(gradient.norm()))
    assert not np.allclose(here.arrays["directions"][0], there.arrays["directions"][0])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"plane": ("v1",)}, "does not name two"),
        ({"plane": "v1"}, "does not name two"),
        ({"plane": torch.eye(4)[:3]}, "does not name two"),
        ({"n": 10}, "no point in the middle"),
        ({"n": 1}, "make no map"),
        ({"span": 0.0}, "no length"),
        ({"span": math.inf}, "no length"),
        ({"unit": "cm"}, "is not one of noise, abs"),
        ({"at": "home"}, "neither 'tie'"),
        ({"rule": "p16"}, "is not one of p64r"),
        ({"again": -1}, "no number of inputs"),
        ({"beyond": -1.0}, "no number of noise floors"),
        ({"shuffles": 99}, "at least 199"),
    ],
)
def test_what_makes_no_map_is_refused(how, said):
    with pytest.raises(UsageError, match=said):
        Landscape(**how)


def test_a_number_that_is_not_finite_is_no_map():
    def hole(X):
        return line(X) + torch.where(steps(X)[:, :1] > 4, torch.inf, 0.0)

    with pytest.raises(InvalidError, match="inf"):
        asked(hole)


def test_the_stated_cost_bounds_the_work():
    for how in ({"again": None}, {"again": 0}, {"at": "tie"}):
        measurement = Landscape(**({"plane": PLANE, "span": SPAN, "n": N, "unit": "abs", "at": "prompt"} | how))
        subject = FunctionSubject(bent, X0, batch=4)
        stated = measurement.cost(subject)
        result = measure(measurement, subject)
        assert result.execution.forwards <= stated.forwards
        assert result.execution.forwards > 0.5 * stated.forwards
        assert result.execution.backwards <= stated.backwards


def test_the_study_is_asked_with_its_own_numbers():
    study = Landscape.study(("v1", "v10"))
    assert (study.n, study.span, study.unit, study.rule) == (201, 1e-8, "abs", "p32")
    assert replace(study, n=3).plane == ("v1", "v10")
