"""Prompts: what they become, and the sentence for every way they can be wrong."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import adopt, load
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.tiny import tiny


@pytest.fixture(scope="module")
def loaded():
    return load("tiny:llama")


@pytest.fixture(scope="module")
def anatomy(loaded):
    return find(loaded.model)


def test_text_goes_through_the_tokenizer_and_ids_stay(loaded, anatomy):
    assert token_ids(loaded, anatomy, "abc é") == [97, 98, 99, 32, 0xC3, 0xA9]
    assert token_ids(loaded, anatomy, (5, 0, 257)) == [5, 0, 257]


def test_no_template_and_no_special_token_is_added(loaded, anatomy):
    assert token_ids(loaded, anatomy, "a") == [97]


@pytest.mark.parametrize(
    ("prompt", "fragment"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        ([3, 258], "token 258 at position 1 is not an id from 0 to 257"),
        ([-1], "token -1 at position 0"),
        ([1, True], "token True at position 1"),
        ([1, 2.0], "token 2.0 at position 1"),
        ([np.float32(1)], "at position 0"),
        ([7] * 513, "the prompt has 513 tokens, the model's context 512"),
    ],
)
def test_a_wrong_prompt_is_refused_in_one_sentence(loaded, anatomy, prompt, fragment):
    with pytest.raises(UsageError, match=fragment) as refusal:
        token_ids(loaded, anatomy, prompt)
    assert "\n" not in str(refusal.value)


def test_ids_of_numpy_and_torch_are_ids(loaded, anatomy):
    for given in (np.array([3, 5]), torch.tensor([3, 5]), [np.int64(3), torch.tensor(5)]):
        ids = token_ids(loaded, anatomy, given)
        assert (ids, [type(token) for token in ids]) == ([3, 5], [int, int])


def test_the_last_context_position_is_still_legal(loaded, anatomy):
    assert len(token_ids(loaded, anatomy, [7] * 512)) == 512


def test_a_model_without_a_context_limit_takes_any_length():
    mamba = load("tiny:mamba")
    assert len(token_ids(mamba, find(mamba.model), [7] * 513)) == 513


def test_text_needs_a_tokenizer():
    bare = adopt(tiny("llama"), spec="mine")
    with pytest.raises(UsageError, match="mine has no tokenizer; give the prompt as a list of token ids"):
        CausalLMSubject(bare, "abc")
    assert CausalLMSubject(bare, [97, 98, 99]).ids == [97, 98, 99]


def test_the_subject_refuses_before_the_model_runs(loaded):
    ran = []
    handle = loaded.model.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    anatomy = find(loaded.model)
    ran.clear()
    with pytest.raises(UsageError, match="not an id"):
        CausalLMSubject(loaded, [999], anatomy=anatomy)
    handle.remove()
    assert not ran


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_a_weight_that_is_no_number_is_refused(value):
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(InvalidError, match=r"layers\.1\.mlp\.up_proj"):
        adopt(model)


@pytest.mark.parametrize(("dtype", "large", "helps"), [("float32", 3e38, False), ("float16", 6e4, True)])
def test_an_overflow_in_the_middle_of_a_forward_names_the_module_where_it_begins(dtype, large, helps):
    """Of finite weights: a state that is no number would else be taken for a model without a final norm."""
    model = tiny("llama", dtype=dtype)
    model.model.layers[1].mlp.down_proj.weight.fill_(large)
    with pytest.raises(InvalidError, match=r"'model\.layers\.1\.mlp\.down_proj' is the first to give") as refusal:
        CausalLMSubject(adopt(model), [1, 2, 3])
    assert ("load the model in bfloat16 or float32" in str(refusal.value)) == helps


def test_an_overflow_of_one_prompt_names_the_module_and_one_of_a_planted_input_does_not():
    loaded = adopt(tiny("llama"))
    inner = loaded.model.model.layers[1].mlp.down_proj
    handle = inner.register_forward_hook(lambda _m, _a, out: out * math.inf if out.shape[1] == 5 else out)
    with pytest.raises(
        InvalidError, match=r"nothing is measured; in its own forward module 'model\.layers\.1\.mlp\.down_proj' is"
    ):
        CausalLMSubject(loaded, [1, 2, 3, 4, 5])
    handle.remove()
    subject = CausalLMSubject(loaded, [1, 2])
    with pytest.raises(InvalidError, match=r"nothing is measured$"):
        subject(torch.full((1, 64), float("nan")))


def test_a_model_whose_logits_are_no_number_is_refused():
    loaded = load("tiny:llama")
    handle = loaded.model.lm_head.register_forward_hook(lambda _m, _a, out: out * float("inf"))
    with pytest.raises(InvalidError, match="nothing is measured"):
        CausalLMSubject(loaded, [1, 2, 3])
    handle.remove()
    assert torch.isfinite(CausalLMSubject(loaded, [1, 2, 3]).baseline).all()
