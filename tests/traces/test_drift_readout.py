"""What norm and head make of recorded states: two tiny machines that part, against plain float64 algebra."""

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles.recordings import changed, other_machine

import stabilitykit as sk
from stabilitykit.errors import IncomparableError
from stabilitykit.subjects.anatomy import find
from stabilitykit.traces.aligned import aligned
from stabilitykit.traces.preference import preference
from stabilitykit.traces.readout import Readout, readout
from stabilitykit.traces.record import record
from stabilitykit.traces.stages import Stage

PROMPTS = ["The capital of France is", "def area(radius): return"]


def machines(family="tiny", dtype="float32", block="model.layers.1", tokens=12, states="all", scale=0.2):
    loaded = sk.load(family, dtype=dtype)
    here = record(loaded, PROMPTS, tokens, states=states)
    with other_machine(loaded, block, scale):
        there = record(loaded, PROMPTS, tokens, states=states)
    return loaded, here, there


@pytest.fixture(scope="module")
def parted():
    loaded, here, there = machines()
    result = sk.measure(sk.Drift(here, loaded), there)
    assert result.readings["diverged"].value > 0, "the planted machine must say something else"
    return loaded, here, there, result


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == value for name, value in where.items())]


def lens(loaded, state, token, normed=False):
    """One token's logit by exact fractions of the model's own normed state."""
    with torch.no_grad():
        h = state if normed else find(loaded.model).final_norm(state[None, None])[0, 0]
    weight = find(loaded.model).head.weight[token]
    pairs = zip(weight.double().tolist(), h.double().tolist(), strict=True)
    return sum((Fraction(w) * Fraction(x) for w, x in pairs), Fraction(0)), h.dtype


def side(loaded, state, tokens, normed=False):
    (first, dtype), (second, _) = (lens(loaded, state, token, normed) for token in tokens)
    left, right = (torch.tensor(float(z), dtype=torch.float64).to(dtype) for z in (first, second))
    return float(first - second), "tie" if left == right else "a" if first > second else "b"


def test_the_lens_reads_the_step_of_the_divergence_with_the_tokens_that_were_chosen(parted):
    loaded, here, there, result = parted
    for number, (a, b) in enumerate(zip(here.generations, there.generations, strict=True)):
        at = next((s for s in range(a.steps) if a.tokens[s] != b.tokens[s]), None)
        found = rows(result, "preference", number=number)
        if at is None:
            assert not found
            continue
        tokens = (int(a.tokens[at]), int(b.tokens[at]))
        stream = ["embed"]
        for block in range(3):
            stream += [f"input:model.layers.{block}.post_attention_layernorm", f"block:{block}"]
        assert [row["stage"] for row in found] == [*stream, "post_norm", "logits"]
        for row in found[:-1]:
            assert (row["position"], row["token_a"], row["token_b"]) == (at, *tokens)
            assert (row["word_a"], row["word_b"]) == tuple(loaded.tokenizer.decode([token]) for token in tokens)
            for run, one in (("a", a), ("b", b)):
                state = one.states[row["stage"]][at]
                ahead, prefers = side(loaded, state, tokens, row["stage"] == "post_norm")
                assert row[f"ahead_{run}"] == ahead  # exact: one rounding of the exact sum
                assert row[f"prefers_{run}"] == prefers
        for run, one in (("a", a), ("b", b)):
            first, second = one.states["logits"][at][list(tokens)].tolist()
            assert found[-1][f"ahead_{run}"] == first - second
        assert (found[-1]["prefers_a"], found[-1]["prefers_b"]) == ("a", "b")


def test_the_step_before_would_give_another_answer(parted):
    """The study's off-by-one: the state of the step before chose the token that both still agreed on."""
    _, here, there, result = parted
    row = rows(result, "preference", stage="post_norm", number=1)[0]
    one = here.generations[row["number"]]
    before = side(parted[0], one.states["post_norm"][row["position"] - 1], (row["token_a"], row["token_b"]), True)
    assert row["position"] > 0
    assert before[0] != row["ahead_a"]
    assert one.predicted[row["position"] - 1] == there.generations[row["number"]].predicted[row["position"] - 1]


def test_the_flip_row_says_where_each_run_made_up_its_mind(parted):
    _, _, _, result = parted
    for flip in rows(result, "flip"):
        along = rows(result, "preference", number=flip["number"])
        differing = [row["stage"] for row in along if row["prefers_a"] != row["prefers_b"]]
        assert flip["stage"] == differing[0]
        assert along[flip["order"]]["stage"] == flip["stage"]
        for run in "ab":
            sides = [row[f"prefers_{run}"] for row in along]
            own = [row["stage"] for row, prefers in zip(along, sides, strict=True) if prefers == run]
            assert flip[f"first_{run}"] == own[0]
            tail = next(k for k in range(len(sides)) if set(sides[k:]) == {run})
            assert flip[f"settled_{run}"] == along[tail]["stage"]
            assert flip[f"tie_{run}"] is False
            assert flip[f"unrounded_{run}"] == run
        apart = [row["prefers_a"] != row["prefers_b"] for row in along]
        assert flip["parted_from"] == along[next(k for k in range(len(apart)) if all(apart[k:]))]["stage"]
    assert result.readings["flip_stage"].value == min(row["order"] for row in rows(result, "flip"))
    assert result.readings["flip_stage"].place["stage"] in {row["stage"] for row in rows(result, "flip")}


def test_the_earliest_flip_of_all_prompts_is_the_reading(parted):
    loaded = parted[0]
    prompts = [PROMPTS[0], "Once the rain"]
    here = sk.record(loaded, prompts, 6, states="all")
    with other_machine(loaded, "model.layers.0", 0.2):
        there = sk.record(loaded, prompts, 6, states="all")
    result = sk.measure(sk.Drift(here, loaded), there)
    late, early = rows(result, "flip")
    assert late["order"] > early["order"]
    reading = result.readings["flip_stage"]
    assert (reading.value, reading.place["stage"]) == (early["order"], early["stage"])
    assert (reading.place["prompt"], reading.place["parted_from"]) == ("Once the rain", early["parted_from"])
    assert reading.place["settled_a"] == early["settled_a"]


def test_this_head_makes_both_tokens_of_both_states_in_the_recorded_bits(parted):
    _, here, there, result = parted
    assert (result.readings["head_same"].value, result.readings["head_bits"].value) == (1, 1)
    for row in rows(result, "head"):
        one = (here if row["run"] == "a" else there).generations[row["number"]]
        assert row["token_here"] == row["token_id"] == one.predicted[row["position"]]
        assert row["logit_here"] == row["logit"] == float(one.top_logits[row["position"]][0])
    assert "with the recorded bits: the states differ, not the heads" in result.sentence


def test_a_head_that_reads_another_state_is_seen(parted):
    loaded, here, there, _ = parted
    at = aligned(here, there)[0].step
    one = here.generations[0]
    swapped = changed(one, "post_norm", at, lambda x: -x)
    nudged = changed(one, "post_norm", at, lambda x: x * (1 + 2.0**-20))
    for planted, token, bits in ((swapped, False, False), (nudged, True, False)):
        left = replace(here, generations=(planted, here.generations[1]))
        row = rows(sk.measure(sk.Drift(left, loaded), there), "head", number=0, run="a")[0]
        assert (row["same_token"], row["bit_equal"]) == (token, bits)
        assert row["max_ulp"] > 0


def test_the_norm_rows_are_angles_and_products_of_the_top_tokens(parted):
    loaded, here, there, result = parted
    W = find(loaded.model).head.weight.double().numpy()
    for row in rows(result, "norm"):
        one = (here if row["run"] == "a" else there).generations[row["number"]]
        assert row["token_id"] == one.top_ids[row["position"]][row["rank"] - 1]
        ids = one.top_ids[row["position"]][:5]
        for when, stage in (("before", "block:2"), ("after", "post_norm")):
            h = one.states[stage][row["position"]].double().numpy()
            cosines = W[ids] @ h / np.linalg.norm(W[ids], axis=1) / np.linalg.norm(h)
            mine = cosines[row["rank"] - 1]
            assert row[f"cosine_{when}"] == pytest.approx(mine, abs=1e-14)
            assert row[f"angle_{when}"] == pytest.approx(math.degrees(math.acos(mine)), rel=1e-11)
            assert row[f"logit_{when}"] == pytest.approx(W[row["token_id"]] @ h, rel=1e-12, abs=1e-12)
            assert row[f"rank_{when}"] == 1 + sum(cosines > mine)
        assert row["angle_change"] == pytest.approx(row["angle_after"] - row["angle_before"], abs=1e-12)
    turned = max((row["angle_change"] for row in rows(result, "norm")), key=abs)
    assert result.readings["norm_turn"].value == turned
    assert len(rows(result, "norm")) == 2 * 2 * 5


def test_a_tie_of_the_rounded_logits_is_its_own_class_and_shows_what_the_state_prefers():
    """Two rows of the head that differ by less than bfloat16 can say: a tie, though the state prefers the second."""
    weight = torch.zeros(3, 4, dtype=torch.bfloat16)
    weight[0, 0], weight[1, 0], weight[1, 1] = 8.0, 8.0, 2.0**-6
    head = torch.nn.Linear(4, 3, bias=False)
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    tool = Readout(None, None, None, head, True)
    state = torch.ones(4, dtype=torch.bfloat16)
    assert tool.preference(state, 0, 1) == (-(2.0**-6), True)
    assert tool.preference(state, 1, 0) == (2.0**-6, True)
    assert tool.preference(state.float(), 0, 1) == (-(2.0**-6), False)
    assert tool.preference(state, 0, 2) == (8.0, False)
    biased = torch.nn.Linear(4, 3)
    biased.weight, biased.bias = head.weight, torch.nn.Parameter(torch.tensor([0.0, 0.0, 9.0]))
    assert Readout(None, None, None, biased, True).preference(state, 0, 2) == (-1.0, False)


def test_a_run_that_ends_in_a_tie_is_said_to(parted):
    """In bfloat16 the other machine has two equal logits, of which the lower id wins, whatever its state prefers."""
    loaded, here, there = machines(dtype="bfloat16", scale=0.05)
    result = sk.measure(sk.Drift(here, loaded), there)
    (flip,) = rows(result, "flip")
    tokens, step = (flip["token_a"], flip["token_b"]), flip["position"]
    logits = there.generations[flip["number"]].states["logits"][step][list(tokens)].tolist()
    assert logits[0] == logits[1]
    assert min(tokens) == flip["token_b"]
    assert (flip["tie_a"], flip["tie_b"], flip["settled_b"]) == (False, True, None)
    along = rows(result, "preference", number=flip["number"])
    state = there.generations[flip["number"]].states["post_norm"][step]
    ahead, prefers = side(loaded, state, tokens, normed=True)
    assert prefers == along[-2]["prefers_b"] == along[-1]["prefers_b"] == "tie"
    assert flip["unrounded_b"] == ("a" if ahead > 0 else "b")
    assert "run b ends in a tie" in result.sentence


def test_ties_agree_with_ties_only_and_never_settle(parted):
    loaded, here, there, _ = parted
    tool = readout(loaded, here)
    pair = next(one for one in aligned(here, there) if one.divergence is not None)
    found = preference(pair, (tool, tool))
    planted = replace(
        found,
        stages=("embed", "block:0", "block:1", "post_norm"),
        ahead=((1.0, 0.0, -1.0, 0.5), (1.0, 0.0, -1.0, -0.5)),
        sides=(("a", "tie", "tie", "tie"), ("b", "tie", "b", "b")),
    )
    assert (planted.flip, planted.first(0), planted.first(1)) == (0, 0, 0)
    assert (planted.settled(0), planted.settled(1)) == (None, 2)
    assert planted.parted == 2
    assert (planted.unrounded(0), planted.unrounded(1)) == ("a", "b")


def test_forced_on_the_other_s_tokens_every_step_counts_and_the_first_disagreement_is_looked_into(parted):
    loaded, here, _, _ = parted
    with other_machine(loaded, "model.layers.1", 0.2):
        forced = record(loaded, here, forced=True, states="all")
    result = sk.measure(sk.Drift(here, loaded), forced)
    assert result.readings["compared"].value == sum(one.steps for one in here.generations)
    for number, (a, b) in enumerate(zip(here.generations, forced.generations, strict=True)):
        differing = np.flatnonzero(a.predicted != b.predicted)
        (flip,) = rows(result, "flip", number=number)
        assert flip["position"] == differing[0]
        assert (flip["token_a"], flip["token_b"]) == (a.predicted[differing[0]], b.predicted[differing[0]])
    flips = sum(
        int((a.predicted != b.predicted).sum()) for a, b in zip(here.generations, forced.generations, strict=True)
    )
    assert result.readings["disagreements"].value == flips > result.readings["diverged"].value == 2


def test_runs_that_do_not_part_have_no_preference_but_a_norm_and_a_head(parted):
    loaded, here, _, _ = parted
    result = sk.measure(sk.Drift(here, loaded), record(loaded, PROMPTS, 12, states="all"))
    assert {row["part"] for row in result.rows} == {"token", "stage", "precision", "norm", "head"}
    assert "flip_stage" not in result.readings
    result.check(max_ulp=0, head_same=1, head_bits=1)


def test_blocks_alone_are_enough(parted):
    loaded = parted[0]
    _, here, there = machines(states="blocks")
    result = sk.measure(sk.Drift(here, loaded), there)
    whole = parted[3]
    assert [row["stage"] for row in rows(result, "preference", number=0)][:4] == [
        "embed",
        "block:0",
        "block:1",
        "block:2",
    ]
    for row in rows(result, "preference"):
        (twin,) = rows(whole, "preference", number=row["number"], stage=row["stage"])
        assert {k: v for k, v in twin.items() if k != "order"} == {k: v for k, v in row.items() if k != "order"}


def test_a_narrower_recording_is_read_by_the_wider_model_rounded(parted):
    loaded, here, _, _ = parted
    narrow, low, other = machines(dtype="bfloat16")
    both = sk.measure(sk.Drift(low, loaded), other)
    assert both.readings["head_bits"].value == 1
    own = sk.measure(sk.Drift(low, narrow), other)
    assert both.rows == own.rows
    across = sk.measure(sk.Drift(here, loaded), low)
    assert across.readings["head_bits"].value == 1
    assert across.execution.forwards == sk.Drift(here, loaded).cost(low).forwards == 2
    with pytest.raises(IncomparableError, match="its weights are others"):
        sk.measure(sk.Drift(here, narrow), here)


def test_another_model_is_refused(parted):
    _, here, there, _ = parted
    with pytest.raises(IncomparableError, match="tiny:gpt2 in float32 is not the model of the recording"):
        sk.measure(sk.Drift(here, sk.load("tiny:gpt2")), there)


@pytest.mark.parametrize(
    ("family", "block", "between"),
    [("tiny:gpt2", "transformer.h.1", "ln_2"), ("tiny:gemma2", "model.layers.1", "pre_feedforward_layernorm")],
)
def test_the_stream_is_found_by_structure(family, block, between):
    loaded, here, there = machines(family, block=block, tokens=4)
    tool = readout(loaded, here)
    stream = [stage.name for stage in here.stages if tool.residual(stage)]
    stem = block.rsplit(".", 1)[0]
    expected = ["embed"]
    for k in range(3):
        expected += [f"input:{stem}.{k}.{between}", f"block:{k}"]
    assert stream == expected
    result = sk.measure(sk.Drift(here, loaded), there)
    assert result.readings["head_same"].value == 1
    capped = family == "tiny:gemma2"
    assert tool.last is not capped
    assert ("head_bits" in result.readings) is not capped
    assert all(row["bit_equal"] is (None if capped else True) for row in rows(result, "head"))


def test_only_norms_of_the_block_itself_read_the_stream():
    """A norm inside the attention reads the attention's own vector, as wide as the stream and yet no sum of it."""
    block = torch.nn.ModuleDict({"ln_2": torch.nn.LayerNorm(4), "attn": torch.nn.ModuleDict()})
    block["attn"]["sub_norm"], block["proj"] = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)
    model = torch.nn.ModuleDict({"h0": block, "norm": torch.nn.LayerNorm(4)})
    tool = Readout(SimpleNamespace(final_norm_name="norm"), model, None, None, True)

    def reads(module, part, block=0, before=True):
        return tool.residual(Stage(f"input:{module}", module, before, block, part))

    assert reads("h0.ln_2", "ln_2:input")
    assert reads("norm", "norm:input", None)
    assert not reads("h0.attn.sub_norm", "attn.sub_norm:input")
    assert not reads("h0.proj", "proj:input")
    assert not reads("h0.ln_2", "ln_2", before=False)
    assert not reads("h0.ln_2", "ln_2:input", None)


def test_what_it_costs_is_what_it_said(parted):
    loaded, here, there, result = parted
    cost = sk.Drift(here, loaded).cost(there)
    assert (cost.forwards, cost.calls) == (result.execution.forwards, result.execution.calls) == (1, 4)
