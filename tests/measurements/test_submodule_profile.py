"""Profiles of submodules: exact names, planted rounding, and plain hooks beside the kit."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.pairs import Grid
from stabilitykit.measurements.progress import progress_to
from stabilitykit.measurements.site_changes import run

ONES = torch.ones(8, dtype=torch.float64) / math.sqrt(8)
PROMPT = "The capital of France is"
IDS = list(PROMPT.encode())


def value(result, name):
    return result.readings[name].value


class Two(nn.Module):
    """A block with two children, one after the other."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x))


class Bent(nn.Module):
    """Steep for small changes of coordinate 2 from 1, flat for large ones; smooth for the oracle's self-test."""

    def forward(self, x):
        return torch.cat([x[..., :2], 1 + torch.tanh(16 * (x[..., 2:3] - 1)), x[..., 3:]], dim=-1)


def test_modules_are_taken_by_their_exact_names(toys):
    """Block 1 of twelve is not blocks 10 and 11, and labels are names, not their last parts."""
    subject = toys.subject([Two(toys.Times(1.0), toys.Times(2.0)) for _ in range(12)])
    subject.noise_floor()
    subject.in_float64()
    result = sk.measure(sk.SubmoduleProfile(block=1, direction=ONES, epsilons=(0.1,)), subject)
    assert [row["module"] for row in result.rows] == [f"model.layers.1{tail}" for tail in ("", ".first", ".second")]
    assert [row["label"] for row in result.rows] == ["", "first", "second"]
    assert {row["block"] for row in result.rows} == {1}
    assert [row["kind"] for row in result.rows] == ["Two", "Times", "Times"]
    every = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(0.1,)), subject)
    assert value(every, "modules") == 36
    assert every.execution.calls == result.execution.calls  # all blocks in the same forwards
    some = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(0.1,), modules="f*"), subject)
    assert [row["module"] for row in some.rows] == [f"model.layers.{k}.first" for k in range(12)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_every_module_is_what_a_plain_hook_sees(family):
    """Modules of any width, prefill at batch 1, against hooks on the plain model."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS)
    d = torch.linspace(-1, 1, 64, dtype=torch.float64)
    result = sk.measure(sk.SubmoduleProfile(direction=d, epsilons=(0.01,), unit="abs", oracle=False), subject)
    model, seen = subject.model, {}
    names = [row["module"] for row in result.rows if row["measured"]]

    def keep(name):
        return lambda _m, _a, out: seen.setdefault(name, []).append(out[0] if isinstance(out, tuple) else out)

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    x = sk.perturb(subject.x0, d, 0.01)
    with torch.no_grad():
        for last in (subject.x0, x):
            model.base_model(inputs_embeds=torch.cat([subject.embeddings[:-1], last[None]])[None], use_cache=False)
    for handle in handles:
        handle.remove()
    assert len(names) > 20
    for row in result.rows:
        if row["measured"]:
            a, b = (out.reshape(-1, out.shape[-1])[-1].double() for out in seen[row["module"]])
            assert row["l2"] == pytest.approx(float((b - a).norm()), rel=1e-12), row["module"]
            assert row["changed"] == int((a != b).sum())
            assert row["relative_l2"] == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-12)
            assert row["gain_realised"] == pytest.approx(row["l2"] / float((x - subject.x0).double().norm()), rel=1e-5)


def test_the_module_that_rounds_is_named(toys):
    """The second child of block 1 rounds to 8 bits. What follows carries its error on; what is before has none."""
    blocks = [Two(toys.Times(2.0), toys.Times(2.0)) for _ in range(3)]
    blocks[1] = Two(toys.Times(2.0), toys.Coarse(3.0))
    asked = sk.SubmoduleProfile(direction=ONES, epsilons=(1e-5, 1e-3))
    result = sk.measure(asked, toys.subject(blocks))
    table = {(row["module"], row["epsilon"]): row for row in result.rows}
    x0 = toys.subject(blocks).x0
    x = sk.perturb(x0, ONES, 1e-5 * float(x0.double().norm()))
    told, true = (x * 12).to(torch.bfloat16).double(), x.double() * 12
    true_change = 12 * (x.double() - x0.double())
    row = table["model.layers.1.second", 1e-5]
    assert row["excess"] == pytest.approx(float((told - true).norm() / true_change.norm()), rel=1e-9)
    assert row["forward_error"] == pytest.approx(float((told - true).norm() / true.norm()), rel=1e-9)
    assert table["model.layers.1.first", 1e-5]["excess"] == 0
    assert table["model.layers.0", 1e-5]["excess"] == 0
    assert value(result, "excess") == row["excess"] > 10
    place = result.readings["excess"].place
    # The block's last child and the block itself are the same numbers; the first of equal ones is named.
    assert place["block"] == "1"
    assert place["module"] == "model.layers.1"
    assert place["epsilon"] == "1e-05"
    assert f"in model.layers.1, {row['excess']:.3g} times as long" in result.sentence
    assert value(result, "rounding_modules") == 5 / 9  # block 1 and its second child, block 2 and both of its
    wide = sk.SubmoduleProfile(direction=ONES, epsilons=(0.5, 1e-5, 0.25))
    assert value(sk.measure(wide, toys.subject(blocks)), "rounding_modules") == 5 / 9  # at the smallest step
    large = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(0.5,)), toys.subject(blocks))
    assert 0 < value(large, "excess") < 1
    assert value(large, "rounding_modules") == 0  # there is rounding, and it is smaller than the change
    assert value(result, "rounding_share") == pytest.approx(max(one["rounding_share"] for one in result.rows))
    clean = sk.measure(asked, toys.subject([Two(toys.Times(2.0), toys.Times(2.0)) for _ in range(3)]))
    assert value(clean, "excess") == value(clean, "rounding_modules") == 0
    assert "times as long" in clean.sentence


def test_the_largest_gain_is_named_with_its_place(toys):
    subject = toys.subject([Two(toys.Times(2.0), toys.Times(64.0)), Two(toys.Times(0.25), toys.Times(2.0))])
    result = sk.measure(sk.SubmoduleProfile(direction=-ONES, epsilons=(0.5,), signs=(-1,)), subject)
    assert value(result, "gain_realised") == 128
    assert result.readings["gain_realised"].place == {
        "module": "model.layers.0",
        "label": "",
        "block": "0",
        "direction": "0",
        "sign": "-1",
        "epsilon": "0.5",
    }


def test_the_share_of_one_block_in_the_growth(toys):
    """Relative growth is that of coordinate 2 over that of the whole state; two blocks grow, one shrinks it."""
    gains = [torch.ones(8) for _ in range(3)]
    gains[0][2], gains[1][2], gains[2][2] = 64.0, 0.5, 4.0
    subject = toys.subject([toys.Times(g) for g in gains])
    d = torch.eye(8, dtype=torch.float64)[2]
    result = sk.measure(sk.SubmoduleProfile(direction=d, epsilons=(0.125, 0.25), unit="abs"), subject)
    sizes, state, factor = [], subject.x0.double(), 1.0
    for gain in [torch.ones(8), *gains]:
        state, factor = state * gain, factor * float(gain[2])
        sizes.append(factor / float(state.norm()))
    growth = [math.log(b / a) for a, b in itertools.pairwise(sizes)]
    whole = sum(max(one, 0.0) for one in growth)
    assert value(result, "top_share") == pytest.approx(growth[0] / whole)
    assert result.readings["top_share"].place == {"block": "0"}
    # A step that saturates block 0 leaves block 2 alone; the smallest one counts.
    bent = toys.subject([Bent(), toys.Times(gains[2])])
    both, small = (
        sk.measure(sk.SubmoduleProfile(direction=d, epsilons=e, unit="abs"), bent) for e in ((0.5, 0.0625), (0.0625,))
    )
    alone = sk.measure(sk.SubmoduleProfile(direction=d, epsilons=(0.5,), unit="abs"), bent)
    assert value(both, "top_share") == value(small, "top_share") != value(alone, "top_share")
    last = sk.measure(sk.SubmoduleProfile(block=2, direction=d, epsilons=(0.125,), unit="abs"), subject)
    assert value(last, "top_share") == pytest.approx(growth[0] / whole)  # of all blocks, whichever is looked into


def test_modules_without_a_vector_a_token_are_listed_as_not_measured():
    subject = sk.CausalLMSubject(sk.load("tiny:mixtral"), IDS)
    result = sk.measure(sk.SubmoduleProfile(direction=torch.ones(64), oracle=False), subject)
    missing = [row for row in result.rows if not row["measured"]]
    assert [row["module"] for row in missing] == [f"model.layers.{k}.mlp.experts.act_fn" for k in range(3)]
    assert value(result, "unmeasured") == 3
    assert value(result, "modules") == 33
    assert all("l2" not in row for row in missing)


def test_arrays_are_the_rows_as_maps(toys):
    subject = toys.subject([Two(toys.Times(2.0), toys.Coarse(3.0))])
    result = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(0.1, 0.2), signs=(1, -1)), subject)
    assert result.arrays["modules"].tolist() == [f"model.layers.0{tail}" for tail in ("", ".first", ".second")]
    assert result.arrays["epsilon"].tolist() == [0.1, 0.2, 0.1, 0.2]
    for name in ("excess", "gain_realised", "relative_l2"):
        assert result.arrays[name].shape == (4, 3)
        np.testing.assert_array_equal(result.arrays[name].ravel(), [row[name] for row in result.rows])


def test_steps_that_move_nothing_and_a_refused_oracle_are_said(toys, monkeypatch):
    subject = toys.subject([Two(toys.Times(2.0), toys.Times(2.0))])
    still = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(1e-12,)), subject)
    assert still.sentence == "No step moves the rounded input, so none of the 3 modules changes."
    assert all(math.isnan(value(still, name)) for name in ("excess", "gain_realised", "top_share", "rounding_modules"))

    def refuse(self):
        raise UnsupportedError("no memory for a copy")

    monkeypatch.setattr(sk.CausalLMSubject, "in_float64", refuse)
    refused = sk.measure(sk.SubmoduleProfile(direction=ONES, epsilons=(0.1,)), subject)
    assert refused.sentence.endswith("there is no true float64 to compare with: no memory for a copy")
    assert value(refused, "gain_realised") == 4


def test_what_names_no_module_is_refused(toys):
    subject = toys.subject([toys.Times(2.0)])
    for fields, message in (({"block": -1}, "block"), ({"block": True}, "block"), ({"tau": -1.0}, "tau")):
        with pytest.raises(UsageError, match=message):
            sk.SubmoduleProfile(**fields)
    with pytest.raises(UsageError, match="blocks 0 to 0"):
        sk.measure(sk.SubmoduleProfile(block=1, direction=ONES), subject)
    with pytest.raises(UsageError, match="matches no module"):
        sk.measure(sk.SubmoduleProfile(modules="attention", direction=ONES), subject)
    with pytest.raises(UnsupportedError, match="no modules with names"):
        sk.measure(sk.SubmoduleProfile(direction=torch.ones(3)), sk.FunctionSubject(lambda X: X, torch.ones(3)))


def test_the_stated_cost_bounds_the_work(toys):
    subject = toys.subject([toys.Times(2.0)], batch=3)
    asked = sk.SubmoduleProfile(direction="v1")
    stated = asked.cost(subject).forwards
    assert stated / 2 < sk.measure(asked, subject).execution.forwards <= stated


def test_the_first_block_is_number_0_and_none_comes_before_it():
    assert sk.SubmoduleProfile(block=0).block == 0
    with pytest.raises(sk.UsageError, match="block=-1 is neither a block's number, from 0, nor 'all'"):
        sk.SubmoduleProfile(block=-1)


def test_a_change_that_one_block_takes_away_and_a_later_one_brings_back_grows_in_neither(toys):
    """Block 1 magnifies coordinate 2, block 2 erases it, block 3 adds what block 0 saw: all growth is block 1's."""
    keep, gains = toys.Keep(), [torch.ones(8), torch.ones(8)]
    gains[0][2], gains[1][2] = 64.0, 0.0
    subject = toys.subject([keep, *map(toys.Times, gains), toys.Reread(keep)])
    d = torch.eye(8, dtype=torch.float64)[2]
    result = sk.measure(sk.SubmoduleProfile(direction=d, epsilons=(0.125,), unit="abs", oracle=False), subject)
    assert [row["relative_l2"] > 0 for row in result.rows] == [True, True, False, True]
    assert value(result, "top_share") == 1
    assert result.readings["top_share"].place == {"block": "1"}


def test_the_progress_bar_counts_batches_of_pairs(toys):
    """Five inputs in batches of two are three batches."""
    subject, said = toys.subject([toys.Times(2.0)], batch=2), io.StringIO()
    pairs = Grid(ONES, (0.1, 0.2, 0.3, 0.4, 0.5), "abs", "origin", (1,), "p64r").pairs(subject)
    with progress_to(said):
        run(subject, pairs, ["block:0"])
    assert "states:   0%" in said.getvalue()  # on a line of its own, where another bar is open
    assert " 0/3 " in said.getvalue()
