"""What a tie and a flip scan are made of, asked directly: logits as they are read, lines, the way from a prompt."""

import math
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements import ties
from stabilitykit.measurements.flip_lines import Grid, Line
from stabilitykit.measurements.flip_radius import TRIED, outward
from stabilitykit.measurements.flip_words import scanned
from stabilitykit.measurements.tie_point import read, reading_logits
from stabilitykit.measurements.tie_solver import tie_point
from stabilitykit.measurements.ties import oracle_gap

ROW = {
    "sign_changes": 2,
    "chatter_ulp": 3.0,
    "flip_eps": 0.5,
    "true_sign_changes": 1,
    "oracle_disagreement": 0.25,
    "third_tokens": 0,
}


def test_going_outward_begins_at_a_quarter_of_the_radius_and_says_how_far_the_input_moved():
    """The token changes 0.3125 from x0, between the first two steps of 0.25 and 0.354; narrowed twice to a ninth."""
    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 0.6875], 1), one)
    found = outward(subject, (0, 1), ("down", -one, -1.0), 0.3125, 1.0)
    assert found.token == 1
    assert found.last_same <= 0.3125 < found.flip_eps
    assert found.flip_eps - found.last_same == pytest.approx((2**-1.5 - 2**-2) / 81, rel=1e-9)
    assert found.realised == pytest.approx(found.flip_eps, rel=1e-12)
    assert found.alignment == pytest.approx(1)
    assert found.estimate == 0.3125


@pytest.mark.parametrize("at", [0.2501, 0.3535])
def test_a_flip_is_narrowed_to_a_ninth_twice_wherever_it_lies_between_two_steps(at):
    """Just behind the first of them, and just before the second."""
    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 1 - at], 1), one)
    found = outward(subject, (0, 1), ("down", -one, -1.0), at, 1.0)
    assert found.last_same <= at < found.flip_eps
    assert found.flip_eps - found.last_same == pytest.approx((2**-1.5 - 2**-2) / 81, rel=1e-9)


@pytest.mark.parametrize(("at", "inputs"), [(33.0, 15), (0.2501, 15 + 2 * 8), (31.5, 15 + 2 * 8)])
def test_going_outward_takes_two_steps_an_octave_and_eight_inputs_for_each_narrowing(at, inputs):
    """Nothing is narrowed where no token changed; where one did, no more are run than is stated."""
    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 1 - at], 1), one)
    before = len(subject.baseline), subject.counter.forwards
    outward(subject, (0, 1), ("down", -one, -1.0), at, 1.0)
    assert subject.counter.forwards - before[1] == inputs <= TRIED == 31


def test_two_logits_have_no_third():
    seen = read(torch.ones(1), torch.tensor([2.0, 1.0]), (0, 1), "start")
    assert seen.other == (-1, -math.inf)
    assert read(torch.ones(1), torch.tensor([2.0, 1.0, 0.5]), (0, 1), "start").other == (2, 0.5)


def test_a_line_is_walked_without_a_gap_where_all_its_floats_can_be_listed():
    """Up to the third float on either side; not at all where none lies within the span, or too many near a zero."""
    grid, along = Grid(1e-3, points=4, cells=3), torch.ones(1)
    below, above = grid.steps(torch.ones(1), along)[1]
    assert (below, above) == (pytest.approx(2.5 * 2**-24), pytest.approx(2.5 * 2**-23))
    assert Grid(2.0**-26, points=4, cells=3).steps(torch.ones(1), along)[1] == (0, 0)
    assert grid.steps(torch.tensor([1.0, 0.0]), torch.ones(2))[1] == (0, 0)


def test_a_scan_without_the_oracle_is_stated_to_run_its_own_points_once_and_with_it_twice():
    subject = sk.CausalLMSubject(sk.load("tiny"), [1, 2, 3], site="logits", batch=4)
    alone, both = (
        [sk.FlipScan(("v1",), points=points, cells=2, oracle=oracle).cost(subject).forwards for points in (40, 8)]
        for oracle in (False, True)
    )
    assert alone[0] - alone[1] == 2 * (40 - 8)
    assert both[0] - both[1] == 2 * 2 * (40 - 8)


def plane(X):
    return torch.cat([X, X[:, :1] * 0 - 9], 1)


def test_the_true_gap_is_that_of_the_slot_in_which_the_tie_was_found():
    """The float64 twin's second slot is 0.5 off, as its first is not."""

    def slotted(X):
        return plane(X) + torch.arange(len(X))[:, None] * torch.tensor([0.5, 0.0, 0.0])

    subject = sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]), batch=2, exact=slotted)
    tie = tie_point(subject)
    assert tie.gap == 0
    assert oracle_gap(subject, tie) == 0


def test_a_tie_says_how_many_ulp_it_is_off_without_a_sign_and_whether_probabilities_are_the_same_number():
    tie = replace(tie_point(sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]))), ulp=0.25)
    for logits in ((1.0, 1.75), (1.75, 1.0)):
        assert replace(tie, logits=logits).gap_ulp == 3
    for probabilities, same in (((0.5, 0.5), True), ((0.25, 0.5), False), ((0.5, 0.25), False)):
        assert replace(tie, probabilities=probabilities).equal_probabilities == same


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1024 * 2.0**-23), (torch.bfloat16, 0.25)])
def test_a_line_along_which_the_gap_does_not_move_ends_at_1024_roundings_of_the_input_or_a_quarter(dtype, share):
    """Whatever the input's length: three powers of two."""
    for length in (2.0**-3, 1.0, 2.0**3):
        subject = sk.FunctionSubject(plane, torch.tensor([0.6 * length, 0.6 * length], dtype=dtype))
        asked = sk.FlipScan(torch.ones(1, 2), points=4, cells=2, oracle=False)
        result = sk.measure(asked, subject, progress=False)
        farthest = max(row["epsilon"] for row in result.rows if row["part"] == "point")
        assert farthest == pytest.approx(share * float(subject.x0.double().norm()), rel=1e-6)


def test_the_sentence_names_the_tokens_in_the_order_of_the_pair():
    """Without a tokenizer by their numbers; and how near, how far away and from what they have become equal."""
    subject = sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]))
    said = sk.measure(sk.Tie(), subject).sentence
    assert said.startswith(
        "token 0 and token 1 have equal logits to the last bit at an embedding 0.177 away (14.1% of "
    )
    assert said.endswith("in true float64 0 of 0.25 logits are left.")
    assert sk.measure(sk.Tie((1, 0)), subject).sentence.startswith("token 1 and token 0 have equal logits")


@pytest.mark.parametrize("moved", [-0.125, 0.125])
def test_the_sentence_tells_how_much_of_the_difference_is_left_whichever_token_leads(moved):
    """In exact arithmetic one of two logits is an eighth larger or smaller than it is computed."""
    subject = sk.FunctionSubject(
        plane, torch.tensor([1.0, 0.75]), exact=lambda X: plane(X) + torch.tensor([moved, 0.0, 0.0])
    )
    for pair in ((0, 1), (1, 0)):
        said = sk.measure(sk.Tie(pair), subject, progress=False).sentence
        assert said.endswith("; in true float64 0.125 of 0.25 logits are left.")


@pytest.mark.parametrize("site", ["logits", "post_norm", "block:1"])
def test_tokens_tie_in_the_logits_wherever_the_subject_is_read(site):
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, [1, 2, 3], site=site)
    read_there = reading_logits(subject)
    assert (read_there is subject) == (site == "logits")
    assert (read_there.site, read_there.baseline.shape[1]) == ("logits", loaded.model.lm_head.out_features)
    assert torch.equal(read_there.x0, subject.x0)


def test_the_walk_without_a_gap_goes_on_to_the_end_of_the_span():
    """Eight floats above 1, the last of them reached a quarter of a float before the span ends."""
    for points in (1, 8):
        _, walked = Grid(7.75 * 2**-23, points, cells=100).steps(torch.ones(1), torch.ones(1))
        assert walked[1] == pytest.approx(7.5 * 2**-23)


@pytest.mark.parametrize(("at", "seen"), [(31.5, True), (33.0, False)])
def test_going_outward_ends_at_32_times_the_radius(at, seen):
    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 1 - at], 1), one)
    found = outward(subject, (0, 1), ("down", -one, -1.0), at, 1.0)
    assert found.tried == 32
    assert math.isfinite(found.flip_eps) == seen
    assert found.token == int(seen)


@pytest.mark.parametrize("batch", [1, 4])
def test_going_outward_asks_no_input_twice_and_no_more_than_stated(batch):
    """But for the copies of x0 that fill a batch."""
    seen = []

    def line(X):
        seen.extend(X[:, 0].tolist())
        return torch.cat([X, X * 0 + 0.6875], 1)

    one = torch.ones(1, dtype=torch.float64)
    subject = sk.FunctionSubject(line, one, batch=batch)
    assert subject.baseline.tolist() == [[1.0, 0.6875]] * batch
    seen.clear()
    outward(subject, (0, 1), ("down", -one, -1.0), 0.3125, 1.0)
    asked = [x for x in seen if x != 1]
    assert len(set(asked)) == len(asked) <= TRIED


def test_a_true_gap_that_is_unknown_somewhere_has_no_number_of_sign_changes():
    plain = {"label": "d", "pair": (0, 1), "slope": 1.0, "ulp": 0.5, "walked": (1.0, 1.0)}
    known = np.array([-1.0, 1.0, 2.0])
    rest = dict.fromkeys(("epsilon", "realised", "alignment", "gap", "token"), known)
    assert Line(true_gap=known, **rest, **plain).true_changes == 1
    assert math.isnan(Line(true_gap=np.array([-1.0, math.nan, 2.0]), **rest, **plain).true_changes)


def test_the_sentence_of_a_scan_says_what_true_float64_does_or_why_there_is_none():
    line, pair = SimpleNamespace(row=lambda: dict(ROW)), SimpleNamespace(coordinate=3, step=0.5)
    told = scanned([line], pair, ("a", "b"), "")
    assert told.endswith(" of the logit; true float64 changes it once, and disagrees at up to 25% of the inputs.")
    unknown = SimpleNamespace(row=lambda: {**ROW, "true_sign_changes": math.nan})
    refused = scanned([unknown], pair, ("a", "b"), "no twin")
    assert refused.endswith(" of the logit. There is no true float64: no twin.")
    assert scanned([unknown], pair, ("a", "b"), "").endswith(" of the logit.")


def test_of_several_lines_the_sentence_tells_the_nearest_flip_and_the_widest_chatter():
    lines = [SimpleNamespace(row=lambda: dict(ROW))]
    lines += [SimpleNamespace(row=lambda: {**ROW, "flip_eps": 0.125, "sign_changes": 5, "chatter_ulp": 1.0})]
    lines += [SimpleNamespace(row=lambda: {**ROW, "flip_eps": math.inf, "sign_changes": 0, "chatter_ulp": 7.0})]
    for given in (lines, lines[::-1]):
        told = scanned(given, SimpleNamespace(coordinate=3, step=0.5), ("a", "b"), "")
        assert "Along 3 lines through the tie the token flips from a step of 0.125 on, and the order " in told
        assert "of the two logits changes 5 times, within 7 ULP of the logit; true float64 " in told


def test_a_scan_of_what_takes_no_float64_says_why_it_has_no_true_signs():
    """float32 weights take no float64 input."""
    weights = torch.eye(2)
    subject = sk.FunctionSubject(lambda X: X @ weights, torch.tensor([1.0, 0.75]))
    result = sk.measure(sk.FlipScan(torch.eye(2)[:1], points=2, cells=2), subject, progress=False)
    unknown = [result.readings[name].value for name in ("true_sign_changes", "oracle_disagreement")]
    unknown += [row["gap_oracle"] for row in result.rows if row["part"] == "point"]
    assert all(map(math.isnan, unknown))
    with pytest.raises(sk.UnsupportedError) as refused:
        subject.in_float64()
    assert result.sentence.endswith(f" There is no true float64: {refused.value}.")


def test_the_worst_place_of_a_scan_names_both_tokens():
    fall = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    subject = sk.FunctionSubject(lambda X: X @ fall.T + torch.tensor([0.0, 2.5], dtype=X.dtype), torch.ones(1).double())
    result = sk.measure(sk.FlipScan(torch.ones(1, 1), points=2, cells=2, oracle=False), subject, progress=False)
    first, second = (str(token) for token in result.arrays["flip_tokens"])
    assert first != second
    assert (result.worst.left_name, result.worst.right_name) == (f"token {first}", f"token {second}")


def test_the_third_token_is_below_the_lower_of_the_pair(monkeypatch):
    subject = sk.FunctionSubject(plane, torch.tensor([1.0, 0.75]))
    found = replace(tie_point(subject), logits=(2.0, 1.5), other=(2, 1.0))
    monkeypatch.setattr(ties, "tie_of", lambda *_args, **_how: found)
    assert sk.measure(sk.Tie(), subject).readings["third_gap"].value == 0.5


def test_equal_probabilities_are_those_of_both_tokens():
    found = tie_point(sk.FunctionSubject(plane, torch.tensor([1.0, 0.75])))
    pairs = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.25))
    assert [replace(found, probabilities=pair).equal_probabilities for pair in pairs] == [True, False, False]


@pytest.mark.parametrize(
    ("walked", "exact"), [((2.0, 1.0), True), ((1.0, 2.0), False), ((2.0, 0.0), True), ((1.5, 9.0), False)]
)
def test_a_flip_is_exact_if_its_own_side_was_walked_as_far(walked, exact):
    """The only one lies two below the tie."""
    places = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    rest = {"realised": np.abs(places), "alignment": np.ones(5), "true_gap": places, "slope": 1.0, "ulp": 0.5}
    line = Line("d", (0, 1), places, gap=-places, token=np.array([1, 0, 0, 0, 0]), walked=walked, **rest)
    assert (line.row()["flip_eps"], line.row()["flip_plus"]) == (2.0, math.inf)
    assert line.row()["exact"] == exact
    mirrored = replace(line, epsilon=-places[::-1], token=line.token[::-1], walked=walked[::-1])
    assert mirrored.row()["exact"] == exact


def test_where_slots_have_other_bits_a_batch_is_stated_for_each_input():
    subject = sk.CausalLMSubject(sk.load("tiny"), [1, 2, 3], site="logits", batch=4)
    apart = copy(subject)
    apart.proofs = replace(subject.proofs, slots_equal=False)
    alike = copy(subject)
    alike.proofs = replace(subject.proofs, slots_equal=True)
    grids = [sk.FlipScan(("v1",), points=points, cells=2, oracle=False) for points in (40, 8)]
    more = [[asked.cost(one).forwards for asked in grids] for one in (alike, apart)]
    assert [many - few for many, few in more] == [2 * (40 - 8), 4 * 2 * (40 - 8)]
    prompt = sk.FlipScan(("v1",), at="prompt")
    assert prompt.cost(apart).forwards - prompt.cost(alike).forwards == 4 * 3 * (TRIED - math.ceil(TRIED / 4))
