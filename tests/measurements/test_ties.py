"""Ties and flips on toys whose crossings are known, with rounding planted and a clean twin that has none."""

import math

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements import tie_store
from stabilitykit.measurements.flip_lines import Line
from stabilitykit.numerics.bits import bits_equal

W = torch.tensor([[1.0, 0.25, 0.5, 0.0], [0.25, 1.0, -0.5, 0.0], [-4.0, -4.0, 0.0, 0.0]])
X0 = torch.tensor([1.0, 0.75, 0.1, 0.3])


def plane(X):
    return X @ W.T.to(X.dtype)


def chattering(X):
    """The plane, plus a ripple of 6 ULP of the logit that only the narrow dtype has."""
    Z = plane(X)
    if X.dtype == torch.float64:
        return Z
    ripple = torch.where((X[:, 3] * 2**24).round() % 2 == 0, 3.5e-7, -3.5e-7)
    return Z + torch.stack([ripple, -ripple, ripple * 0], dim=1)


def value(result, name):
    return result.readings[name].value


def subject_of(fn, x0=X0, **how):
    return sk.FunctionSubject(fn, x0, name="toy", **how)


AXIS = torch.tensor([[1.0, -1.0, 1.0, 1.0]])  # of length 2, so that a step in it and its length are one float


def test_tie_readings_are_those_of_the_plane():
    """Distance, gap and float64 gap against the projection and exact arithmetic."""
    subject = subject_of(plane)
    result = sk.measure(sk.Tie(), subject)
    d = (W[0] - W[1]).double()
    gap = float(X0.double() @ d)
    x = torch.from_numpy(result.arrays["x"])
    assert value(result, "tie_distance") == pytest.approx(abs(gap) / float(d.norm()), rel=1e-5)
    assert value(result, "relative_distance") == pytest.approx(
        value(result, "tie_distance") / float(X0.double().norm())
    )
    assert value(result, "start_gap") == pytest.approx(gap, rel=1e-6)
    assert value(result, "oracle_gap") == pytest.approx(float(x @ d), abs=1e-15)
    assert abs(value(result, "oracle_gap")) < 1e-6
    z = subject.at(x.float()).baseline[0]
    assert value(result, "gap") == float(z[0].double() - z[1].double())
    assert value(result, "gap_ulp") <= 2
    assert value(result, "third_gap") == pytest.approx(float(z[:2].min() - z[2]))
    assert value(result, "backwards") >= 1
    assert math.isnan(value(result, "nearest_embedding"))


def test_tie_state_can_be_rebuilt_from_the_arrays():
    """x, x0, ids and pair give back the same logits, bit for bit, in bfloat16 too; rows hold the trace."""
    loaded = sk.load("tiny", dtype="bfloat16")
    subject = sk.CausalLMSubject(loaded, "Once upon a time", path="decode", site="logits")
    result = sk.measure(sk.Tie(), subject)
    again = sk.CausalLMSubject(loaded, result.arrays["token_ids"].tolist(), path="decode", site="logits")
    x, x0 = (torch.from_numpy(result.arrays[name]).bfloat16() for name in ("x", "x0"))
    assert bits_equal(again.x0, x0)
    z = again.at(x).baseline[0]
    assert [float(z[token]) for token in result.arrays["pair"]] == result.arrays["logits"].tolist()
    assert result.rows[0]["kind"] == "start"
    assert result.rows[0]["gap"] == value(result, "start_gap")
    assert min(row["gap_ulp"] for row in result.rows) == value(result, "gap_ulp")


def test_nearest_embedding_by_brute_force():
    """Against the whole table at once."""
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, "Once upon a time", site="logits")
    result = sk.measure(sk.Tie(), subject)
    table = loaded.model.get_input_embeddings().weight.double()
    distances = (table - torch.from_numpy(result.arrays["x"])).norm(dim=1)
    assert value(result, "nearest_embedding") == pytest.approx(float(distances.min()))
    assert result.readings["nearest_embedding"].place["token"] == repr(
        loaded.tokenizer.decode([int(distances.argmin())])
    )


def test_a_smooth_function_crosses_once_where_it_is_predicted_to():
    """The clean twin: one sign change on each line, no chatter, and the flip at the predicted crossing."""
    result = sk.measure(sk.FlipScan(directions=AXIS, span=1e-3, points=200), subject_of(plane, X0.double()))
    (row,) = [row for row in result.rows if row["part"] == "direction"]
    slope = float(AXIS[0].double() @ (W[0] - W[1]).double() / AXIS[0].double().norm())
    assert row["slope"] == pytest.approx(slope)
    assert row["sign_changes"] == 1
    assert row["chatter_width"] == 0
    assert row["third_tokens"] == 0
    assert value(result, "flip_eps") == row["flip_eps"] == min(row["flip_plus"], row["flip_minus"])


def test_rounding_chatters_and_true_float64_does_not():
    """The planted defect: a ripple of 6 ULP turns the sign many times; the smooth plane under it crosses once."""
    asked = sk.FlipScan(directions=AXIS, points=200)
    found = {fn: sk.measure(asked, subject_of(fn, exact=plane)) for fn in (chattering, plane)}
    assert value(found[chattering], "sign_changes") > 5
    assert value(found[chattering], "true_sign_changes") == 1
    assert value(found[chattering], "chatter_ulp") > 3
    assert value(found[chattering], "oracle_disagreement") > 0.05
    assert value(found[plane], "chatter_ulp") < 3 < value(found[chattering], "chatter_ulp")
    assert value(found[plane], "sign_changes") < value(found[chattering], "sign_changes")


def lined(gap, token, epsilon=None, true_gap=None, slope=2.0, pair=(0, 1)):
    size = len(gap)
    epsilon = np.arange(size) - size // 2 if epsilon is None else epsilon
    return Line(
        label="d",
        pair=pair,
        epsilon=np.array(epsilon, dtype=float),
        realised=np.abs(np.array(epsilon, dtype=float)),
        alignment=np.ones(size),
        gap=np.array(gap, dtype=float),
        true_gap=np.full(size, math.nan) if true_gap is None else np.array(true_gap, dtype=float),
        token=np.array(token),
        slope=slope,
        ulp=0.5,
        walked=(1.0, 1.0),
    )


def test_the_nearest_flip_is_not_the_most_negative_one():
    """The study's table began at the far negative end, and so did its "first flip"."""
    line = lined([-3, -1, -2, 1, 1, -1, 1], [1, 1, 1, 0, 0, 1, 0])
    row = line.row()
    assert (row["flip_plus"], row["flip_minus"], row["flip_eps"]) == (2, 1, 1)
    assert row["exact"]
    assert lined([-1, 1, 1, 1, 1], [1, 0, 0, 0, 0]).row()["flip_plus"] == math.inf
    assert not lined([-1, 1, 1, 1, 1], [1, 0, 0, 0, 0]).row()["exact"]


def test_line_statistics_by_hand():
    """Signs - + - | + + - +: five changes, the range between first and last, the shares and the crossings."""
    line = lined([-3, 1, -2, 1, 1, -1, 1], [1, 0, 1, 0, 0, 1, 7], true_gap=[-3, -2, -1, 0, 1, 2, 3])
    row = line.row()
    assert row["sign_changes"] == 5
    assert row["chatter_width"] == 4  # from -2, the first input after the first change, to 2, the last before the last
    assert row["chatter_ulp"] == 4 * 2.0 / 0.5
    assert row["oracle_disagreement"] == pytest.approx(2 / 6)
    assert row["true_sign_changes"] == 1
    assert row["predicted_crossing"] == -0.5
    assert row["true_crossing"] == 0
    assert row["third_tokens"] == 1
    assert [point["third"] for point in line.points()] == [False] * 6 + [True]


def test_equal_logits_go_to_the_lower_id_as_argmax_has_it():
    """A gap of zero is no third state: with pair (0, 1) the first wins, with (5, 1) the second."""
    assert lined([0, 0, 0], [0, 0, 0]).first_wins.all()
    assert not lined([0, 0, 0], [1, 1, 1], pair=(5, 1)).first_wins.any()


def test_only_distinct_inputs_are_rows():
    """A span of a few floats: each input once, by ascending epsilon, the tie itself at 0."""
    subject = subject_of(plane)
    result = sk.measure(sk.FlipScan(directions=AXIS, span=1e-6, points=500), subject)
    points = [row for row in result.rows if row["part"] == "point"]
    x = torch.from_numpy(result.arrays["x"]).float()
    epsilons = [row["epsilon"] for row in points]
    assert epsilons == sorted(epsilons)
    inputs = [sk.perturb(x, AXIS[0], epsilon / float(AXIS[0].double().norm())) for epsilon in epsilons]
    assert len({one.numpy().tobytes() for one in inputs}) == len(points) == value(result, "inputs") < 500
    for row, one in zip(points, inputs, strict=True):
        z = subject(one[None])[0]
        assert row["gap"] == float(z[0].double() - z[1].double())
        assert row["token"] == int(z.argmax())
        assert row["realised_norm"] == pytest.approx(float((one.double() - x.double()).norm()))
        assert row["epsilon"] == 0 or row["alignment"] > 0  # also on the negative side: along its own way


def test_a_third_token_on_a_line_is_counted():
    """Along a direction that only token 2 feels it takes over; the pair's gap alone would not show it."""
    third = W.clone()
    third[2] = torch.tensor([0.0, 0.0, 0.0, 900.0])
    x0 = X0.clone()
    x0[3] = 0.0005
    subject = subject_of(lambda X: X @ third.T.to(X.dtype), x0)
    result = sk.measure(sk.FlipScan(directions=torch.tensor([[0.0, 0.0, 0.0, 1.0]]), span=1e-2, points=50), subject)
    assert value(result, "third_tokens") > 10
    clean = sk.measure(sk.FlipScan(directions=torch.tensor([[0.0, 0.0, 0.0, 1.0]]), span=1e-2), subject_of(plane))
    assert value(clean, "third_tokens") == 0


def test_flip_radius_of_a_plane_is_exact_and_is_seen():
    """To first order gap / |w_a - w_b|, which for a plane is the distance; a flip is seen just beyond it."""
    result = sk.measure(sk.FlipScan(directions=AXIS, at="prompt"), subject_of(plane, X0.double()))
    d = (W[0] - W[1]).double()
    radius = float(X0.double() @ d / d.norm())
    assert value(result, "flip_radius") == pytest.approx(radius)
    assert radius <= value(result, "flip_radius_bound") <= radius * 1.001
    along = float(X0.double() @ d) / abs(float(AXIS[0].double() @ d)) * float(AXIS[0].double().norm())
    assert along * 0.999 <= value(result, "flip_eps") <= along * 1.01
    assert {row["direction"] for row in result.rows} == {"gradient", "0", "-0", "tie"}


def test_from_the_prompt_a_third_token_is_named():
    """Along its own axis token 2 comes before token 1."""
    third = W.clone()
    third[2] = torch.tensor([0.0, 0.0, 0.0, 4.0])
    subject = subject_of(lambda X: X @ third.T.to(X.dtype), X0 * torch.tensor([1, 0.5, 1, 0.1]))
    axis = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    result = sk.measure(sk.FlipScan(directions=axis, at="prompt"), subject)
    row = next(row for row in result.rows if row["direction"] == "0")
    assert row["token"] == 2
    assert row["third"]
    assert value(result, "third_tokens") >= 1


def test_the_pair_of_a_scan_is_the_smallest_flip():
    """Its arrays are one ULP apart and give the two tokens; the worst place says so in bits."""
    subject = sk.CausalLMSubject(sk.load("tiny"), "Once upon a time", path="decode", batch=4, site="logits")
    result = sk.measure(sk.FlipScan(directions=("v1",), points=16), subject)
    low, high = (torch.from_numpy(result.arrays[name]).float() for name in ("flip_low", "flip_high"))
    place = int(result.readings["pair_step"].place["coordinate"])
    assert (low != high).nonzero().flatten().tolist() == [place]
    assert torch.nextafter(low[place], high[place]) == high[place]
    tokens = [int(subject.at(x).baseline[0].argmax()) for x in (low, high)]
    assert tokens == result.arrays["flip_tokens"].tolist()
    assert f"coordinate {place}" in str(result.worst)
    assert "0x" in str(result.worst)


def test_singular_directions_are_those_at_the_tie():
    """v1 is taken where the lines cross, not at the prompt."""
    subject = sk.CausalLMSubject(sk.load("tiny"), "Once upon a time", path="decode", site="logits")
    result = sk.measure(sk.FlipScan(directions=("v1",), points=4, oracle=False), subject)
    x = torch.from_numpy(result.arrays["x"]).float()
    there = sk.singular_vectors(subject.at(x).with_site("post_norm"), 1)[0]
    assert np.allclose(result.arrays["directions"][0], there.numpy())
    assert not np.allclose(there.numpy(), sk.singular_vectors(subject.with_site("post_norm"), 1)[0].numpy(), atol=1e-3)


def test_one_solve_serves_tie_and_scan():
    """The second measurement of a subject solves nothing again."""
    subject = sk.CausalLMSubject(sk.load("tiny"), "Once upon a time", path="decode", site="logits")
    tie_store._memory.clear()
    first = sk.measure(sk.Tie(), subject)
    second = sk.measure(sk.Tie(), subject)
    assert first.execution.forwards >= value(first, "forwards") > 0
    assert second.execution.forwards < first.execution.forwards
    assert value(second, "forwards") == value(first, "forwards")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"at": "home"}, "'home' is not one of tie, prompt"),
        ({"equal": "odds"}, "'odds' is not one of logits, probabilities"),
        ({"points": 0}, "points=0 is no whole number"),
        ({"cells": 1.5}, "cells=1.5 is no whole number"),
        ({"span": -1.0}, "span=-1.0 is no positive number"),
    ],
)
def test_impossible_scans_are_refused(parameters, said):
    """Before anything runs."""
    with pytest.raises(sk.UsageError, match=said):
        sk.FlipScan(**parameters)


def test_a_pair_that_does_not_lead_has_no_way_from_the_prompt():
    """The distance to another token is counted from the token that comes first."""
    with pytest.raises(sk.UsageError, match="must be the one that comes first"):
        sk.measure(sk.FlipScan(directions=AXIS, at="prompt", pair=(1, 0)), subject_of(plane))
    with pytest.raises(sk.UsageError, match="'odds' is not one of"):
        sk.Tie(equal="odds")


def test_the_study_asked_for_five_directions_and_two_thousand_steps():
    """Its own counts, kept under a name."""
    study = sk.FlipScan.study()
    assert (len(study.directions), study.points, study.span) == (5, 1000, 1e-6)


@pytest.mark.long
@pytest.mark.model
def test_smollm2_chatters_where_the_function_crosses_once():
    """Around the tie of Paris and the, float32 changes its mind many times, true float64 once."""
    subject = sk.CausalLMSubject(sk.load("smollm2"), "The capital of France is", path="decode", batch=8, site="logits")
    result = sk.measure(sk.FlipScan(directions=("v1",), points=10, cells=8), subject)
    assert value(result, "true_sign_changes") == 1
    assert value(result, "sign_changes") > 1
    assert value(result, "third_tokens") == 0
    assert value(result, "pair_step") < 1e-7
