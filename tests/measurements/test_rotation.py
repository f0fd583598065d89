"""Rotations with planted places: an input with one fine coordinate, a direction with one large entry."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements import turns as turning
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.rotation import Rotation
from stabilitykit.measurements.turns import turns
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.noise import threads

H = 8
FINE = torch.cat([torch.ones(H - 1), torch.tensor([2.0**-10])])
"""Seven coordinates with floats 2**-23 apart, and one whose floats are 2**-33 apart."""
ONES = torch.ones(H)
ULP = 2.0**-23
ALL = tuple(range(H))


@pytest.fixture(autouse=True)
def _one_thread():
    """Where two threads run the noise floor also tries one: three forwards more, or one at batch 1."""
    with threads(1):
        yield


def asked(fn, x0=FINE, batch=1, direction=ONES, first=None, **how):
    how = {"shifts": ALL, "magnitude": 0.25, "gaps": (2.0**-10,), "controls": 0} | how
    return measure(Rotation(direction, **how), FunctionSubject(fn, x0, batch=batch, first=first))


def values(result):
    return {name: reading.value for name, reading in result.readings.items()}


def identity(X):
    return X


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_changes_that_belong_to_the_input_stay_where_they_are(batch):
    """A gap of 2**-10 of 2**-23 is one float of the last coordinate and crosses no midpoint of the others."""
    result = asked(identity, batch=batch)
    found = values(result)
    assert [row["changed_input"] for row in result.rows] == [1] * H
    assert (found["shifts"], found["changed_input_max"], found["changed_input_median"]) == (H, 1, 1)
    assert found["concentration_input"] == 1
    assert found["concentration_direction"] < 0.01
    assert result.arrays["histogram_input"].tolist() == [0] * (H - 1) + [H]
    assert result.arrays["histogram_direction"].tolist() == [1] * H
    assert (found["agreement"], found["absorbed"]) == (1, 0)
    assert result.verdict == "pass"


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_changes_that_belong_to_the_direction_turn_with_it(batch):
    """An input of one spacing, a direction with one large entry, at place 2."""
    d = torch.full((H,), 2.0**-20)
    d[2] = 1
    result = asked(identity, torch.ones(H), batch=batch, direction=d, magnitude=0.5, gaps=(1.0,))
    found = values(result)
    assert [row["changed_input"] for row in result.rows] == [1] * H
    assert found["concentration_direction"] == 1
    assert found["concentration_input"] < 0.01
    assert result.arrays["histogram_direction"].tolist() == [0, 0, H, 0, 0, 0, 0, 0]


def test_counts_at_all_three_sites_and_their_gaps_are_the_planted_ones():
    """Block 0 shows half of the input twice, the output the last coordinate five times."""
    result = asked(
        lambda X: X[:, -1:].repeat(1, 5),
        first=lambda X: torch.cat([X[:, 4:], X[:, 4:]], dim=1),
        gaps=(2.0**-14, 2.0**-10, 1.0),
        magnitude=0.125,
        batch=3,
    )
    for shift in ALL:
        assert [row["changed_input"] for row in result.rows if row["shift"] == shift] == [0, 1, 8]
        assert [row["changed_block0"] for row in result.rows if row["shift"] == shift] == [0, 2, 8]
        assert [row["changed_output"] for row in result.rows if row["shift"] == shift] == [0, 5, 5]
    found = values(result)
    assert (found["changed_input_max"], found["changed_input_median"]) == (8, 1)
    assert (found["changed_block0_max"], found["changed_block0_median"]) == (8, 2)
    assert (found["changed_output_max"], found["changed_output_median"]) == (5, 5)
    assert result.readings["changed_input_max"].place == {"shift": "0", "gap": f"{ULP:.6g}"}
    assert result.arrays["histogram_block0"].tolist() == [H] * 8
    assert result.arrays["histogram_output"].tolist() == [H] * 5
    assert found["concentration_output"] == pytest.approx(0, abs=1e-12)
    assert [row["slot"] is None for row in result.rows] == [True, False, False] * H
    # 16 unequal pairs in 3 slots are 12 rounds; the noise floor takes batches of 1, 2, 3 and 8.
    assert (result.execution.forwards, result.execution.screened) == (3 * 12 + 14, 3 * 12)


def test_a_gap_that_ends_on_the_next_float_is_counted_once_by_rounding_and_by_prediction():
    result = asked(identity, magnitude=0.0, gaps=(0.49, 0.51, 0.99, 1.01), x0=torch.ones(H))
    counts = {round(row["gap"] / ULP, 8): row["changed_input"] for row in result.rows}
    assert counts == {0.49: 0, 0.51: H, 0.99: H, 1.01: H}
    assert values(result)["agreement"] == 1


def test_without_blocks_block_0_is_unknown():
    found = values(asked(identity))
    assert math.isnan(found["changed_block0_max"])
    assert math.isnan(found["changed_block0_median"])
    assert math.isnan(found["concentration_block0"])


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_a_pair_shares_its_slot(batch):
    def by_slot(X):
        return X + torch.arange(len(X))[:, None] / 64

    result = asked(by_slot, batch=batch, gaps=(1.0,), magnitude=0.125)
    found = values(result)
    assert found["output_jump"] == pytest.approx(math.sqrt(7 * ULP**2 + (ULP / 1) ** 2), rel=1e-3)
    assert {row["slot"] for row in result.rows} == set(range(min(batch, H)))


def test_what_the_function_does_not_read_is_absorbed():
    d = torch.zeros(H)
    d[0] = 1
    found = values(asked(lambda X: X[:, :2], torch.ones(H), direction=d, gaps=(1.0,), magnitude=0.0))
    assert found["absorbed"] == pytest.approx(6 / 8)
    assert found["changed_output_median"] == 0
    assert found["changed_output_max"] == 1


def test_nothing_changes_and_says_so():
    result = asked(identity, torch.ones(H), gaps=(0.01,), magnitude=0.1, controls=1)
    found = values(result)
    assert (found["changed_input_max"], found["changed_output_max"], found["output_jump"]) == (0, 0, 0)
    assert math.isnan(found["absorbed"])
    assert math.isnan(found["changed_block0_max"])
    with_blocks = asked(identity, torch.ones(H), gaps=(0.01,), magnitude=0.1, first=identity)
    assert values(with_blocks)["changed_block0_max"] == 0
    assert math.isnan(found["concentration_input"])
    assert "too few changed" in result.sentence
    assert result.execution.forwards == 14  # the noise floor's: batches of 1, 2, 3 and 8


def test_an_input_that_is_not_rounded_as_predicted_is_found(monkeypatch):
    """A conversion that rounds one coordinate of the second input the other way."""
    true = turning.perturb

    def wrong(x0, direction, s, rule="p64r"):
        X = true(x0, direction, s, rule)
        X[1, 0] = torch.nextafter(X[1, 0], torch.tensor(2.0))
        return X

    assert asked(identity).readings["agreement"].value == 1
    monkeypatch.setattr(turning, "perturb", wrong)
    result = asked(identity)
    assert result.readings["agreement"].value == 0
    assert result.verdict == "differs"
    assert [row["predicted_input"] for row in result.rows] == [1] * H
    assert [row["changed_input"] for row in result.rows] == [2] * H


# --- radii, gains, jumps


def test_radius_gain_and_jump_are_those_of_numpy():
    random = np.random.default_rng(3)
    A, d = random.normal(size=(4, H)), random.normal(size=H)
    x0 = torch.from_numpy(random.normal(size=H)).float()
    W = torch.from_numpy(A)

    def f(X):
        return X.double() @ W.T

    result = asked(
        f, x0, direction=torch.from_numpy(d), shifts=(0, 3, 5), unit="abs", magnitude=1e-3, gaps=(1e-7, 1e-6)
    )
    gains = {n: np.linalg.norm(A @ np.roll(d, n)) / np.linalg.norm(d) for n in (0, 3, 5)}
    assert result.readings["gain"].value == pytest.approx(gains[0], rel=1e-6)
    assert result.readings["gain_rotated"].value == pytest.approx((gains[3] + gains[5]) / 2, rel=1e-6)
    x = x0.double().numpy()
    jumps = {}
    for row in result.rows:
        turned = np.roll(d, row["shift"])
        left, right = ((x + s * turned).astype(np.float32).astype(np.float64) for s in (1e-3, 1e-3 + row["gap"]))
        assert row["changed_input"] == int((left != right).sum())
        assert row["input_step"] == float(np.linalg.norm(right - left))
        jumps[row["shift"], row["gap"]] = np.linalg.norm(A @ right - A @ left)
        assert row["output_jump"] == pytest.approx(jumps[row["shift"], row["gap"]], rel=1e-6)
        assert row["gain"] == pytest.approx(gains[row["shift"]], rel=1e-6)
        nearest = min(
            (abs(np.nextafter(c, np.float32(math.copysign(9, t))).astype(float) - float(c)) / 2 / abs(t))
            for c, t in zip(x0.numpy(), turned, strict=True)
        )
        assert row["lattice_radius"] == pytest.approx(nearest, rel=1e-6)
    place = max(jumps, key=jumps.__getitem__)
    assert result.readings["output_jump"].value == pytest.approx(jumps[place], rel=1e-6)
    assert result.readings["output_jump"].place == {"shift": str(place[0]), "gap": f"{place[1]:.6g}"}
    assert result.readings["lattice_radius"].value == min(row["lattice_radius"] for row in result.rows)


def test_the_jump_is_set_against_the_noise_floor():
    result = asked(lambda X: X + len(X) / 2**10, torch.ones(H), gaps=(1.0,), magnitude=0.0)
    noise = 7 / 2**10 * math.sqrt(H)
    jump = result.readings["output_jump"].value
    assert jump == math.sqrt(H) * ULP
    assert result.readings["jump_over_noise"].value == pytest.approx(jump / noise)
    assert "batch" in result.noise


@pytest.mark.parametrize(
    ("how", "turned"),
    [
        ({"shifts": 3}, [0, 2, 5]),
        ({"shifts": 99}, list(ALL)),
        ({"step": 3}, [0, 3, 6]),
        ({"shifts": (1, -2)}, [1, -2]),
    ],
)
def test_shifts_are_spread_counted_or_given(how, turned):
    assert [row["shift"] for row in asked(identity, **({"shifts": 16} | how)).rows] == turned


# --- controls


def test_controls_are_what_their_names_say():
    d = torch.arange(1.0, H + 1, dtype=torch.float64)
    found = turns(d, [0, 3], 4, seed=1)
    assert [turn.kind for turn in found] == ["shift"] * 2 + ["permutation", "signs", "random"] * 4
    assert torch.equal(found[1].direction, torch.tensor([6, 7, 8, 1, 2, 3, 4, 5]).double())
    for turn in found[2:]:
        assert float(turn.direction.norm()) == pytest.approx(float(d.norm()), rel=1e-14)
        assert not torch.equal(turn.direction, d)
        if turn.kind == "permutation":
            assert torch.equal(turn.direction.sort().values, d)
        if turn.kind == "signs":
            assert torch.equal(turn.direction.abs(), d)
        if turn.kind == "random":
            assert not torch.allclose(turn.direction.abs().sort().values, d, atol=1e-3)
    again, other = turns(d, [0, 3], 4, seed=1), turns(d, [0, 3], 4, seed=2)
    assert all(torch.equal(a.direction, b.direction) for a, b in zip(found, again, strict=True))
    assert not any(torch.equal(a.direction, b.direction) for a, b in zip(found[2:], other[2:], strict=True))


def test_controls_are_read_beside_the_shifts_and_do_not_enter_them():
    """All entries but one are 0, so a shift changes one coordinate and a random direction all of them."""
    d = torch.zeros(H)
    d[0] = 1
    result = asked(lambda X: X.repeat(1, 2), torch.ones(H), direction=d, gaps=(40.0,), magnitude=0.0, controls=5)
    kinds = {row["kind"]: row for row in result.rows}
    assert (kinds["permutation"]["changed_input"], kinds["signs"]["changed_input"]) == (1, 1)
    assert kinds["random"]["changed_input"] > 1
    found = values(result)
    assert (found["changed_input_max"], found["changed_output_max"]) == (1, 2)
    assert (found["changed_input_controls"], found["changed_output_controls"]) == (1, 2)
    assert sum(result.arrays["histogram_input"]) == H
    assert len(result.rows) == H + 15
    assert result.arrays["directions"].shape == (H + 15, H)
    none = values(asked(identity))
    assert math.isnan(none["changed_input_controls"])


# --- the study, and a model


def test_the_studys_own_question_is_asked_exactly():
    random = np.random.default_rng(0)
    x0 = (0.0065 * random.standard_normal(512)).astype(np.float32)
    v = random.standard_normal(512)
    v /= np.linalg.norm(v)
    asked = Rotation.study(torch.from_numpy(v))
    e1 = 1e-6 + 1815 * 2e-13
    assert asked.magnitude == e1
    result = measure(asked, FunctionSubject(identity, torch.from_numpy(x0), batch=16))
    assert result.readings["shifts"].value == 8
    rows = [row for row in result.rows if row["kind"] == "shift"]
    counts = []
    for n in range(0, 512, 64):
        for jump in (1, 10, 20, 50, 100):
            e2 = e1 + jump * (3 * 2e-14)
            left, right = ((x0.astype(np.float64) + e * np.roll(v, n)).astype(np.float32) for e in (e1, e2))
            counts.append(int((left != right).sum()))
    assert [row["changed_input"] for row in rows] == counts
    assert 0 < sum(counts) < 200


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 5)])
def test_a_models_changes_are_those_of_one_call_each(tiny, path, batch):
    subject = CausalLMSubject(tiny, "The capital of France is", path=path, batch=batch)
    question = Rotation("v1", step=16, gaps=(0.2, 1.0), controls=1)
    result = measure(question, subject)
    directions = {}
    for (kind, shift), d in zip(
        dict.fromkeys((row["kind"], row["shift"]) for row in result.rows), result.arrays["directions"], strict=True
    ):
        directions[kind, shift] = torch.from_numpy(d)
    length = result.rows[0]["gap"] / 0.2
    for row in result.rows:
        d = directions[row["kind"], row["shift"]]
        sides = []
        for s in (2000 * length, 2000 * length + row["gap"]):
            X = subject.copies(batch)
            X[row["slot"] or 0] = (subject.x0.double() + s * d).to(subject.x0.dtype)
            sides.append((X, subject.first_blocks(X)[:, -1], subject.evaluate(X)))
        counts = [int((a != b)[row["slot"] or 0].sum()) for a, b in zip(*sides, strict=True)]
        assert [row["changed_input"], row["changed_block0"], row["changed_output"]] == counts
    assert values(result)["agreement"] == 1
    stated = question.cost(subject)
    assert result.execution.forwards <= stated.forwards
    assert result.execution.screened <= stated.screened
    assert result.execution.tangents <= stated.backwards


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"shifts": ()}, "at least one"),
        ({"shifts": 0}, "shifts=0"),
        ({"shifts": 1.5}, "shifts=1.5"),
        ({"shifts": (1.5,)}, "whole numbers"),
        ({"step": 0}, "step=0"),
        ({"magnitude": -1.0}, "magnitude=-1.0"),
        ({"magnitude": math.nan}, "magnitude=nan"),
        ({"gaps": ()}, "gaps="),
        ({"gaps": (1.0, 0.0)}, "positive"),
        ({"gaps": (1.0, math.inf)}, "positive"),
        ({"unit": "cm"}, "unit 'cm'"),
        ({"controls": -1}, "controls=-1"),
    ],
)
def test_bad_parameters_are_refused_at_once(how, says):
    with pytest.raises(UsageError, match=says):
        Rotation(ONES, **how)


def test_one_direction_at_a_time():
    with pytest.raises(UsageError, match="one direction, not 2"):
        asked(identity, direction=torch.eye(H)[:2])
