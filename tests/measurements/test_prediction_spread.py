"""PredictionSpread on toys whose last state and head are planted, and on tiny models, against plain softmax."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements.spread_rows import top_rows

V, H = 16, 8


def toy(toys, weight, states=None, head=None):
    """A model whose last state is the row of its last token."""
    model = toys.model([toys.Times(1.0)])
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))
        if states is not None:
            model.model.embed_tokens.weight.copy_(torch.as_tensor(states, dtype=torch.float32).expand(V, H))
    if head is not None:
        head.weight = model.lm_head.weight
        model.lm_head = head
    return sk.adopt(model)


def informative(m):
    weight = torch.zeros(V, H)
    weight[7, :m] = 6.0 / m
    return weight


def asked(loaded, prompts=((3, 1, 2),), **how):
    return sk.measure(sk.PredictionSpread(prompts, **how), loaded, progress=False)


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


@pytest.mark.parametrize("m", [1, 3, 8])
def test_planted_components_are_counted(toys, m):
    """Their number is needed, no more; one alone is the grandmother cell, and in its column no token is above."""
    result = asked(toy(toys, informative(m), torch.linspace(1.0, 0.99, H)), shares=(0.99,))
    assert (value(result, "k_first"), value(result, "k_stay")) == (m, m)
    assert value(result, "first_share") == m / H
    (grandmother,) = rows(result, "grandmother")
    assert (grandmother["component"], grandmother["rank"], grandmother["alone"]) == (0, 1, True)
    assert grandmother["contribution_share"] == pytest.approx(1 / m, rel=0.02)


def test_without_a_grandmother_the_largest_component_speaks_for_another_token(toys):
    weight = informative(4)
    weight[7, 0], weight[9, 0], weight[11, 0] = -0.5, 1.0, 0.5
    result = asked(toy(toys, weight, torch.linspace(1.0, 0.99, H)))
    (grandmother,) = rows(result, "grandmother")
    assert (grandmother["token_id"], grandmother["rank"], grandmother["alone"]) == (7, V, False)
    top = rows(result, "column", side="top")
    assert [row["token_id"] for row in top][:2] == [9, 11]
    assert [row["weight"] for row in top][:2] == [1.0, 0.5]
    assert rows(result, "column", side="bottom")[0]["token_id"] == 7


def test_the_largest_component_is_the_largest_positive_one(toys):
    states = torch.linspace(1.0, 0.5, H)
    states[4] = -30.0
    (grandmother,) = rows(asked(toy(toys, informative(3), states)), "grandmother")
    assert grandmother["component"] == 0


def test_the_largest_component_is_that_of_the_last_token(toys):
    """The states of tokens 3 and 1 are largest elsewhere."""
    states = torch.linspace(1.0, 0.5, H).repeat(V, 1)
    states[2, 5] = 2.0
    (grandmother,) = rows(asked(toy(toys, informative(3), states)), "grandmother")
    assert (grandmother["component"], grandmother["value"], grandmother["position"]) == (5, 2.0, 2)


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:qwen2", "tiny:phi"])
def test_the_figures_are_those_of_the_models_own_logits(spec):
    """Softmax, odds, entropy and moments by numpy; P of all components is the model's own probability."""
    loaded = sk.load(spec)
    result = asked(loaded, ("once upon a time", [5, 6, 7]), shares=(0.9, 0.5), tokens=3)
    ids = [256, *b"once upon a time"]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0].double().numpy()
    (row,) = rows(result, "spread", number=0)
    p = softmax(logits[-1])
    order = np.argsort(-logits[-1], kind="stable")
    assert (row["top_id"], row["position"]) == (order[0], len(ids) - 1)
    assert row["top_probability"] == pytest.approx(p.max(), rel=1e-6)
    assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6)
    assert row["odds"] == pytest.approx(p[order[0]] / p[order[1]], rel=1e-6)
    assert (row["logit_least"], row["logit_most"]) == (logits[-1].min(), logits[-1].max())
    assert row["logit_sd"] == pytest.approx(logits[-1].std(ddof=1), rel=1e-12)
    assert row["head_error"] < 1
    for number in range(3):
        assert rows(result, "components", number=number, share=0.9)[0]["k_first"] <= 64
        (line,) = rows(result, "spread", number=number)
        assert result.arrays["curve"][number, -1] == pytest.approx(line["top_probability"], rel=1e-6)
        assert 1 <= line["k_first"] <= line["k_stay"] <= 64
    beginning = rows(result, "top", number=0, position=0)
    first = softmax(logits[0])[np.argsort(-logits[0], kind="stable")[:4]]
    assert [row["odds"] for row in beginning] == pytest.approx(first[:3] / first[1:], rel=1e-6)
    tops = rows(result, "top", number=0)
    for position in range(len(ids)):
        own = [row for row in tops if row["position"] == position]
        expected = np.argsort(-logits[position], kind="stable")[:3].tolist()
        assert [row["token_id"] for row in own] == expected
        assert own[0]["input_id"] == ids[position]
        assert own[1]["probability"] == pytest.approx(softmax(logits[position])[expected[1]], rel=1e-6)
    assert result.execution.forwards == sk.PredictionSpread(("a", [1]), tokens=3).cost(loaded).forwards == 6


def test_counts_are_those_of_brute_force():
    loaded = sk.load("tiny")
    result = asked(loaded, ([5, 6, 7],), empty=False)
    h = torch.from_numpy(result.arrays["hidden"][0])
    W = loaded.model.lm_head.weight.double()
    order = sorted(range(64), key=lambda j: -abs(float(h[j])))
    kept = [torch.where(torch.isin(torch.arange(64), torch.tensor(order[:k]).long()), h, 0.0) for k in range(65)]
    P = [softmax((W @ part).numpy())[int((W @ h).argmax())] for part in kept]
    above = [k for k in range(1, 65) if P[k] >= 0.9 * P[64]]
    below = [k for k in range(1, 65) if P[k] < 0.9 * P[64]]
    assert value(result, "k_first") == above[0]
    assert value(result, "k_stay") == (below[-1] + 1 if below else 1)
    assert value(result, "line_margin") <= min(abs(P[k] - 0.9 * P[64]) for k in range(1, 65)) + 1e-12
    assert result.arrays["curve"][0] == pytest.approx(P, rel=1e-9)


def test_equal_logits_come_by_id():
    """Of 300 logits of two values, which a sort that keeps no order mixes, as many as there are."""
    logits = torch.tensor([[0.25 * (token % 3 == 1) for token in range(300)]])
    states = SimpleNamespace(logits=logits, ids=[5], place=lambda row: {"position": row})
    told = list(top_rows(sk.load("tiny"), states, 301))
    ones, others = ([token for token in range(300) if (token % 3 == 1) == one] for one in (True, False))
    assert [row["token_id"] for row in told] == ones + others
    assert [row["rank"] for row in told] == list(range(1, 301))


def test_the_probabilities_of_all_tokens_sum_to_one():
    loaded = sk.load("tiny:gpt2")
    size = loaded.model.config.vocab_size
    result = asked(loaded, ([5, 6, 7],), empty=False, k=size)
    for position in range(3):
        probabilities = [row["probability"] for row in rows(result, "top", position=position)]
        assert len(probabilities) == size
        assert math.fsum(probabilities) == pytest.approx(1, abs=1e-12)
    assert 0 <= value(result, "entropy") <= math.log(size)


SAME = ("k_first", "k_stay", "k_first_rescaled", "k_stay_rescaled", "top_probability", "entropy", "odds", "logit_sd")


def test_what_is_permuted_or_scaled_in_head_and_state_alike_changes_nothing_else(toys):
    """Components in another order, and a factor that moves from the head to the state: the same logits."""
    random = np.random.Generator(np.random.PCG64(4))
    W, h, order = random.standard_normal((V, H)), random.standard_normal(H), random.permutation(H)
    plain = asked(toy(toys, W, h))
    state = ("hidden_least", "hidden_mean", "hidden_most", "hidden_sd")
    for other, factor in ((toy(toys, W[:, order], h[order]), 1), (toy(toys, W / 8, h * 8), 8)):
        (row,), (expected,) = rows(asked(other), "spread"), rows(plain, "spread")
        assert [row[name] for name in SAME] == pytest.approx([expected[name] for name in SAME], rel=1e-6)
        assert [row[name] for name in state] == pytest.approx([factor * expected[name] for name in state], rel=1e-6)
    (grown,), (before,) = rows(asked(toy(toys, W, h * 8)), "spread"), rows(plain, "spread")
    assert grown["entropy"] < before["entropy"] - 0.1  # the control: the state alone


def test_the_most_concentrated_prompt_is_reported(toys):
    states = torch.zeros(V, H)
    states[:] = torch.linspace(1.0, 0.99, H)
    states[5, :3] = torch.tensor([9.0, 0.1, 0.1])
    result = asked(toy(toys, informative(3), states), ([2], [5], [6]))
    assert value(result, "k_first") == 1
    assert result.readings["k_first"].place["prompt"] == "ids [5]"
    assert value(result, "prompts") == 3


def test_the_empty_prompt_is_the_token_that_begins_a_text():
    """Alone, put before texts but not twice, and not before ids; continued greedily."""
    loaded = sk.load("tiny")
    result = asked(loaded, ("ab", "<s>ab", [97, 98]), tokens=4)
    inputs = [[row["input_id"] for row in rows(result, "top", number=number, rank=1)] for number in range(4)]
    assert inputs == [[256, 97, 98], [256, 97, 98], [97, 98], [256]]
    (said,) = rows(result, "continuation")
    ids = [256]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert said["ids"] == " ".join(str(token) for token in ids[1:])
    assert not rows(asked(loaded, ("ab",), empty=False), "continuation")


def test_readings_are_never_those_of_the_empty_prompt(toys):
    states = torch.zeros(V, H)
    states[:] = torch.linspace(1.0, 0.99, H)
    states[0, :3] = torch.tensor([9.0, 0.1, 0.1])
    loaded = toy(toys, informative(3), states)
    loaded.model.config.bos_token_id = 0
    result = asked(loaded, tokens=1)
    assert [row["k_first"] for row in rows(result, "components")] == [value(result, "k_first"), 1]
    assert value(result, "k_first") == 3


def test_the_token_before_a_text_counts_in_the_models_context():
    text = "a" * 512
    with pytest.raises(sk.UsageError, match="513 tokens, the model's context 512"):
        asked(sk.load("tiny"), (text,))


def test_a_model_without_such_a_token_has_no_empty_prompt(toys):
    result = asked(toy(toys, informative(3)))
    assert value(result, "prompts") == 1
    assert not rows(result, "continuation")


@pytest.mark.parametrize("spec", ["tiny:granite", "tiny:gemma2"])
def test_logits_that_are_capped_or_scaled_are_refused(spec):
    with pytest.raises(sk.UnsupportedError, match="caps or scales"):
        asked(sk.load(spec))


class Bent(nn.Linear):
    """A head that is no product with its rows, by a thousandth."""

    def forward(self, x):
        z = super().forward(x)
        return z + 1e-3 * z.abs()


def test_a_head_that_is_no_product_is_refused(toys):
    loaded = toy(toys, informative(3), torch.linspace(1.0, 0.99, H), head=Bent(H, V, bias=False))
    with pytest.raises(sk.UnsupportedError, match="not a product with its rows"):
        asked(loaded)
    straight = toy(toys, informative(3), torch.linspace(1.0, 0.99, H), head=nn.Linear(H, V, bias=False))
    assert 0 <= value(asked(straight), "head_error") < 1


def test_a_bias_of_the_head_is_part_of_every_partial_logit(toys):
    head = nn.Linear(H, V)
    with torch.no_grad():
        head.bias.copy_(torch.linspace(-1, 1, V))
    result = asked(toy(toys, informative(3), torch.linspace(1.0, 0.99, H), head=head))
    assert result.arrays["curve"][0, 0] == pytest.approx(softmax(np.linspace(-1, 1, V))[7], rel=1e-6)
    assert result.arrays["curve"][0, -1] == pytest.approx(value(result, "top_probability"), rel=1e-6)
    assert value(result, "head_error") < 1


def test_a_bias_far_below_zero_is_room_for_rounding_like_one_above(toys):
    head = nn.Linear(H, V)
    with torch.no_grad():
        head.bias.copy_(torch.linspace(-3e4, 3e4, V))
    assert value(asked(toy(toys, torch.full((V, H), 1 / 3), torch.linspace(1.0, 0.99, H), head=head)), "head_error") < 1


def test_uneven_odds_are_finite_or_infinite():
    from stabilitykit.measurements.spread_rows import _odds

    assert _odds(2.0) == math.exp(2.0)
    assert _odds(800.0) == math.inf


@pytest.mark.parametrize(
    "how",
    [
        *({"prompts": prompts} for prompts in ("To be", (), ("",))),
        *({"shares": shares} for shares in ((), (0.0,), (1.1,), (0.5, 1.1))),
        *({name: 0} for name in ("k", "column", "tokens")),
    ],
)
def test_what_cannot_be_meant_is_refused(how):
    with pytest.raises(sk.UsageError):
        sk.PredictionSpread(**how)


def test_each_prompt_is_one_call_of_one_row(toys):
    result = asked(toy(toys, informative(3)), ((3, 1, 2), (4, 5)))
    assert (result.execution.forwards, result.execution.calls) == (2, 2)
