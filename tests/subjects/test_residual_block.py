"""A block as matrices: proved against the model's own modules, refused where it is another build."""

from dataclasses import replace

import pytest
import torch

import stabilitykit as sk
from stabilitykit.subjects.residual_block import ResidualBlocks

GATED = ["llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "smollm3"]


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(scope="module")
def blocks():
    return ResidualBlocks(sk.load("tiny", dtype="float64"))


@pytest.mark.parametrize("family", GATED)
def test_what_attention_adds_to_one_token_is_the_matrix(family):
    """(I + A) x against v_proj and o_proj themselves; all other parts of the block are covered by its own proof."""
    blocks = ResidualBlocks(sk.load(f"tiny:{family}", dtype="float64"))
    block, module = blocks.block(1), blocks.anatomy.blocks[1]
    x = drawn(3, 64)
    read = x * block.gains[0]
    attention, groups = module.self_attn, block.heads[0] // block.heads[1]
    if family == "phi3":
        heads = attention.qkv_proj(read)[:, -32:]
    else:
        heads = attention.v_proj(read) - (0 if attention.v_proj.bias is None else attention.v_proj.bias)
    repeated = heads.reshape(3, -1, 16)[:, [h // groups for h in range(4)]].reshape(3, 64)
    assert torch.allclose(block.attended().apply(x), attention.o_proj(repeated), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "granite", "olmo", "cohere", "mixtral", "stablelm"])
def test_another_build_is_refused_with_its_reason(family):
    blocks = ResidualBlocks(sk.load(f"tiny:{family}"))
    with pytest.raises(sk.UnsupportedError, match=r"block 1 of tiny:.* is not a pre-norm block"):
        blocks.block(1)


def test_a_block_whose_weights_are_not_those_that_ran_is_refused():
    """The planted defect: a hook that adds a ten thousandth to what attention returns."""
    blocks = ResidualBlocks(sk.load("tiny"))
    attention = blocks.anatomy.blocks[1].self_attn
    attention.register_forward_hook(lambda _m, _a, out: (out[0] * 1.0001, *out[1:]))
    blocks.block(0)
    with pytest.raises(sk.UnsupportedError, match="its output is another by"):
        blocks.block(1)


def test_maps_and_their_adjoints_agree_and_equal_the_dense_product(blocks):
    block = blocks.block(0)
    D, gain = block.down, torch.diag(block.gains[1])
    regression = drawn(60_000, 64)
    y = torch.nn.functional.silu(regression @ block.gate.T) * (regression @ block.up.T)
    M = torch.linalg.lstsq(regression, y).solution.T
    F = block.fed().dense()
    assert (F - D @ M @ gain).norm() / F.norm() < 0.1
    for linear in (block.attended(), block.fed(), block.fed(normed=True)):
        x, u = drawn(64), drawn(64).flip(0)
        assert float(u @ linear.apply(x)) == pytest.approx(float(linear.apply_adjoint(u) @ x), rel=1e-10)


def test_normed_reads_the_gain_before_the_gate(blocks):
    """At gain 1 both modes are one; where the gain is doubled, normed is twice a gate and an up of twice the size."""
    block = blocks.block(0)
    block.gains[1].fill_(1.0)
    plain = block.fed().dense()
    assert torch.allclose(block.fed(normed=True).dense(), plain, rtol=1e-10, atol=1e-12)
    block.gains[1].fill_(2.0)
    assert torch.allclose(block.fed().dense(), 2 * plain, rtol=1e-10, atol=1e-12)
    steeper = replace(block, gate=2 * block.gate, up=2 * block.up, gains=(block.gains[0], torch.ones(64)))
    assert torch.allclose(block.fed(normed=True).dense(), steeper.fed().dense(), rtol=1e-10, atol=1e-12)


def test_streams_are_the_states_of_transformers(blocks):
    """Behind the embedding and every block but the last, where transformers returns the normed state."""
    ids = torch.tensor([[5, 6, 7]])
    mine = blocks.states(ids)
    with torch.no_grad():
        theirs = blocks.anatomy.base(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(mine[:-1], torch.cat(theirs[:-1]))
    assert torch.equal(blocks.anatomy.final_norm(mine[-1]), theirs[-1][0])
    assert not torch.allclose(mine[-1], theirs[-1][0])
