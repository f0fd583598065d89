"""Heads are cut where the model cuts them: one that is erased takes away its own part of the output, no other."""

from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import stabilitykit as sk
from stabilitykit.subjects.head_layout import MATRICES, find_heads
from stabilitykit.subjects.stored import Checkpoint

IDS = torch.tensor([[1, 2, 3, 4]])
FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}
CASES = {
    **{f: {} for f in ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox", "phi3", "falcon")},
    **{f: {} for f in ("mixtral", "gpt_oss", "mistral", "opt", "gemma3n", "granite", "qwen3_moe", "olmo", "phi")},
    **{f: {} for f in ("starcoder2", "smollm3", "stablelm", "cohere", "gptj", "bloom", "mpt")},
    "falcon, groups": FALCON,
    "falcon, each its own": {"multi_query": False, "new_decoder_architecture": False},
    "llama, one k": {"num_key_value_heads": 1},
    "llama, each its own": {"num_key_value_heads": 4},
    "phi3, each its own": {"num_key_value_heads": 4},
    "gemma, wide": {"head_dim": 32},
    "qwen3, wide": {"head_dim": 32, "num_key_value_heads": 1},
}
KEYS = {
    "llama": 2,
    "falcon": 1,
    "falcon, groups": 2,
    "gpt_neox": 4,
    "gpt2": 4,
    "phi3": 2,
    "llama, one k": 1,
    "bloom": 4,
}


@cache
def built(case):
    """Return a model that every test leaves as it was."""
    return sk.load("tiny:" + case.split(",")[0], load_args=CASES[case])


def erased(model, heads, matrix, number):
    """Set the elements of one head to 0, found by the gradient of their sum; return the values before."""
    weight = dict(model.named_parameters())[heads.name]
    leaf = weight.detach().clone().requires_grad_()
    (mask,) = torch.autograd.grad(heads.split(leaf)[matrix][number].sum(), leaf)
    before = weight.data.clone()
    weight.data = torch.where(mask != 0, 0, before)
    assert int((mask != 0).sum()) == heads.width * heads.hidden
    return weight, before


def run(model, output):
    """Return what block 0's output matrix was given and gave, each (T, ...)."""
    seen = []
    module = model.get_submodule(output.name.removesuffix(".weight"))
    handle = module.register_forward_hook(lambda _m, given, made: seen.append((given[0], made)))
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    handle.remove()
    given, made = seen[0]
    return given.reshape(IDS.numel(), -1), made.reshape(IDS.numel(), -1)


def changed_heads(before, after, width):
    return {
        h
        for h in range(before.shape[1] // width)
        if not torch.equal(*(x[:, h * width :][:, :width] for x in (before, after)))
    }


@pytest.mark.parametrize("case", CASES)
def test_an_erased_head_changes_the_heads_that_read_it(case):
    """The oracle is the model: what enters its output matrix, head by head."""
    loaded = built(case)
    parts = {m: heads for heads in find_heads(Checkpoint.of(loaded)) if heads.block == 0 for m in heads.matrices}
    assert set(parts) == set(MATRICES)
    output = parts["o"]
    sharing = output.queries // output.keys
    assert output.keys == KEYS.get(case, output.keys)
    given, _ = run(loaded.model, output)
    for matrix in "qkv":
        heads = parts[matrix]
        for number in range(heads.queries if matrix == "q" else heads.keys):
            weight, before = erased(loaded.model, heads, matrix, number)
            now, _ = run(loaded.model, output)
            weight.data = before
            readers = {number} if matrix == "q" else set(range(number * sharing, (number + 1) * sharing))
            assert changed_heads(given, now, output.width) == readers, (matrix, number)


@pytest.mark.parametrize("case", CASES)
def test_an_erased_output_takes_its_head_away(case):
    """The slices of o, by the outputs of their heads, add up to what the module returns."""
    loaded = built(case)
    (output,) = (heads for heads in find_heads(Checkpoint.of(loaded)) if heads.block == 0 and heads.matrices == "o")
    given, made = run(loaded.model, output)
    for number in range(output.queries):
        written = output.split(dict(loaded.model.named_parameters())[output.name])["o"][number]
        weight, before = erased(loaded.model, output, "o", number)
        _, without = run(loaded.model, output)
        weight.data = before
        own = given[:, number * output.width :][:, : output.width] @ written.T
        assert float((made - without - own).abs().max()) <= 1e-4 * float(made.abs().max())
        assert float(own.abs().max()) > 1e-2 * float(made.abs().max())


def test_v_is_what_a_head_carries():
    """A prompt of one token: softmax over one place is 1, so that a head returns V_g x, whatever q and k are."""
    for case in ("llama", "gpt_neox", "falcon, groups", "phi3", "mpt", "gpt2"):
        loaded = built(case)
        parts = {m: heads for heads in find_heads(Checkpoint.of(loaded)) if heads.block == 0 for m in heads.matrices}
        heads, output, entered = parts["v"], parts["o"], []
        source = loaded.model.get_submodule(heads.name.removesuffix(".weight"))
        handle = source.register_forward_hook(lambda _m, given, _made, entered=entered: entered.append(given[0]))
        carried = []
        sink = loaded.model.get_submodule(output.name.removesuffix(".weight"))
        other = sink.register_forward_hook(lambda _m, given, _made, carried=carried: carried.append(given[0]))
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
        with torch.no_grad():
            loaded.model(input_ids=IDS[:, :1], use_cache=False)
        handle.remove()
        other.remove()
        V = heads.split(dict(loaded.model.named_parameters())[heads.name])["v"]
        expected = torch.cat(
            [V[h // (output.queries // output.keys)] @ entered[0].flatten() for h in range(output.queries)]
        )
        torch.testing.assert_close(carried[0].flatten(), expected, rtol=1e-4, atol=1e-5)


def test_gpt_bigcode_is_grouped():
    """Its k and v follow all q where they are shared, else each head's q; the weight is not turned."""
    for shared in (True, False):
        config = AutoConfig.for_model(
            "gpt_bigcode", vocab_size=16, n_embd=32, n_layer=1, n_head=2, n_positions=16, multi_query=shared
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loaded = sk.adopt(AutoModelForCausalLM.from_config(config).eval())
        fused, output = find_heads(Checkpoint.of(loaded))
        assert fused.keys == (1 if shared else 2)
        given, _ = run(loaded.model, output)
        for number in range(fused.keys):
            weight, before = erased(loaded.model, fused, "v", number)
            now, _ = run(loaded.model, output)
            weight.data = before
            assert changed_heads(given, now, output.width) == ({0, 1} if shared else {number})


def test_a_folder_has_the_heads_of_its_model(tmp_path):
    for family in ("gpt2", "phi3", "gemma3"):
        loaded = sk.load(f"tiny:{family}")
        loaded.model.save_pretrained(tmp_path / family)
        assert find_heads(Checkpoint(tmp_path / family)) == find_heads(Checkpoint.of(loaded))


class Named(nn.Module):
    """A model whose configuration and weights a test chooses."""

    def __init__(self, family, shapes, **config):
        super().__init__()
        self.config = AutoConfig.for_model(family, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, **config)
        self.weights = {name: torch.zeros(shape) for name, shape in shapes.items()}

    def state_dict(self, **_):
        return self.weights


@pytest.mark.parametrize(
    ("family", "shapes", "said"),
    [
        ("llama", {"model.layers.0.mlp.up_proj.weight": (8, 8)}, "no attention weights of a known name"),
        ("llama", {"model.layers.0.self_attn.q_proj.weight": (12, 8)}, "not 2 heads of width 4 on 8 inputs"),
        ("llama", {"model.layers.0.self_attn.q_proj.weight": (16, 8)}, "not 2 heads of width 4"),
        ("llama", {"model.layers.0.self_attn.o_proj.weight": (8, 16)}, "not 2 heads of width 4"),
        ("llama", {"model.layers.0.self_attn.k_proj.weight": (12, 8)}, "not 2 heads of width 4"),
        ("llama", {"model.layers.0.self_attn.qkv_proj.weight": (24, 8)}, "an order that is not known of 'llama'"),
        ("phi3", {"model.layers.0.self_attn.qkv_proj.weight": (20, 8)}, "not 2 heads of width 4"),
        ("codegen", {"transformer.h.0.attn.qkv_proj.weight": (24, 8)}, "an order that is not known of 'codegen'"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(family, shapes, said):
    loaded = sk.LoadedModel(Named(family, shapes), None, "", "toy", "")
    with pytest.raises(sk.UnsupportedError, match=said):
        find_heads(Checkpoint.of(loaded))


def test_a_vision_tower_does_not_count(tmp_path):
    """The heads are those below the stem that has most attention weights; a name without a number is no block."""
    loaded = sk.load("tiny")
    tensors = {name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()}
    tensors["vision.layers.0.self_attn.q_proj.weight"] = torch.zeros(6, 6)
    tensors["self_attn.q_proj.weight"] = torch.zeros(6, 6)
    loaded.model.config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    assert find_heads(Checkpoint(tmp_path)) == find_heads(Checkpoint.of(loaded))
