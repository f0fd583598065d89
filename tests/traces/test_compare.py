"""Two recordings set against each other: planted differences are found where they were planted, and nothing else."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import IncomparableError, UsageError
from stabilitykit.report import write_one
from stabilitykit.report.figures import figures
from stabilitykit.traces.agreement import agreement
from stabilitykit.traces.recording import Generation
from stabilitykit.traces.stages import Stage

STEPS, STAGES, TOP = 6, 4, 3
NAMES = ("embed", "block:0", "post_norm", "logits")


def generation(ids=(1, 2), tokens=range(STEPS), **changes):
    """A made-up generation: logits 3, 2, 1 for the token, the next and the one after, digests by place."""
    tokens = np.array(list(tokens), dtype=np.int64)
    n = len(tokens)
    top_ids = np.stack([tokens, tokens + 1, tokens + 2], axis=1)
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(n, 1)
    digests = np.zeros((n, STAGES, 16), dtype=np.uint8)
    digests[..., 0] = np.arange(n)[:, None] + 1
    digests[..., 1] = np.arange(STAGES) + 1
    made = Generation(
        kind="given",
        text=f"prompt {ids}",
        ids=tuple(ids),
        tokens=tokens,
        predicted=tokens.copy(),
        top_ids=top_ids,
        top_logits=logits,
        normaliser=np.full(n, np.log(np.exp([3.0, 2.0, 1.0]).sum() + 1.0)),
        digests=digests,
    )
    return replace(made, **changes)


def made(*generations, **changes):
    model = {
        "spec": "m",
        "architecture": "A",
        "dtype": "float32",
        "config": "c",
        "tokenizer": "t",
        "digests": {"float32": "w32", "bfloat16": "w16"},
    }
    whole = sk.Recording(
        model=model,
        device="cpu",
        environment={"threads": 1},
        probe="p",
        mode="free",
        level="block",
        stages=tuple(Stage(name, name, block=0 if name == "block:0" else None, part=name) for name in NAMES),
        generations=generations or (generation(),),
        observer={"steps": 1},
        seconds={"plain": 1.0, "recorded": 1.0},
        words={token: f"<{token}>" for token in range(40)},
    )
    return replace(whole, **changes)


def planted(step, stage, one=None):
    """The generation with another digest at one place."""
    one = one or generation()
    digests = one.digests.copy()
    digests[step, stage, 7] ^= 1
    return replace(one, digests=digests)


def compared(a, b, **how):
    return sk.measure(sk.TraceComparison(a, **how), b, progress=False)


def prompts(result):
    return [row for row in result.rows if row["part"] == "prompt"]


def test_equal_recordings_pass_and_of_one_device_they_prove_nothing():
    result = compared(made(), made())
    assert result.verdict == "pass"
    assert result.readings["divergence_index"].value == STEPS  # never parted: a bound
    assert (result.readings["differing_stages"].value, result.readings["compared_stages"].value) == (0, STEPS * STAGES)
    assert "no bit differs" in result.sentence
    assert compared(made(), made(), distinct=True).verdict == "not-distinct"
    assert compared(made(), made(probe="other"), distinct=True).verdict == "pass"


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("stage", range(STAGES))
def test_one_digest_that_differs_is_found_at_its_step_and_stage(step, stage):
    result = compared(made(), made(planted(step, stage)))
    assert result.verdict == "differs"
    row = prompts(result)[0]
    assert (row["first_step"], row["stage"], row["divergence_index"]) == (step, NAMES[stage], None)
    assert result.readings["differing_stages"].value == 1
    assert result.readings["first_step"].value == step
    assert result.readings["first_step"].place["stage"] == NAMES[stage]
    assert result.arrays["map"].tolist() == [
        [int((s, k) == (step, stage)) for k in range(STAGES)] for s in range(STEPS)
    ]
    per_stage = {r["stage"]: (r["differing_steps"], r["first_in_steps"]) for r in result.rows if r["part"] == "stage"}
    assert per_stage == {name: ((1, 1) if k == stage else (0, 0)) for k, name in enumerate(NAMES)}


def test_of_several_the_first_in_running_order_is_named():
    both = planted(2, 3, planted(4, 0))
    assert prompts(compared(made(), made(both)))[0]["stage"] == "logits"
    both = planted(2, 3, planted(2, 1))
    assert prompts(compared(made(), made(both)))[0]["stage"] == "block:0"


@pytest.mark.parametrize("index", range(STEPS))
def test_texts_part_at_the_first_other_token_and_later_steps_are_not_compared(index):
    other = generation(tokens=[*range(index), *range(30, 30 + STEPS - index)])
    spoiled = planted(STEPS - 1, 0, other) if index < STEPS - 1 else other
    row = prompts(compared(made(), made(spoiled)))[0]
    assert (row["divergence_index"], row["agreed"], row["compared_steps"]) == (index, index, index + 1)
    assert (row["token"], row["other_token"]) == (f"<{index}>", "<30>")
    assert row["differing_stages"] == 0  # the spoiled digest is behind the divergence, where the inputs differ


def test_a_text_that_ends_early_parts_where_it_ends():
    row = prompts(compared(made(), made(generation(tokens=range(4)))))[0]
    assert (row["divergence_index"], row["compared_steps"], row["token_id"]) == (4, 4, None)


def test_margins_top_lists_and_the_closeness_of_the_call_are_those_of_the_divergence():
    a, b = generation(), generation(tokens=[0, 1, 30, 31, 32, 33])
    a.top_ids[2], a.top_logits[2] = [2, 30, 9], torch.tensor([3.0, 2.75, 1.0])
    b.top_ids[2], b.top_logits[2] = [30, 2, 9], torch.tensor([3.0, 2.875, 1.0])
    result = compared(made(a), made(b))
    row = prompts(result)[0]
    assert (row["margin"], row["other_margin"]) == (0.25, 0.125)
    assert row["margin_ulp"] == 0.25 / 2**-22  # 3.0 lies in [2, 4)
    assert row["top"] == [[2, "<2>", 3.0], [30, "<30>", 2.75], [9, "<9>", 1.0]]
    assert row["explained"] is True
    assert result.readings["margin_at_divergence"].value == 0.25
    assert result.readings["explained_divergences"].value == 1.0
    a.top_logits[2] = torch.tensor([9.0, 2.0, 1.0])
    b.top_ids[2] = [30, 8, 9]  # a's token is not even listed: no near-tie
    assert prompts(compared(made(a), made(b)))[0]["explained"] is False


def test_kl_is_a_lower_bound_of_the_whole_and_exact_where_the_lists_are_the_vocabulary():
    draw = np.random.Generator(np.random.PCG64(0))
    for trial in range(40):
        z = torch.from_numpy(draw.normal(size=(2, 8)) * 2)
        top = 8 if trial % 2 else 4
        sides = []
        for row in z:
            order = row.argsort(descending=True)[:top]
            one = generation(tokens=[int(order[0])])
            sides.append(
                replace(
                    one,
                    top_ids=order[None].numpy(),
                    top_logits=row[order][None],
                    normaliser=np.array([float(row.logsumexp(0))]),
                )
            )
        found = float(agreement(*sides, None, forced=True).kl[0])
        p, q = (row.softmax(0) for row in z)
        whole = math.fsum((p * (p / q).log()).tolist())
        assert found <= whole + 1e-12
        assert top == 4 or found == pytest.approx(whole, abs=1e-12)


def test_overlap_is_the_jaccard_index_of_the_top_lists():
    b = generation()
    b.top_ids[3] = [3, 20, 21]
    assert compared(made(), made(b)).readings["min_overlap"].value == 1 / 5


def test_forced_recordings_compare_every_step_and_count_what_each_would_say():
    b = generation()
    b.predicted[[1, 4]] = 30
    result = compared(made(), made(planted(5, 2, b), mode="forced"))
    assert result.verdict == "differs"
    assert result.readings["argmax_disagreements"].value == 2
    assert prompts(result)[0]["divergence_index"] is None
    assert prompts(result)[0]["first_step"] == 5
    assert "would say different ones at 2 of 6 steps" in result.sentence


def test_survival_and_kinds_count_texts_that_ended_in_agreement():
    pairs = [
        (generation((1,), kind="answerable"), generation((1,), tokens=[0, 1, 30, 31, 32, 33])),
        (generation((2,), kind="answerable"), generation((2,))),
        (generation((3,), kind="false premise"), generation((3,), tokens=[30] * 6)),
    ]
    result = compared(made(*(a for a, _ in pairs)), made(*(b for _, b in pairs)))
    assert result.readings["share_diverged"].value == pytest.approx(2 / 3)
    shares = {row["tokens"]: row["share"] for row in result.rows if row["part"] == "survival"}
    assert [shares[t] for t in (0, 1, 2, 3, 6)] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
    kinds = {row["kind"]: (row["prompts"], row["diverged"]) for row in result.rows if row["part"] == "kind"}
    assert kinds == {"answerable": (2, 1), "false premise": (1, 1)}


def test_other_dtypes_are_configurations_and_never_called_bitwise():
    narrow = made(model={**made().model, "dtype": "bfloat16", "digests": {"bfloat16": "w16"}})
    result = compared(made(), narrow)
    assert result.verdict == "measured"
    assert "differing_stages" not in result.readings
    assert "two configurations" in result.sentence
    parted = replace(narrow, generations=(generation(tokens=[30] * 6),))
    assert compared(made(), parted).verdict == "differs"


def test_a_stage_that_only_one_side_has_is_a_difference():
    fewer = made()
    fewer = replace(
        fewer,
        stages=fewer.stages[1:],
        generations=tuple(replace(one, digests=one.digests[:, 1:]) for one in fewer.generations),
    )
    result = compared(made(), fewer)
    assert result.verdict == "differs"
    assert "Stages that only one side has: embed" in result.sentence
    assert compared(made(), replace(fewer, level="module")).verdict == "pass"  # another level has other stages


MODEL = dict(made().model)
FOREIGN = {
    "weights": {"model": {**MODEL, "digests": {"float32": "other", "bfloat16": "w16"}}},
    "architecture": {"model": {**MODEL, "architecture": "B"}},
    "configuration": {"model": {**MODEL, "config": "d"}},
    "tokenizer": {"model": {**MODEL, "tokenizer": None}},
    "prompts": {"generations": (generation(), generation((9,)))},
    "prompt 0": {"generations": (generation((1, 3)),)},
    "forced tokens 0": {"mode": "forced", "generations": (generation(tokens=range(1, 7)),)},
}


@pytest.mark.parametrize("field", FOREIGN)
@pytest.mark.parametrize("swapped", [False, True])
def test_recordings_of_other_things_are_refused_with_the_field_that_differs(field, swapped):
    sides = [made(), made(**FOREIGN[field])]
    a, b = reversed(sides) if swapped else sides
    with pytest.raises(IncomparableError) as caught:
        compared(a, b)
    first, *table = str(caught.value).splitlines()
    assert "of different things and were not compared" in first
    assert [line.split("  ")[1] for line in table] == [field]


def test_all_differing_fields_are_in_the_table():
    other = made(generation((7, 7)), model={**MODEL, "config": "d", "tokenizer": "u"})
    with pytest.raises(IncomparableError) as caught:
        compared(made(), other)
    assert len(str(caught.value).splitlines()) == 4


def test_weights_of_a_narrower_dtype_are_recognised_only_if_they_are_the_rounded_ones():
    other = made(model={**MODEL, "dtype": "bfloat16", "digests": {"bfloat16": "other"}})
    with pytest.raises(IncomparableError, match="weights"):
        compared(made(), other)


def test_no_reference_is_refused():
    with pytest.raises(UsageError, match="needs the recording to compare with"):
        sk.measure(sk.TraceComparison(), made(), progress=False)


def test_the_report_has_a_row_a_prompt_and_names_places_in_columns_of_their_own(tmp_path):
    hostile = made(words={0: "=cmd|' /C calc'!A0", 30: "<script>alert(1)</script>"})
    other = replace(hostile, generations=(planted(0, 1, generation(tokens=[30] * 6)),))
    result = compared(hostile, other)
    write_one(result, tmp_path, "trace_comparison", "stabilitykit compare A B", {})
    with open(tmp_path / "tables" / "divergence.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["check_id"], row["divergence_index"], row["stage"]) == ("trace_comparison", "0", "block:0")
    assert not row["token"].startswith("=")
    with open(tmp_path / "results.csv", encoding="utf-8", newline="") as file:
        (reading,) = [row for row in csv.DictReader(file) if row["reading"] == "divergence_index"]
    assert (reading["value"], reading["token"], reading["stage"]) == ("0", "0", "block:0")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert {figure.title for figure in figures(result)} == {
        "Where the texts part",
        "Which layer differs at which token",
        "Which parts differ",
    }


def test_the_operation_that_parts_is_named_where_both_recorded_operations(tiny, monkeypatch):
    """The planted defect: one activation moved in its last bit, in the recording of the second side only."""
    asked = {"tokens": 2, "level": "op", "steps": (0, 1)}
    before = sk.record(tiny, ["ab"], **asked)
    act = tiny.model.model.layers[1].mlp.act_fn
    plain = act.forward
    monkeypatch.setattr(act, "forward", lambda x: plain(x) * (1 + 2**-23))
    result = compared(before, sk.record(tiny, ["ab"], **asked))
    operations = [row for row in result.rows if row["part"] == "operation"]
    assert [row["step"] for row in operations] == [0, 1]
    for row in operations:
        assert row["op"].startswith("model.layers.1.mlp.act_fn/aten.mul")
        assert row["kind"] == "different-operations"
    assert result.readings["first_step"].place["op"] == operations[0]["op"]
    assert prompts(result)[0]["op"] == operations[0]["op"]
    assert "Which operation parts first" in {figure.title for figure in figures(result)}
    same = compared(before, before)
    assert [row["kind"] for row in same.rows if row["part"] == "operation"] == ["equal", "equal"]
    assert "Which operation parts first" not in {figure.title for figure in figures(same)}
