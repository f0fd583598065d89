"""Which pairs of inputs a profile runs, once each and slot by slot, and which parameters name none."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.layer_profile import STILL
from stabilitykit.measurements.site_changes import EXACT

AXIS = torch.eye(8, dtype=torch.float64)[2]
ONES = torch.ones(8, dtype=torch.float64) / math.sqrt(8)


def value(result, name):
    return result.readings[name].value


def rows_at(result, site):
    return [row for row in result.rows if row["site"] == site]


def test_equal_inputs_are_run_once_and_unmoved_ones_not_at_all(toys):
    """The study's grid: a thousand steps, a few dozen inputs."""
    subject = toys.subject([toys.Times(2.0)], batch=4)
    ulp = 2.0**-24  # half the spacing below 1: the embedding lies in [0.5, 1.5)
    epsilons = tuple(k * ulp / 4 for k in range(1, 65))
    asked = sk.LayerProfile(direction=AXIS, epsilons=epsilons, unit="abs", signs=(1,), oracle=False)
    before = subject.noise_floor()
    result = sk.measure(asked, subject)
    inputs = [float(sk.perturb(subject.x0, AXIS, s)[2]) for s in epsilons]
    distinct = sorted(set(inputs) - {float(subject.x0[2])})
    assert 4 < len(distinct) < 33
    assert value(result, "distinct_inputs") == len(distinct)
    assert value(result, "pairs") == 64
    assert result.execution.forwards == 4 * (math.ceil(len(distinct) / 4) + 1)
    for row, x in zip(rows_at(result, "post_norm"), inputs, strict=True):
        assert row["sharing"] == inputs.count(x)
        assert row["input"] == (distinct.index(x) if x in distinct else -1)
        assert row["l2"] == 2 * abs(x - float(subject.x0[2]))
        if row["input"] == -1:
            assert {name: row[name] for name in STILL} == pytest.approx(STILL, nan_ok=True)
            assert math.isnan(row["alignment"])
    assert before.sentence == result.noise


def test_an_input_that_did_not_move_changes_no_number_and_turns_nothing(toys):
    asked = sk.LayerProfile(direction=AXIS, epsilons=(2.0**-30,), unit="abs", signs=(1,), oracle=False)
    rows = sk.measure(asked, toys.subject([toys.Times(2.0)])).rows
    assert [row["input"] for row in rows] == [-1] * len(rows)
    for row in rows:
        known = {name: row[name] for name in STILL if not math.isnan(row[name])}
        assert set(STILL) - set(known) == {"gain_realised", *EXACT}
        assert known.pop("cosine") == 1
        assert set(known.values()) == {0}


def test_unchanged_outputs_are_counted_by_distinct_inputs(toys):
    """Of 64 steps most share an input with others; some inputs reach the next multiple of 2**-21, some do not."""

    class Grid(torch.nn.Module):
        def forward(self, x):
            return (x * 2**21).round() / 2**21

    subject = toys.subject([Grid()], batch=4)
    epsilons = tuple(k * 2.0**-26 for k in range(1, 65))
    asked = sk.LayerProfile(direction=AXIS, epsilons=epsilons, unit="abs", signs=(1,), oracle=False)
    result = sk.measure(asked, subject)
    x0 = float(subject.x0[2])
    inputs = [float(sk.perturb(subject.x0, AXIS, s)[2]) for s in epsilons]
    distinct = [x for x in dict.fromkeys(inputs) if x != x0]
    still = [round(x * 2**21) == round(x0 * 2**21) for x in distinct]
    assert 0 < sum(still) < len(still)
    assert value(result, "unchanged_outputs") == sum(still) / len(still)
    weighted = [round(x * 2**21) == round(x0 * 2**21) for x in inputs if x != x0]
    assert sum(weighted) / len(weighted) != sum(still) / len(still)


@pytest.mark.parametrize("reference", ["origin", "start", "previous", "pairs"])
def test_each_reference_compares_what_it_says(toys, reference):
    """Batch 3 and five distinct pairs, with a constant of its own in every slot: both sides come from one slot."""
    subject = toys.subject([toys.Times(2.0), toys.Slots(), toys.Coarse(3.0)], batch=3)
    steps = (0.01, 0.03, 0.09, 0.27, 0.81)
    wanted = {
        "origin": [(0, e) for e in steps],
        "start": [(0.01, e) for e in steps[1:]],
        "previous": list(zip((0, *steps[:-1]), steps, strict=True)),
        "pairs": [(0.5, 0.1), (0.2, 0.7), (0.81, 0.01)],
    }[reference]
    given = wanted if reference == "pairs" else steps
    kind = "origin" if reference == "pairs" else reference
    asked = sk.LayerProfile(direction=ONES, epsilons=given, unit="abs", reference=kind, signs=(-1,))
    result = sk.measure(asked, subject)
    ends = rows_at(result, "block:2")
    assert [(row["start"], row["epsilon"]) for row in ends] == wanted
    for slot, (row, (start, end)) in enumerate(zip(ends, wanted, strict=True)):
        sides = [sk.perturb(subject.x0, ONES, -s) for s in (start, end)]
        a, b = (((2 * x + slot % 3 / 8) * 3).to(torch.bfloat16).double() for x in sides)
        assert row["l2"] == float((b - a).norm())
        assert row["changed"] == int((a != b).sum())
        assert row["realised_norm"] == float((sides[1].double() - sides[0].double()).norm())
        assert row["alignment"] == pytest.approx(1, abs=1e-6)
        assert row["step"] == pytest.approx(abs(end - start))


@pytest.mark.parametrize("unit", ["abs", "rel", "ulp"])
def test_units_are_lengths_of_the_input(toys, unit):
    subject = toys.subject([toys.Times(1.0)])
    length = {"abs": 1.0, "rel": float(subject.x0.double().norm()), "ulp": 2.0**-23}[unit]
    result = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.125,), unit=unit, signs=(1,)), subject)
    assert result.rows[0]["step"] == pytest.approx(0.125 * length, rel=1e-6 if unit == "ulp" else 1e-12)


def test_the_loudest_slot_is_no_change(toys):
    """Batch 4 with other constants in every slot: an unmoved coordinate stays unmoved."""
    subject = toys.subject([toys.Slots(), toys.Times(2.0)], batch=4)
    directions = torch.eye(8, dtype=torch.float64)[:6]
    result = sk.measure(sk.LayerProfile(direction=directions, epsilons=(0.25,), unit="abs", signs=(1,)), subject)
    assert [row["changed"] for row in rows_at(result, "post_norm")] == [1] * 6


# --- nothing to measure, and what is refused


def test_steps_that_move_nothing_say_so(toys):
    result = sk.measure(sk.LayerProfile(direction=ONES, epsilons=(1e-12, 1e-11)), toys.subject([toys.Times(2.0)]))
    assert "None of the 4 steps moves the rounded input" in result.sentence
    assert value(result, "distinct_inputs") == 0
    assert all(
        math.isnan(value(result, name)) for name in ("peak_growth", "amplification_end", "norm_gap", "avalanches")
    )
    assert len(result.rows) == 4 * 4
    assert {row["changed"] for row in result.rows} == {0}


def test_a_state_that_is_no_number_ends_it(toys):
    class Overflow(torch.nn.Module):
        def forward(self, x):
            return torch.where(x.abs().amax() > 50, math.inf, 0.0) + x

    subject = toys.subject([Overflow(), toys.Times(1.0)])
    with pytest.raises(InvalidError, match="block:0"):
        sk.measure(sk.LayerProfile(direction=ONES, epsilons=(100.0,)), subject)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilons": ()}, "empty"),
        ({"epsilons": (0.1, (0.1, 0.2))}, "mix"),
        ({"epsilons": (-0.1,)}, "not negative"),
        ({"epsilons": (math.inf,)}, "finite"),
        ({"epsilons": (0.0,)}, "against itself"),
        ({"epsilons": ((0.1, 0.1),)}, "against itself"),
        ({"epsilons": (0.1,), "reference": "start"}, "against itself"),
        ({"unit": "metre"}, "metre"),
        ({"reference": "end"}, "end"),
        ({"signs": ()}, "signs"),
        ({"signs": (1, 2)}, "signs"),
        ({"signs": (1, 1)}, "signs"),
        ({"rule": "p16"}, "p16"),
        ({"factor": 1.0}, "factor"),
        ({"tau": -1.0}, "tau"),
    ],
)
def test_impossible_parameters_are_refused_in_one_sentence(fields, message):
    with pytest.raises(UsageError, match=message) as error:
        sk.LayerProfile(**fields)
    assert "\n" not in str(error.value)


def test_a_zero_direction_and_a_bare_function_are_refused(toys):
    with pytest.raises(UsageError, match="zero"):
        sk.measure(sk.LayerProfile(direction=torch.zeros(8)), toys.subject([toys.Times(1.0)]))
    with pytest.raises(UnsupportedError, match="no sites"):
        sk.measure(sk.LayerProfile(direction=torch.ones(3)), sk.FunctionSubject(lambda X: X, torch.ones(3)))


@pytest.mark.parametrize("reference", ["origin", "previous"])
def test_the_stated_cost_bounds_the_work(toys, reference):
    subject = toys.subject([toys.Times(2.0)], batch=3)
    asked = sk.LayerProfile(direction="v1", reference=reference)
    stated = asked.cost(subject).forwards
    assert stated / 2 < sk.measure(asked, subject).execution.forwards <= stated


def test_one_pair_of_equal_steps_among_others_is_refused():
    with pytest.raises(UsageError, match="hold an input against itself"):
        sk.LayerProfile(direction=AXIS, epsilons=((0.1, 0.1), (0.1, 0.2)))
