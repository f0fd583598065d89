"""Margins and the flip forecast on toys whose noise and flips are planted, and on tiny models."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements.advice import percent
from stabilitykit.measurements.decisions import decide
from stabilitykit.measurements.margins import WAYS
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.generation import Text, first_largest

PROMPTS = [[token] for token in range(16)]


class Shaken(nn.Module):
    """Adds normal noise of one size to the state, drawn anew for each shape and content: a machine's rounding."""

    def __init__(self, sigma, device=0):
        super().__init__()
        self.sigma, self.device = sigma, device

    def forward(self, x):
        key = x[-1].double().numpy().tobytes() + str((tuple(x.shape), self.device)).encode()
        random = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key).digest()[:8], "little")))
        return x + self.sigma * torch.from_numpy(random.standard_normal(x.shape)).to(x)


class Depends(nn.Module):
    """Swaps the sign of the state's noise-free part in batches: the planted kernel that depends on the batch."""

    def forward(self, x):
        return -x if len(x) > 1 else x


def spread(toys, block):
    """A toy whose embedding and head are normal: tokens follow one another in cycles, with margins of about 1."""
    model = toys.model([block])
    random = np.random.Generator(np.random.PCG64(7))
    with torch.no_grad():
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight.copy_(torch.from_numpy(random.standard_normal(weight.shape)))
    return sk.adopt(model)


def asked(toys, block, prompts=PROMPTS, tokens=12, **how):
    return sk.measure(sk.Margins(prompts, tokens, **how), spread(toys, block), progress=False)


def value(result, name):
    return result.readings[name].value


def rows(result, part):
    return [row for row in result.rows if row["part"] == part]


def test_a_planted_batch_dependent_module_is_seen(toys):
    """Every token whose decision turns with the sign, in the batches and nowhere else."""
    result = asked(toys, Depends())
    ways = {row["way"]: row for row in rows(result, "way")}
    for name in ("decode, batch 2", "prefill, batch 2", "prefill, batch 8"):
        assert ways[name]["flips"] > 100
    assert ways["prefill"]["flips"] == 0
    assert value(result, "flips_seen") == sum(row["seen"] > 0 for row in rows(result, "token")) > 100
    assert value(result, "prompts_at_risk") == 16
    assert result.verdict == "differs"
    token = next(row for row in rows(result, "token") if row["seen"])
    assert token["seen_in"] == "decode, batch 2; prefill, batch 2; prefill, batch 8"
    assert any(row["kind"] == "pin" and "decode, batch 2" in row["advice"] for row in rows(result, "advice"))


def test_the_clean_twin_is_not_at_risk(toys):
    result = asked(toys, toys.Times(1.0))
    assert value(result, "flips_seen") == 0
    assert value(result, "prompts_at_risk") == 0
    assert value(result, "expected_flips") < 1e-6
    assert result.readings["expected_flips"].high < 1e-3
    assert result.verdict == "measured"
    assert not rows(result, "advice")


@pytest.mark.parametrize("sigma", [0.05, 0.4])
def test_planted_noise_is_measured_and_its_flips_forecast(toys, sigma):
    """The noise of each margin is sigma |w_a - w_b|; other devices flip as many tokens as forecast without them."""
    loaded = spread(toys, Shaken(sigma))
    result = sk.measure(sk.Margins(PROMPTS, 16), loaded, progress=False)
    head = loaded.model.lm_head.weight.double()
    tokens = rows(result, "token")
    true = [sigma * float((head[row["token_id"]] - head[row["rival_id"]]).norm()) for row in tokens]
    found = [row["noise"] for row in tokens]
    assert np.median(np.array(found) / true) == pytest.approx(1.0, abs=0.25)
    seen = []
    for device in range(1, 9):
        other = spread(toys, Shaken(sigma, device))
        for number, own in itertools.groupby(tokens, key=lambda row: row["number"]):
            said = [row["token_id"] for row in own]
            text = Text(other, PROMPTS[number], 16)
            again = [first_largest(row) for piece in text.forced(sk.Way(), said) for row in piece]
            seen.append(sum(a != b for a, b in zip(said, again, strict=True)))
    expected = result.readings["expected_flips"]
    assert sum(seen) / 8 == pytest.approx(expected.value, rel=0.25)
    assert expected.low < sum(seen) / 8 < expected.high
    assert sum(seen) > 20


def test_a_flip_a_way_showed_puts_its_prompt_at_risk_whatever_the_forecast(toys):
    result = asked(toys, Depends(), at_risk=0.999999)
    assert value(result, "prompts_at_risk") == 16
    assert all(row["keep"] <= row["weakest_position"] or row["flips_seen"] for row in rows(result, "prompt"))


def test_exact_ties_are_counted_named_and_go_to_the_lowest_id(toys):
    """Two rows of the head made equal: one logit, two ids; the lower one is always taken."""
    model = toys.model([toys.Times(1.0)])
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.eye(16, 8))
        model.lm_head.weight[11] = model.lm_head.weight[3] = torch.full((8,), 2.0)
    result = sk.measure(sk.Margins(PROMPTS[:2], 5), sk.adopt(model), progress=False)
    assert value(result, "exact_ties") == value(result, "tokens") == 10
    assert {(row["token_id"], row["rival_id"], row["tied"]) for row in rows(result, "token")} == {(3, 11, 2)}
    assert value(result, "min_margin") == value(result, "min_margin_over_noise") == 0


def test_margins_are_the_models_own(toys):
    """Every margin, ULP and argmax from a forward of the whole text, written anew."""
    loaded = sk.load("tiny", dtype="bfloat16")
    result = sk.measure(sk.Margins(["abc", "the"], 9, ways=[sk.Way("prefill")]), loaded, progress=False)
    for row in rows(result, "prompt"):
        ids = loaded.tokenizer(row["prompt"]).input_ids
        own = [token for token in rows(result, "token") if token["prompt"] == row["prompt"]]
        text = [*ids, *(token["token_id"] for token in own)]
        logits = loaded.model(torch.tensor([text[:-1]]), use_cache=False).logits[0, len(ids) - 1 :].double()
        place = [number == row["number"] for number in result.arrays["prompt"]]
        assert result.arrays["argmax"][1][place].tolist() == logits.argmax(dim=1).tolist()
        for t, token in enumerate(own):
            margin = float(logits[t, token["token_id"]] - logits[t, token["rival_id"]])
            assert result.arrays["margins"][1, place][t, 0] == margin
            assert token["margin_ulp"] == token["margin"] / 2.0 ** (math.floor(math.log2(abs(token["logit"]))) - 7)


def test_ways_differ_in_the_last_bits_and_the_noise_is_theirs():
    """On a real architecture: the pooled noise is the root mean square of what the ways differ by."""
    result = sk.measure(sk.Margins(["The capital", "once upon"], 12), sk.load("tiny"), progress=False)
    margins = result.arrays["margins"]
    assert value(result, "distinct_ways") >= 2
    assert 0 < value(result, "noise") < 1e-4
    spread = margins.std(axis=0, ddof=1)
    assert value(result, "noise") == pytest.approx(float(np.sqrt((spread**2).mean())), rel=0.8)


def test_equal_bits_count_once(toys):
    """A way named twice is no second device."""
    ways = [sk.Way("prefill"), sk.Way("prefill"), sk.Way("prefill", 2)]
    one = decide(Text(sk.load("tiny"), "abc", 6), ways, 2)
    assert one.bits[1] == one.bits[2]
    assert len(one.distinct) == len(set(one.bits)) < 4


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "mamba"])
def test_decoding_and_forcing_are_the_same_computation(family):
    """The same way twice has the same bits, also with a window and without an attention cache."""
    text = Text(sk.load(f"tiny:{family}"), "abcdefghij", 6)
    free = torch.stack(list(text.greedy()))
    assert sk.bits_equal(free, torch.cat(list(text.forced(sk.Way("decode")))))
    whole = torch.cat(list(text.forced(sk.Way("prefill"))))
    assert free.shape == whole.shape
    assert torch.allclose(free, whole, atol=1e-4)


def test_pieces_of_any_size_give_every_token_once():
    text = Text(sk.load("tiny"), "abcdefg", 8)
    whole = torch.stack(list(text.greedy()))
    for chunk in (1, 3, 5, 14, 100):
        pieces = torch.cat(list(text.forced(sk.Way("prefill", chunk=chunk))))
        assert torch.allclose(whole, pieces, atol=1e-4), chunk


def test_ways_put_the_model_and_the_threads_back():
    loaded = sk.load("tiny")
    text = Text(loaded, "abc", 3)
    list(text.greedy())
    before = (loaded.model.config._attn_implementation, torch.get_num_threads())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for way in (sk.Way("prefill", attention="eager"), sk.Way("prefill", attention="math"), sk.Way(threads=1)):
            list(text.forced(way))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (loaded.model.config._attn_implementation, torch.get_num_threads()) == before


def test_a_way_the_model_lacks_is_left_out_or_refused(toys):
    loaded = sk.adopt(toys.model([toys.Times(1.0)]))
    text = Text(loaded, [1], 3)
    assert sk.Way("prefill", chunk=3) not in text.ways(WAYS)
    with pytest.raises(sk.UnsupportedError, match="cannot be run: given keeps no cache"):
        list(text.forced(sk.Way("prefill", chunk=3), [1, 2]))
    eager = Text(sk.load("tiny", attention="eager"), "abc", 3)
    assert all(way.attention is None for way in eager.ways(WAYS))
    assert all(way.threads is None for way in eager.ways([sk.Way(threads=torch.get_num_threads())]))


def test_a_text_ends_where_the_model_ends_it(toys):
    model = toys.model([toys.Times(1.0)])
    free = [row["token_id"] for row in rows(sk.measure(sk.Margins([[1]], 6), sk.adopt(model)), "token")]
    model.config.eos_token_id = free[0]
    result = sk.measure(sk.Margins([[1]], 6), sk.adopt(model), progress=False)
    assert [row["token_id"] for row in rows(result, "token")] == free[:1]


def test_the_cost_stated_is_the_cost_taken():
    loaded = sk.load("tiny", load_args={"eos_token_id": None})
    for how in ({}, {"wide": True}, {"ways": [sk.Way("decode", 3), sk.Way("prefill", chunk=4)]}):
        question = sk.Margins(["abcd", "once upon a time"], 10, **how)
        stated, result = question.cost(loaded), sk.measure(question, loaded, progress=False)
        assert result.execution.forwards <= stated.forwards
        assert result.execution.forwards >= stated.forwards - 2 * 2  # two ways that one thread and this model may lack
    assert sk.Margins(["abcd"], 10, ways=[sk.Way("decode", 3)]).cost(loaded).forwards == 10 + 30


def test_a_wide_copy_speaks_of_the_same_tokens():
    loaded = sk.load("tiny", dtype="bfloat16")
    result = sk.measure(sk.Margins(["abc", "xyz"], 8, wide=True), loaded, progress=False)
    assert loaded.model.dtype == torch.bfloat16
    wide = sk.load("tiny", dtype="bfloat16").model.float()
    for row in rows(result, "prompt"):
        ids = loaded.tokenizer(row["prompt"]).input_ids
        own = [token for token in rows(result, "token") if token["prompt"] == row["prompt"]]
        text = [*ids, *(token["token_id"] for token in own)][:-1]
        logits = wide(torch.tensor([text])).logits[0, len(ids) - 1 :]
        assert [token["wide_token_id"] for token in own] == logits.argmax(dim=1).tolist()
    flips = sum(token["wide_token_id"] != token["token_id"] for token in rows(result, "token"))
    assert value(result, "wide_flips") == flips
    assert math.isnan(value(sk.measure(sk.Margins(["abc"], 2), loaded, progress=False), "wide_flips"))


def test_the_exact_head_is_the_product_with_the_models_own_states():
    """Every candidate's logit from the states of a forward written anew; the largest is first."""
    loaded = sk.load("tiny", dtype="bfloat16")
    text = Text(loaded, "once upon", 9)
    one = decide(text, [sk.Way("prefill"), sk.Way("prefill", chunk=4)], 3)
    ids = torch.tensor([[*text.ids, *text.generated[:-1]]])
    states = loaded.model.model(input_ids=ids, use_cache=False).last_hidden_state[0, len(text.ids) - 1 :].double()
    products = (states @ loaded.model.lm_head.weight.double().T).numpy()
    assert np.array_equal(one.heads[1], np.take_along_axis(products, one.rivals, axis=1))
    assert np.abs(one.heads[2] - one.logits[2]).max() <= float(one.spacing.max())
    assert (one.head_margins[0] >= 0).all()
    spread_of = np.ptp(one.heads, axis=0)
    assert one.head_margins.shape == one.margins.shape
    assert np.abs(one.head_margins - one.head_margins[0]).max(axis=0).max() <= 2 * spread_of.max()


def test_an_exact_head_changes_nothing_where_the_grid_is_fine(toys):
    """In float32 the forecast is the same; a head that is no matrix has none."""
    result = asked(toys, Shaken(0.4))
    assert value(result, "expected_with_exact_head") == pytest.approx(value(result, "expected_flips"), rel=1e-3)
    loaded = spread(toys, Shaken(0.4))
    loaded.model.lm_head = nn.Sequential(loaded.model.lm_head)
    unknown = sk.measure(sk.Margins(PROMPTS[:2], 3), sk.adopt(loaded.model), progress=False)
    assert math.isnan(value(unknown, "expected_with_exact_head"))


class Narrow(nn.Linear):
    """A head whose logits are rounded to bfloat16 and widened again, as many models do."""

    def forward(self, x):
        return super().forward(x).to(torch.bfloat16).float()


def narrowed(toys, block):
    loaded = spread(toys, block)
    head = Narrow(8, 16, bias=False)
    head.weight = loaded.model.lm_head.weight
    loaded.model.lm_head = head
    return loaded


def test_a_coarse_head_alone_is_healed_by_an_exact_one(toys):
    """Logits rounded to a coarse grid over states with little noise: the flips vanish with the exact head."""
    result = sk.measure(sk.Margins(PROMPTS, 12, at_risk=0.01), narrowed(toys, Shaken(0.001)), progress=False)
    assert value(result, "expected_flips") > 0.05
    assert value(result, "expected_with_exact_head") < value(result, "expected_flips") / 5
    assert any(row["kind"] == "wider head" for row in rows(result, "advice"))


def test_logits_that_were_widened_keep_their_grid(toys):
    """An ULP is that of the dtype whose numbers the logits are, not of the one they are kept in."""
    result = sk.measure(sk.Margins(PROMPTS[:3], 4), narrowed(toys, toys.Times(1.0)), progress=False)
    for row in rows(result, "token"):
        assert row["margin_ulp"] == row["margin"] / 2.0 ** (math.floor(math.log2(abs(row["logit"]))) - 7)
    fine = sk.measure(sk.Margins(PROMPTS[:3], 4), spread(toys, toys.Times(1.0)), progress=False)
    for row in rows(fine, "token"):
        assert row["margin_ulp"] == row["margin"] / 2.0 ** (math.floor(math.log2(abs(row["logit"]))) - 23)


def test_keep_is_the_longest_part_within_the_risk(toys):
    result = asked(toys, Shaken(0.1), tokens=16, at_risk=0.3)
    for row in rows(result, "prompt"):
        own = [token for token in rows(result, "token") if token["number"] == row["number"]]
        risks = [1 - math.prod(1 - token["forecast"] for token in own[:end]) for end in range(len(own) + 1)]
        flips = [token["position"] for token in own if token["seen"]]
        longest = max(end for end in range(len(own) + 1) if risks[end] <= 0.3 and not any(f < end for f in flips))
        assert row["keep"] == longest
        assert row["kept_risk"] == pytest.approx(risks[longest], abs=1e-9)
        assert row["forecast"] == pytest.approx(risks[-1], abs=1e-9)
    ranked = [row["forecast"] for row in rows(result, "prompt")]
    assert ranked == sorted(ranked, reverse=True)


def test_the_same_question_has_the_same_answer(toys):
    first, second = (asked(toys, Shaken(0.1), PROMPTS[:4]) for _ in range(2))
    assert first.rows == second.rows
    assert {name: str(one) for name, one in first.readings.items()} == {
        name: str(one) for name, one in second.readings.items()
    }


def test_a_logit_that_is_no_number_is_refused(toys):
    class Broken(nn.Module):
        def forward(self, x):
            return x * (math.nan if x.shape[1] > 4 else 1.0)

    with pytest.raises(sk.InvalidError, match="a logit is not finite"):
        asked(toys, Broken(), [[1]])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"prompts": ()}, "prompts is a list of texts"),
        ({"prompts": "abc"}, "prompts is a list of texts"),
        ({"prompts": ["a"], "tokens": 0}, "tokens=0 is too few"),
        ({"prompts": ["a"], "rivals": 0}, "rivals=0 is too few"),
        ({"prompts": ["a"], "at_risk": 1.0}, "at_risk must lie strictly between 0 and 1"),
        ({"prompts": ["a"], "confidence": 0.0}, "confidence must lie strictly between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(how, sentence):
    with pytest.raises(sk.UsageError, match=sentence):
        sk.Margins(**how)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"path": "sideways"}, "path 'sideways' of a way is not one of decode, prefill"),
        ({"attention": "flash"}, "attention 'flash' of a way is not one of None, eager, math"),
        ({"batch": 0}, "batch=0 of a way computes nothing"),
        ({"path": "prefill", "chunk": 0}, "chunk=0 of a way computes nothing"),
        ({"chunk": 3}, "decoding runs one token at a time"),
    ],
)
def test_what_is_no_way_is_refused(how, sentence):
    with pytest.raises(sk.UsageError, match=sentence):
        sk.Way(**how)


def test_a_way_says_what_it_is_and_what_it_costs():
    ways = [
        sk.Way(),
        sk.Way("decode", 2),
        sk.Way("prefill", 8),
        sk.Way("prefill", chunk=3),
        sk.Way("prefill", attention="math"),
    ]
    assert [way.name for way in ways] == [
        *("decode", "decode, batch 2", "prefill, batch 8", "prefill in pieces of 3", "prefill, math attention"),
    ]
    assert [way.rows(prompt=5, tokens=9) for way in ways] == [9, 18, 8, 5, 1]
    assert sk.Way("prefill", threads=1).name == "prefill, 1 thread"


def test_a_text_beyond_the_context_is_refused():
    with pytest.raises(
        sk.UsageError, match="the prompt has 500 tokens and 20 are to follow, the model's context is 512"
    ):
        sk.measure(sk.Margins(["a" * 500], 20), sk.load("tiny"))
    assert find(sk.load("tiny").model).max_positions == 512


def test_a_probability_is_never_shown_as_certain():
    shares = (0.0, 1e-9, 0.0123, 0.05, 0.5678, 0.9994, 0.9995, 0.9999, 1.0)
    assert [percent(share) for share in shares] == [
        *("0 %", "< 0.01 %", "1.2 %", "5 %", "56.8 %", "99.9 %", "> 99.9 %", "> 99.9 %", "100 %"),
    ]


def test_kernels_copies_and_ties_are_what_they_are_called():
    """Eager attention and a float32 copy have bits of their own; a tie goes to the rival only if its id is lower."""
    text = Text(sk.load("tiny", dtype="bfloat16"), "once upon a time", 20)
    wide = sk.load("tiny", dtype="bfloat16").model.float()
    one = decide(text, [sk.Way("prefill"), sk.Way("prefill", attention="eager")], 3, wide)
    assert one.bits[1] != one.bits[2]
    assert not np.array_equal(one.wide, one.logits[1])
    assert one.rival_first.tolist() == [[int(r) < int(row[0]) for r in row[1:]] for row in one.rivals]
    assert np.array_equal(one.head_margins[0], np.sort(one.heads[0])[:, ::-1][:, :1] - np.sort(one.heads[0])[:, -2::-1])
