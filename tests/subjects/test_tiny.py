"""Tiny models: buildable, alive, and the same bits on every machine."""

import time

import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.subjects.tiny import BOS, EOS, FAMILIES, VOCABULARY, byte_tokenizer, tiny
from stabilitykit.subjects.weights import weight_digest

IDS = torch.arange(3, 15)[None] * 17

# Written once; another value on any machine, or under any setting, means that the draws are not portable.
DIGESTS = {
    "llama": "63ac1eca615b2708b09534fd059482791c02df0a5a2b6ec51b6cd87cee6d7abd",
    "mamba": "4f4e4d5567cfe4973d092d353ce061a3abe42ac2bf01c5f85235b4cf357194eb",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_and_reacts_to_its_input(family):
    model = tiny(family)
    logits = model(IDS).logits
    changed = model(IDS.flip(-1)).logits
    assert logits.shape == (1, 12, VOCABULARY)
    assert logits.isfinite().all()
    assert 0.1 < logits.std() < 10
    assert not torch.equal(logits[0, -1], changed[0, -1])
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedding_path_gives_the_bits_of_the_token_path(family):
    """But for Gemma 3n, whose blocks also look up the token ids: a subject that must be refused."""
    model = tiny(family)
    embedded = model.get_input_embeddings()(IDS)
    same = torch.equal(model(inputs_embeds=embedded).logits, model(IDS).logits)
    assert same == (family != "gemma3n")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_jacobian_is_neither_zero_nor_infinite(family):
    model = tiny(family)
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=x).logits[0, -1].norm().backward()
    gains = x.grad.norm(dim=-1)
    assert gains.isfinite().all()
    assert gains[0, -1] > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_dtypes_round_one_set_of_weights(dtype):
    exact = dict(tiny("qwen2", dtype="float64").named_parameters())
    for name, weight in tiny("qwen2", dtype=dtype).named_parameters():
        assert weight.dtype == getattr(torch, dtype)
        assert torch.equal(weight, exact[name].to(weight.dtype)), name
        assert (weight != 0).all(), name


@pytest.mark.parametrize("family", DIGESTS)
def test_weights_are_the_same_everywhere(family):
    assert weight_digest(tiny(family)) == DIGESTS[family]


def test_building_leaves_the_random_state_alone_and_ignores_it():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weight_digest(tiny("gpt2"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert weight_digest(tiny("gpt2")) == first


def test_seed_family_and_configuration_change_the_weights():
    digests = {weight_digest(m) for m in (tiny(), tiny(seed=1), tiny("mistral"), tiny(num_hidden_layers=2))}
    assert len(digests) == 4
    assert tiny(hidden_size=32).config.hidden_size == 32


def test_building_takes_less_than_a_second():
    tiny("llama")  # imports the architecture
    start = time.perf_counter()
    tiny("llama")
    assert time.perf_counter() - start < 1


def test_implementations_can_be_chosen():
    model = tiny("mixtral", attention="eager", experts="batched_mm")
    assert model.config._attn_implementation == "eager"
    assert model.config._experts_implementation == "batched_mm"


def test_unknown_family_and_dtype_list_the_legal_ones():
    with pytest.raises(UsageError, match=r"tiny family 'lama' is not one of llama, qwen2, .*choose one of these"):
        tiny("lama")
    with pytest.raises(UsageError, match="dtype 'float8' is not one of float32, float64, bfloat16, float16"):
        tiny(dtype="float8")


@pytest.mark.parametrize(
    "text", ["", "The capital of France is", "a  b\n\tc ~!", "naïve 日本 🙂", "".join(map(chr, range(128)))]
)
def test_the_tokenizer_gives_a_text_back(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_knows_its_two_special_tokens():
    tokenizer = byte_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (BOS, EOS, VOCABULARY)
    assert tokenizer("<s>a</s>").input_ids == [BOS, 97, EOS]
