"""Drift of recordings made by hand: every planted bit found and measured, and nothing found in a twin."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles.recordings import STAGES, changed, generation, recording, with_bits

import stabilitykit as sk
from stabilitykit.errors import IncomparableError, UsageError
from stabilitykit.numerics.bits import nudge

SIZES = ("max_ulp", "max_scaled_ulp", "relative_l2", "angle", "changed_share")


def drift(a, b, **given):
    return sk.measure(sk.Drift(recording(a, **given)), recording(b, **given))


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == value for name, value in where.items())]


def the(result, part, **where):
    (row,) = rows(result, part, **where)
    return row


def exact(a, b):
    """L2, relative L2 and the angle of two states by exact fractions."""
    left, right = ([Fraction(x) for x in one.double().tolist()] for one in (a, b))
    l2 = math.sqrt(sum((y - x) ** 2 for x, y in zip(left, right, strict=True)))
    lengths = [math.sqrt(sum(x * x for x in one)) for one in (left, right)]
    cosine = float(sum(x * y for x, y in zip(left, right, strict=True))) / lengths[0] / lengths[1]
    return l2, l2 / lengths[0], math.degrees(math.acos(cosine))


def test_a_twin_has_no_drift_anywhere():
    one = generation()
    result = drift(one, changed(one, "block:0", 1, lambda x: x))
    assert {name: result.readings[name].value for name in SIZES} == dict.fromkeys(SIZES, 0)
    assert result.readings["embedding_equal"].value == 1
    assert (result.readings["compared"].value, result.readings["diverged"].value) == (4, 0)
    assert result.worst is None
    assert all(row["bit_equal"] for row in rows(result, "stage"))
    assert all(row[name] == 0 for row in rows(result, "token") for name in ("changed", "l2", "angle", "max_ulp"))
    counts = [v for row in rows(result, "precision") for k, v in row.items() if k.startswith(("dec", "above", "ulp"))]
    assert len(counts) == 4 * (15 + 17 + 15 + 32)
    assert not any(counts)
    assert result.sentence.startswith(
        "In 4 steps with the same input, in 1 prompt, the state that the head reads is the"
    )
    result.check(max_ulp=0, angle=0, changed_share=0, embedding_equal=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_coordinate_moved_by_one_ulp_is_one_ulp(dtype):
    one = generation(dtype=dtype)

    def moved(x):
        x[4] = nudge(x[4], 1)
        return x

    result = drift(one, changed(one, "post_norm", 2, moved))
    row = the(result, "token", position=2)
    assert (row["changed"], row["max_ulp"], row["median_ulp"], row["bit_equal"]) == (1, 1, 1.0, False)
    a, b = one.states["post_norm"][2], moved(one.states["post_norm"][2].clone())
    assert row["max_abs"] == abs(float(b[4]) - float(a[4]))
    assert result.readings["max_ulp"].value == 1
    assert dict(result.readings["max_ulp"].place) == {"prompt": "<b>a prompt", "token": "2", "stage": "post_norm"}
    assert [row["bit_equal"] for row in rows(result, "token")] == [True, True, False, True]
    assert result.worst.where == "post_norm[4] of step 2, prompt 0"
    # The step that is looked into is the one that drifted, since no token differs.
    precise = the(result, "precision", stage="post_norm")
    assert (precise["position"], precise["ulp_2^0"], precise["changed_bits"]) == (2, 1, 1)
    assert [row["stage"] for row in rows(result, "stage") if not row["bit_equal"]] == ["post_norm"]


def test_sizes_are_those_of_exact_fractions():
    one, other = generation(), generation(seed=1)
    result = drift(one, replace(other, tokens=one.tokens, predicted=one.predicted))
    for step in range(4):
        row = the(result, "token", position=step)
        l2, relative, angle = exact(one.states["post_norm"][step], other.states["post_norm"][step])
        assert row["l2"] == pytest.approx(l2, rel=1e-13)
        assert row["relative_l2"] == pytest.approx(relative, rel=1e-13)
        assert row["angle"] == pytest.approx(angle, rel=1e-9)
    step = rows(result, "stage")[0]["position"]
    assert step == max(range(4), key=lambda s: the(result, "token", position=s)["relative_l2"])
    sizes = [exact(one.states[s.name][step], other.states[s.name][step])[1] for s in STAGES]
    for order, row in enumerate(rows(result, "stage")):
        assert row["relative_l2"] == pytest.approx(sizes[order], rel=1e-12)
        before = None if order == 0 else pytest.approx(sizes[order] / sizes[order - 1], rel=1e-12)
        assert row["amplification"] == before
    growth = sizes[4] / sizes[2]
    assert the(result, "stage", stage="block:1")["growth"] == pytest.approx(growth, rel=1e-12)
    assert result.readings["growth"].value == pytest.approx(growth, rel=1e-12)
    assert result.readings["growth"].place["stage"] == "block:1"


def test_permuted_and_negated_states_are_far_apart_though_they_have_the_same_numbers():
    one = generation()
    for change, degrees in ((lambda x: x.flip(0), None), (torch.neg, 180.0)):
        row = the(drift(one, changed(one, "post_norm", 1, change)), "token", position=1)
        a = one.states["post_norm"][1]
        l2, relative, angle = exact(a, change(a)) if degrees is None else (2 * float(a.double().norm()), 2.0, degrees)
        assert row["changed"] == 6
        assert (row["l2"], row["relative_l2"]) == (pytest.approx(l2, rel=1e-12), pytest.approx(relative, rel=1e-12))
        assert row["angle"] == pytest.approx(angle, rel=1e-9)


def test_zeros_of_two_signs_are_other_bits_and_no_distance():
    one = changed(generation(), "post_norm", 2, lambda x: torch.zeros_like(x))
    other = changed(one, "post_norm", 2, torch.neg)
    row = the(drift(one, other), "token", position=2)
    assert (row["bit_equal"], row["changed"], row["signed_zeros"]) == (False, 6, 6)
    assert (row["max_ulp"], row["l2"], row["relative_l2"], row["angle"]) == (0, 0, 0, 0)
    assert drift(one, other).readings["changed_share"].value == 1


def test_the_payload_of_a_nan_is_a_bit_like_any_other():
    def with_nan(pattern):
        def change(x):
            x[3] = with_bits(pattern, torch.int16, torch.bfloat16)
            return x

        return change

    one = generation(dtype=torch.bfloat16)
    left = changed(one, "post_norm", 1, with_nan(0x7FC0))
    right = changed(one, "post_norm", 1, with_nan(0x7FC1))
    twin = the(drift(left, left), "token", position=1)
    assert (twin["bit_equal"], twin["nan_payload"], twin["not_finite_a"], twin["not_finite_b"]) == (True, 0, 1, 1)
    row = the(drift(left, right), "token", position=1)
    assert (row["bit_equal"], row["changed"], row["nan_payload"], row["nan_mismatch"]) == (False, 1, 1, 0)
    against = the(drift(one, right), "token", position=1)
    assert (against["changed"], against["nan_mismatch"], against["not_finite_a"]) == (1, 1, 0)
    result = drift(one, right)
    assert math.isnan(result.readings["angle"].value)
    assert result.readings["not_finite"].value == 1


def test_steps_are_compared_up_to_and_including_the_first_different_token():
    one = generation(tokens=(1, 2, 3, 4, 5))
    other = replace(generation(tokens=(1, 2, 8, 9, 5), seed=1), states=one.states)

    def louder(x):
        return x * 2

    for step, seen in ((1, True), (2, True), (3, False), (4, False)):
        result = drift(one, changed(other, "post_norm", step, louder))
        assert result.readings["compared"].value == 3
        assert result.readings["diverged"].value == 1
        assert (result.readings["relative_l2"].value == 1) is seen, step
    assert [row["same_token"] for row in rows(result, "token")] == [True, True, False]


def test_the_step_of_the_divergence_is_looked_into_and_not_the_one_before():
    """The study's off-by-one: it looked at the state that had chosen the last token that was the same."""
    one = generation(tokens=(1, 2, 3, 4, 5))
    other = replace(generation(tokens=(1, 2, 8, 9, 5)), states=one.states)
    at = drift(one, changed(other, "block:0", 2, lambda x: x * 2))
    assert {row["position"] for row in at.rows if row["part"] != "token"} == {2}
    assert [row["stage"] for row in rows(at, "stage") if row["changed"]] == ["block:0"]
    before = drift(one, changed(other, "block:0", 1, lambda x: x * 2))
    assert [row["stage"] for row in rows(before, "stage") if row["changed"]] == []


def test_forced_runs_are_compared_to_their_end_and_every_disagreement_counts():
    one = generation(tokens=(1, 2, 3, 4))
    other = replace(generation(tokens=(1, 2, 3, 4), predicted=(1, 7, 3, 6)), states=one.states)
    result = drift(one, other, mode="forced")
    found = {name: result.readings[name].value for name in ("compared", "diverged", "disagreements")}
    assert found == {"compared": 4, "diverged": 1, "disagreements": 2}
    assert rows(result, "stage")[0]["position"] == 1


def test_a_shorter_run_is_compared_as_far_as_it_goes():
    long, short = generation(tokens=(1, 2, 3, 4)), generation(tokens=(1, 2))
    short = replace(short, states={name: state[:2] for name, state in long.states.items()})
    for pair in ((long, short), (short, long)):
        result = drift(*pair)
        assert (result.readings["compared"].value, result.readings["diverged"].value) == (2, 0)


def test_states_of_two_dtypes_are_compared_as_values_and_never_as_bits():
    wide = generation(dtype=torch.float32)
    narrow = replace(wide, states={name: state.bfloat16() for name, state in wide.states.items()})
    both = {"float32": "a" * 64, "bfloat16": "b" * 64}
    a = recording(wide, digests=both)
    b = recording(narrow, dtype="bfloat16", digests={"bfloat16": "b" * 64})
    result = sk.measure(sk.Drift(a), b)
    row = the(result, "token", position=0)
    assert row["l2"] == pytest.approx(exact(wide.states["post_norm"][0], narrow.states["post_norm"][0])[0], rel=1e-12)
    assert [row[name] for name in ("bit_equal", "max_ulp", "median_ulp", "max_scaled_ulp")] == [None] * 4
    assert not {"max_ulp", "max_scaled_ulp"} & set(result.readings)
    assert not any(name.startswith("ulp_") for row in result.rows for name in row)
    rounded = replace(wide, states={name: state.float() for name, state in narrow.states.items()})
    same = sk.measure(sk.Drift(recording(rounded, digests=both)), b)
    assert (same.readings["relative_l2"].value, same.readings["embedding_equal"].value) == (0, 1)


def test_another_embedding_is_counted_by_its_bits():
    one = generation()

    def negative_zero(x):
        x[0] = -0.0
        return x

    def positive_zero(x):
        x[0] = 0.0
        return x

    left, right = (changed(one, "embed", 3, change) for change in (negative_zero, positive_zero))
    assert drift(left, right).readings["embedding_equal"].value == 0.75


def test_the_first_prompt_that_parts_is_mapped():
    one, other = generation(), generation(seed=1)
    quiet = generation(text="quiet", ids=(9,))
    parted = replace(other, predicted=np.array([1, 2, 7, 4]), tokens=np.array([1, 2, 7, 4]))
    result = sk.measure(sk.Drift(recording(quiet, one)), recording(quiet, parted))
    assert result.arrays["map_prompt"].tolist() == [1]
    assert result.arrays["map_blocks"].tolist() == [0, 1]
    assert result.arrays["map_submodules"].tolist() == ["mlp", "block"]
    for k, block in enumerate((0, 1)):
        for m, name in enumerate((f"module:layers.{block}.mlp", f"block:{block}")):
            wanted = the(result, "stage", number=1, stage=name)
            assert result.arrays["map_relative_l2"][k, m] == wanted["relative_l2"]
            assert result.arrays["map_changed_share"][k, m] == wanted["changed_share"] == 1
    assert result.arrays["drift_l2"].shape == (2, 4)
    assert result.arrays["drift_l2"][0].tolist() == [0] * 4
    assert np.isnan(result.arrays["drift_angle"][1]).tolist() == [False, False, False, True]


def test_what_cannot_be_compared_is_refused_with_the_way_out():
    one = generation()
    plain = replace(one, states={})
    with pytest.raises(UsageError, match=r"record\(\.\.\., states='blocks'\)"):
        drift(one, plain)
    with pytest.raises(UsageError, match="keeps digests but not the states"):
        drift(replace(one, states={"post_norm": one.states["post_norm"]}), one)
    with pytest.raises(UsageError, match="is no Recording"):
        sk.Drift()
    with pytest.raises(IncomparableError, match="prompt 0"):
        drift(one, generation(ids=(5, 7)))
    with pytest.raises(IncomparableError, match="weights"):
        sk.measure(sk.Drift(recording(one)), recording(one, digests={"float32": "1" * 64}))
    with pytest.raises(IncomparableError, match="weights"):
        sk.measure(sk.Drift(recording(one)), recording(one, dtype="float16"))
    with pytest.raises(IncomparableError, match="configuration"):
        sk.measure(sk.Drift(recording(one)), recording(one, config="d"))


def test_without_the_model_the_sentence_says_what_is_left_out():
    one = generation()
    result = drift(one, one)
    assert "need the model: give loaded=" in result.sentence
    assert {row["part"] for row in result.rows} == {"token", "stage", "precision"}
    assert sk.Drift(recording(one)).cost(recording(one)) == sk.Cost()
    assert (result.execution.forwards, result.execution.calls) == (0, 0)


def test_a_result_survives_being_saved_and_names_its_recording_shortly():
    one = generation()
    result = drift(one, generation(seed=1))
    assert result.title == "Drift(reference)"
    assert sk.Drift(replace(recording(one), folder="DIR")).title == "Drift(read_recording('DIR'))"
    assert repr(recording(one)) == "Recording(hand-made, float32, cpu, 1 prompts)"
    back = type(result).from_dict(json.loads(json.dumps(result.to_dict())))
    assert back.rows == result.rows
    assert np.array_equal(back.arrays["map_submodules"], result.arrays["map_submodules"])
