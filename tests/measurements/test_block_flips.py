"""Flips that one block's rounding makes: a planted coarse block, clean twins, and SmolLM2, against loops by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from oracles.defective import DECAYS, EXPLODES, defective
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements.carriers import link_rows
from stabilitykit.prompts import DEFAULT_PROMPTS
from stabilitykit.subjects.exact_blocks import ExactBlocks
from stabilitykit.subjects.precision import true_float64

H = 8
IDS = [3, 7, 1, 12, 5, 9, 2, 14]


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)).float()


class CoarseBranch(nn.Module):
    """x -> x + a branch whose result is rounded to bfloat16, which true float64 does not see."""

    def __init__(self, A):
        super().__init__()
        self.register_buffer("A", A)

    def forward(self, x):
        return x + (x @ self.A.T).to(torch.bfloat16).to(x.dtype)


@pytest.fixture(scope="module")
def toy(toys):
    """Return a function that makes a model of chosen blocks; `tied` makes two tokens tie but for that."""

    def make(*blocks, tied=None):
        model = toys.model(blocks, toys.RMSNorm()).eval().requires_grad_(False)
        model.model.embed_tokens.weight.copy_(drawn(16, H, seed=1))
        model.lm_head.weight.copy_(drawn(16, H, seed=2))
        if tied is not None:
            _tie(model, tied)
        return sk.adopt(model)

    return make


def _tie(model, ahead):
    """Let tokens 0 and 1 win everywhere, and behind token 5 the latter by `ahead` only."""
    with torch.no_grad():
        (h,) = model.model(torch.tensor([[5]])).last_hidden_state[0]
    apart = drawn(H, seed=6)
    apart += h * (ahead - apart @ h) / (h @ h)
    model.lm_head.weight[:] *= 1e-3
    model.lm_head.weight[0] += 20 * h / (h @ h)
    model.lm_head.weight[1] = model.lm_head.weight[0] + apart


@pytest.fixture(scope="module")
def fine(toys):
    return lambda seed: toys.Residual(toys.Times(drawn(H, seed=seed) / 4))


@pytest.fixture(scope="module")
def planted(toy, fine):
    return toy(fine(3), CoarseBranch(drawn(H, H, seed=4) / 4), fine(5))


@pytest.fixture(scope="module")
def result(planted):
    return sk.measure(sk.BlockFlips([IDS], tokens=24), planted, progress=False)


def test_the_planted_block_has_all_of_the_error(result):
    layers = part(result, "layer")
    assert result.readings["max_variance_share"].place == {"layer": "1"}
    assert layers[1]["variance_share"] > 0.999
    assert layers[1]["own_error"] > 1e-4 > 1e-6 > max(layers[0]["own_error"], layers[2]["own_error"])


def test_a_twin_without_the_coarse_block_has_it_nowhere(toy, fine):
    clean = toy(fine(3), fine(4), fine(5))
    rows = part(sk.measure(sk.BlockFlips([IDS], tokens=24), clean, progress=False), "layer")
    assert max(row["own_error"] for row in rows) < 1e-6
    assert sum(row["flips"] for row in rows) == 0


def test_flips_are_those_of_a_loop_by_hand(toy, fine):
    """Two tokens nearly tie behind token 5; on one side of the tie the error turns them, on the other it does not."""
    turned = [
        _against_a_loop(toy(fine(3), CoarseBranch(drawn(H, H, seed=4)), fine(5), tied=tie)) for tie in (1e-5, -1e-5)
    ]
    assert sorted(map(bool, turned)) == [False, True]
    assert set(turned[0] or turned[1]) == {5}


def _against_a_loop(loaded):
    """Add the coarse block's error by hand; return the tokens behind which it changes the next."""
    result = sk.measure(sk.BlockFlips([IDS], tokens=24), loaded, progress=False)
    text = [*IDS, *_said(loaded, 24)]
    first, coarse, _ = loaded.model.model.layers
    A = coarse.A.double()
    with torch.no_grad():
        entered = first(loaded.model.model.embed_tokens(torch.tensor([text])))
        error = coarse(entered).double() - (entered.double() + entered.double() @ A.T)
        model = copy.deepcopy(loaded.model).double()
    with torch.no_grad(), true_float64():  # the norms of these blocks compute in float32 otherwise
        first, _, last = model.model.layers
        x = first(model.model.embed_tokens(torch.tensor([text])))
        states = (x + x @ A.T, x + x @ A.T + error)
        plain, moved = (model.lm_head(model.model.norm(last(state)))[0, 1:] for state in states)
    flips = (plain.argmax(dim=1) != moved.argmax(dim=1)).nonzero()[:, 0]
    rows = [row for row in part(result, "flip") if row["changed_by"] == 1]
    assert [row["position"] for row in rows] == (flips + 1).tolist()
    assert [row["other_id"] for row in rows] == moved.argmax(dim=1)[flips].tolist()
    top = plain.sort(dim=1, descending=True).indices[:, :2]
    change = (moved.gather(1, top) - plain.gather(1, top)) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert result.arrays["change"][1] == pytest.approx(change.numpy(), rel=1e-6, abs=1e-12)
    layer = part(result, "layer")[1]
    assert (layer["flips"], layer["flip_share"]) == (len(flips), len(flips) / (len(text) - 1))
    assert layer["margin_change"] == pytest.approx(float(change.abs().median()), rel=1e-6)
    assert result.readings["max_flip_share"].value == layer["flip_share"]
    assert result.readings["flips_of_blocks"].value == result.readings["flips_together"].value == len(flips)
    with torch.no_grad():
        said = loaded.model(torch.tensor([text])).logits[0, 1:].argmax(dim=1)
    assert result.readings["flips_of_model"].value == int((said != plain.argmax(dim=1)).sum()) < len(text) - 1
    assert result.readings["positions"].value == len(text) - 1
    return [text[place + 1] for place in flips.tolist()]


def _said(loaded, tokens):
    text = list(IDS)
    with torch.no_grad():
        for _ in range(tokens):
            text.append(int(loaded.model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(IDS) : -1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_neox", "mamba", "zamba2"])
def test_all_errors_together_are_the_model_itself(family):
    """The identity that makes the shares complete: the twin with every block's error ends where the model does."""
    loaded = sk.load(f"tiny:{family}", dtype="bfloat16")
    tool = ExactBlocks(loaded, [5, 6, 7])
    passed = tool.passed([5, 6, 7, 8, 9])
    errors, exact = tool.own_errors(passed), tool.reference(passed)
    none, every = tool.carried(
        passed, errors, torch.stack([torch.zeros(len(errors), 5), torch.ones(len(errors), 5)]), exact
    )
    assert torch.allclose(none.logits, exact.logits, rtol=1e-12, atol=1e-12)  # another batch shape
    missed = (every.state - passed.states[-1]).norm() / passed.states[-1].norm()
    assert missed < 1e-12 < 1e-4 < (none.state - passed.states[-1]).norm() / passed.states[-1].norm()


def test_skipped_blocks_change_nothing():
    loaded = sk.load("tiny", dtype="bfloat16")
    tool = ExactBlocks(loaded, [5, 6, 7])
    passed = tool.passed([5, 6, 7, 8, 9])
    errors, exact = tool.own_errors(passed), tool.reference(passed)
    assert exact.skippable
    weights = torch.zeros(1, 3, 5)
    weights[0, 2, 3] = 1
    whole = type(exact)(exact.left, exact.logits, skippable=False)
    (short,), (long,) = (list(tool.carried(passed, errors, weights, one)) for one in (exact, whole))
    assert torch.allclose(short.logits, long.logits, rtol=1e-12, atol=1e-13)
    changed = (short.logits != exact.logits).any(dim=1).tolist()
    assert changed == [False, False, False, True, True] or changed == [False, False, False, True, False]


def test_the_models_own_weights_and_settings_are_left_alone(planted):
    loaded = sk.load("tiny", dtype="bfloat16")
    before = loaded.describe(), loaded.model.config._attn_implementation
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())
    sk.measure(sk.BlockFlips([[1, 2, 3]], tokens=2), loaded, progress=False)
    assert (loaded.describe(), loaded.model.config._attn_implementation) == before
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules()) == hooks
    assert not any("forward" in vars(m) for m in loaded.model.modules())


def test_a_float64_model_has_no_flips_and_no_error():
    """The control: where nothing is rounded beyond float64, nothing is carried."""
    loaded = sk.load("tiny", dtype="float64")
    rows = part(sk.measure(sk.BlockFlips([[1, 2, 3]], tokens=8), loaded, progress=False), "layer")
    assert max(row["own_error"] for row in rows) < 1e-14 * 1e8  # rotary tables and norms compute in float32 inside
    assert sum(row["flips"] for row in rows) == 0


def test_long_tokens_are_told_from_the_others():
    """All positions' errors, those of the long tokens alone, and the rest: changes add up, to first order."""
    texts = ("ab,cd", "efg.h", "ijk")
    result = sk.measure(sk.BlockFlips(texts, tokens=4), defective(), progress=False)
    rows = part(result, "layer")
    assert [row["role"] for row in rows] == [
        "explosion" if k == EXPLODES else "decay" if k == DECAYS else "" for k in range(6)
    ]
    assert max(range(6), key=lambda k: rows[k]["growth"]) == EXPLODES
    every, long, others = result.arrays["change"][6:]
    assert result.arrays["change"].shape[0] == 9
    assert long + others == pytest.approx(every, abs=1e-3 * np.abs(every).max())
    first = np.cumsum([0, *(len(text) + 4 - 1 - 1 for text in texts)])[:2]
    assert texts[0][2] == ","
    assert texts[1][3] == "."
    for start, before in zip(first, (1, 2), strict=True):  # what comes before the long token does not see it
        assert np.abs(long[start : start + before]).max() < 1e-9 < np.abs(others[start : start + before]).min()
    squares = (result.arrays["change"][:6] ** 2).sum(axis=1)
    assert [row["variance_share"] for row in rows] == pytest.approx(squares / squares.sum())
    share = (long**2).sum() / ((long**2).sum() + (others**2).sum())
    assert result.readings["long_variance_share"].value == pytest.approx(share, rel=1e-9)
    roles = sum(row["variance_share"] for row in rows if row["role"])
    assert result.readings["role_variance_share"].value == pytest.approx(roles)
    assert result.readings["role_block_share"].value == 2 / 6


def test_columns_beside_the_flips_are_those_of_their_own_measurements():
    loaded = sk.load("tiny")
    rows = part(sk.measure(sk.BlockFlips([[5, 6, 7, 8]], tokens=1), loaded, progress=False), "layer")
    heads = part(sk.measure(sk.HeadSpectra(), sk.Checkpoint.of(loaded), progress=False), "head")
    with torch.no_grad():
        loaded.model.set_attn_implementation("eager")
        output = loaded.model.model(torch.tensor([[5, 6, 7, 8]]), output_attentions=True, output_hidden_states=True)
        loaded.model.set_attn_implementation("sdpa")
    for row in rows:
        ranks = [one["entropy_rank"] for one in heads if one["layer"] == row["block"] and one["matrix"] in ("q", "k")]
        assert row["head_rank"] == min(ranks)
        assert row["sink"] == pytest.approx(float(output.attentions[row["block"]][0, :, 1:, 0].mean()), rel=1e-5)
    state = output.hidden_states[1][0].double()
    spacing = 2.0 ** (math.floor(math.log2(float(state.abs().max()))) - 23)
    assert rows[0]["ulp_over_median"] == pytest.approx(spacing / float(state.norm(dim=1).median()), rel=1e-6)


def test_links_find_a_planted_order_and_no_chance_one():
    """Shares that follow the ULP exactly, whatever the depth; sinks drawn apart from them."""
    drawn = np.random.Generator(np.random.PCG64(1)).random((2, 24))
    rows = [
        {
            "block": k,
            "ulp_over_median": ulp,
            "growth": math.nan,
            "sink": sink,
            "head_rank": 3.0,
            "variance_share": ulp**3,
            "flip_share": 0.0,
            "own_error": -ulp,
        }
        for k, (ulp, sink) in enumerate(drawn.T)
    ]
    found = {(row["carrier"], row["effect"]): row for row in link_rows(rows, 1999, 0)}
    planted = found["ulp_over_median", "variance_share"]
    assert (planted["spearman"], planted["p"], planted["blocks"]) == (pytest.approx(1), 1 / 2000, 24)
    assert planted["beside_depth"] == pytest.approx(1)
    assert abs(found["sink", "variance_share"]["beside_depth"]) < 0.5
    assert found["ulp_over_median", "own_error"]["spearman"] == pytest.approx(-1)
    assert found["sink", "variance_share"]["p"] > 0.05
    assert not any(carrier in ("growth", "head_rank") or effect == "flip_share" for carrier, effect in found)


@pytest.mark.parametrize("wrong", [{"prompts": "abc"}, {"prompts": ()}, {"tokens": 0}, {"shuffles": 0}])
def test_what_asks_nothing_is_refused(wrong):
    with pytest.raises(sk.UsageError):
        sk.BlockFlips(**{"prompts": ["ab"], **wrong})


def test_a_single_token_is_refused():
    with pytest.raises(sk.UsageError, match="no text has a second token"):
        sk.measure(sk.BlockFlips([[5]], tokens=1), sk.load("tiny"), progress=False)


def test_errors_that_do_not_lead_to_the_model_are_refused(planted, monkeypatch):
    """The control of the identity: errors that are not the model's own."""
    own = ExactBlocks.own_errors
    monkeypatch.setattr(ExactBlocks, "own_errors", lambda tool, passed: 1.5 * own(tool, passed))
    with pytest.raises(sk.UnsupportedError, match="does not reach the model's last state"):
        sk.measure(sk.BlockFlips([IDS], tokens=2), planted, progress=False)


@pytest.mark.model
def test_smollm2_in_bfloat16_flips_in_its_early_blocks():
    loaded = sk.load("smollm2", dtype="bfloat16")
    result = sk.measure(sk.BlockFlips(DEFAULT_PROMPTS[:1], tokens=4), loaded, progress=False)
    rows = part(result, "layer")
    assert sum(row["variance_share"] for row in rows[3:10]) > 0.5
    assert {row["block"] for row in rows if row["role"]} >= {2, 11, 28}
    assert rows[11]["variance_share"] < 0.1
    assert result.readings["link_ulp_over_median"].value < 0
