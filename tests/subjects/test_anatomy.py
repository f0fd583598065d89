"""The parts of every family are found, and a missing one is named."""

import pytest
import torch
from oracles.cache_name import ATTENTION, STATE_SPACE
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.faults.planted import planted
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.tiny import FAMILIES, tiny

IDS = torch.arange(3, 15)[None] * 17
NAMES = {  # (stem of the blocks, final norm); all others are ("model.layers", "model.norm")
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
    "opt": ("model.decoder.layers", "model.decoder.final_layer_norm"),
    "zamba2": ("model.layers", "model.final_layernorm"),
    "mamba": ("backbone.layers", "backbone.norm_f"),
    "phi": ("model.layers", "model.final_layernorm"),
    "mpt": ("transformer.blocks", "transformer.norm_f"),
    **dict.fromkeys(("bloom", "falcon", "gptj"), ("transformer.h", "transformer.ln_f")),
}
UNLIMITED = ("mamba", "bloom")  # their positions have no end
CAUSAL = sorted(set(FAMILIES) - {"bert"})
# Their logits are not the head's output: a soft cap, a factor, several streams.
ALTERED = {"gemma2", "gemma3n", "granite", "cohere"}


@pytest.mark.parametrize("family", CAUSAL)
def test_every_family_is_taken_apart(family):
    model = tiny(family)
    found = find(model)
    stem, norm = NAMES.get(family, ("model.layers", "model.norm"))
    assert found.block_names == [f"{stem}.{k}" for k in range(model.config.num_hidden_layers)]
    assert found.final_norm_name == norm
    assert found.final_norm is model.get_submodule(norm)
    assert [model.get_submodule(name) for name in found.block_names] == found.blocks
    assert (found.hidden_size, found.layers) == (64, len(found.blocks))
    assert found.max_positions == (None if family in UNLIMITED else 512)
    assert found.embedding is model.get_input_embeddings()
    assert found.past == (STATE_SPACE if family == "mamba" else ATTENTION)
    assert bool(found.notes) == (family == "gemma3n")


@pytest.mark.parametrize("family", sorted(set(CAUSAL) - ALTERED))
def test_base_norm_and_head_compose_to_the_logits(family):
    model = tiny(family)
    found = find(model)
    normed = []
    handle = found.final_norm.register_forward_hook(lambda *call: normed.append(call[-1]))
    last = found.base(IDS, use_cache=False).last_hidden_state
    handle.remove()
    assert torch.equal(normed[-1], last)
    assert torch.equal(found.head(last), model(IDS).logits)


def test_gemma3n_says_that_its_blocks_carry_several_streams():
    (note,) = find(tiny("gemma3n")).notes
    assert note == "model.layers.0 returns shape (4, 1, 3, 64) where the hidden state has (1, 3, 64)"


def test_a_list_of_the_same_length_and_depth_is_not_mistaken_for_the_blocks():
    model = tiny("llama")
    model.model.adapters = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert find(model).block_names[0] == "model.layers.0"


def test_an_idle_module_after_the_norm_is_not_the_norm():
    model = tiny("gpt2")

    class Tail(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm, self.drop = norm, nn.Dropout()

        def forward(self, x):
            return self.drop(self.norm(x))[..., :]

    model.transformer.ln_f = Tail(model.transformer.ln_f).eval()
    assert find(model).final_norm_name == "transformer.ln_f"


def test_no_hook_stays_behind():
    model = tiny("llama")
    find(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_hook_stays_behind_when_the_forward_fails(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.model.norm, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_only_the_encoder_is_one(family, dtype):
    model = tiny(family, dtype=dtype)
    if family != "bert":
        assert find(model)
        return
    with pytest.raises(UnsupportedError, match="BertLMHeadModel is an encoder: its first token's state depends on"):
        find(model)
    model = tiny(family, dtype=dtype, is_decoder=True)  # the same blocks with a causal mask
    with pytest.raises(UnsupportedError, match="BertLMHeadModel has no final norm"):
        find(model)


def test_a_decoder_that_looks_ahead_has_lost_its_mask():
    """Planted: the last token's state leaks into all others, by a millionth. To skip such a model would hide it."""
    model = tiny("llama")
    model.model.layers[0].register_forward_hook(lambda _m, _a, state: state + 1e-6 * state[:, -1:])
    with pytest.raises(InvalidError, match="LlamaForCausalLM has lost its mask: its attention is causal"):
        find(model)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_a_mask_that_does_not_reach_the_kernel_is_no_encoder(family):
    with planted("dropped-mask"), pytest.raises(InvalidError, match="has lost its mask"):
        find(tiny(family))


def test_a_model_without_derivatives_is_taken_for_causal():
    model = tiny("llama")
    model.model.layers[0].register_forward_hook(lambda _m, _a, state: state.detach())
    assert find(model).layers == 3


def test_a_missing_head_is_named():
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(UnsupportedError, match="BertModel has no output head; load a decoder-only language model"):
        find(BertModel(config).eval())


def test_an_encoder_decoder_is_named():
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    with pytest.raises(UnsupportedError, match="T5ForConditionalGeneration is an encoder-decoder"):
        find(T5ForConditionalGeneration(config).eval())


def test_a_model_that_needs_its_ids_is_named():
    """Planted: a block that looks the ids up, as hash routers do."""
    model = tiny("llama")
    forward = model.model.forward

    def reading_ids(input_ids=None, **options):
        return forward(inputs_embeds=model.get_input_embeddings()(input_ids.clone()), **options)

    model.model.forward = reading_ids
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM does not run on embeddings") as refusal:
        find(model)
    assert "\n" not in str(refusal.value)


def test_a_dtype_that_the_experts_do_not_take_is_named():
    with pytest.raises(UnsupportedError, match="MixtralForCausalLM does not run on token ids in float64") as refusal:
        find(tiny("mixtral", dtype="float64"))
    assert "got Double" in str(refusal.value)
    assert find(tiny("mixtral", dtype="float64", experts="eager"))


def test_a_refusal_of_the_kits_own_stays_itself(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.model.norm, "forward", lambda x: find(BertModel(BertConfig())))
    with pytest.raises(UnsupportedError, match="BertModel has no output head"):
        find(model)


def test_a_base_model_that_is_the_whole_model_is_looked_for_where_the_blocks_are():
    model = tiny("llama")
    model.__class__ = type("Renamed", (type(model),), {"base_model_prefix": "decoder"})
    assert model.base_model is model
    assert find(model).base is model.model


def test_missing_blocks_are_named():
    model = tiny("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM has no list of 7 blocks"):
        find(model)


def test_a_missing_norm_is_named():
    model = tiny("llama")
    model.model.norm = nn.Identity()
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM has no final norm: only a block gives"):
        find(model)
