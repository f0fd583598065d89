"""A block as matrices: proved against the model's own modules, refused where it is another build."""

from dataclasses import replace

import pytest
import torch

import stabilitykit as sk
from stabilitykit.subjects.residual_block import ResidualBlocks
from stabilitykit.subjects.sites import Tap

GATED = ["llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "smollm3", "olmo", "stablelm"]
PLAIN = ["gpt2", "gpt_neox", "phi", "falcon", "gptj", "starcoder2"]
PARALLEL = {"gpt_neox", "phi", "falcon", "gptj", "cohere"}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(scope="module")
def blocks():
    return ResidualBlocks(sk.load("tiny", dtype="float64"))


@pytest.mark.parametrize("family", [*GATED, *PLAIN, "cohere"])
def test_what_attention_adds_to_one_token_is_the_matrix(family):
    """(I + A) x against what the model's own attention makes of one token; a norm's shift and biases are taken away."""
    blocks = ResidualBlocks(sk.load(f"tiny:{family}", dtype="float64"))
    block = blocks.block(1)
    assert block.parallel == (family in PARALLEL)
    norm, heard = block.norms[0], []
    x = drawn(3, 64)
    read = (x - x.mean(dim=1, keepdim=True) if norm.centred else x) * norm.gain
    tap = Tap(block.attention.module).reading(lambda state: heard.append(state[:, 0]))
    for given in (read, torch.zeros_like(read)):
        before = Tap(block.attention.module, before=True).reading(lambda _, given=given: given[:, None])
        with (
            tap if given is read else Tap(block.attention.module).reading(lambda state: heard.append(state[:, 0])),
            before,
        ):
            blocks.anatomy.base(input_ids=torch.full((3, 1), 5), use_cache=False)
    assert torch.allclose(block.attended().apply(x), heard[0] - heard[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("family", PLAIN)
def test_the_map_of_two_matrices_is_the_nearest_and_has_its_transpose(family):
    """Against a regression on samples through the model's own layer, whose bias is no part of a linear map."""
    block = ResidualBlocks(sk.load(f"tiny:{family}", dtype="float64")).block(1)
    X = drawn(60_000, 64)
    with torch.no_grad():
        y = block.feed.module(X[None])[0]
    D, H = torch.linalg.lstsq(X, y).solution.T, torch.eye(64, dtype=torch.float64)
    centre = H - 1 / 64
    F = block.fed().dense()
    expected = D @ torch.diag(block.norms[1].gain) @ centre
    assert (F - expected).norm() / expected.norm() < 0.05
    for linear in (block.attended(), block.fed(), block.fed(normed=True)):
        a, b = drawn(64), drawn(64).flip(0)
        assert float(b @ linear.apply(a)) == pytest.approx(float(linear.apply_adjoint(b) @ a), rel=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "phi"])
def test_normed_reads_gain_and_shift_of_a_layer_norm(family):
    """The nearest linear map of x -> layer(gain * x + shift) on x ~ N(0, I), by regression."""
    block = ResidualBlocks(sk.load(f"tiny:{family}", dtype="float64")).block(1)
    norm, X = block.norms[1], drawn(60_000, 64)
    with torch.no_grad():
        y = block.feed.module((X * norm.gain + norm.shift)[None])[0]
    expected = torch.linalg.lstsq(X, y).solution.T @ (torch.eye(64, dtype=torch.float64) - 1 / 64)
    F = block.fed(normed=True).dense()
    assert (F - expected).norm() / expected.norm() < 0.05
    assert (block.fed().dense() - expected).norm() > 2 * (F - expected).norm()


@pytest.mark.parametrize("family", [*GATED, *PLAIN, "cohere"])
def test_the_named_down_projection_ends_the_feed_forward_layer(family):
    loaded = sk.load(f"tiny:{family}")
    blocks, heard = ResidualBlocks(loaded), []
    down, feed = loaded.model.get_submodule(blocks.down_projection_name(1)), blocks.block(1).feed.module
    assert down is blocks.down_projection(1)
    with Tap(down).reading(lambda x: heard.append(x.clone())), Tap(feed).reading(lambda x: heard.append(x.clone())):
        blocks.anatomy.base(input_ids=torch.tensor([[5, 6]]), use_cache=False)
    assert torch.equal(*heard)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gemma2", "its output is another by"),
        ("granite", "its output is another by"),
        ("mixtral", "which of its experts compute depends on the token"),
        ("gpt_oss", "which of its experts compute depends on the token"),
        ("olmo2", "no norm in front of attention"),
        ("mamba", "no norm in front of attention"),
        ("bloom", "no activation of a known name"),
    ],
)
def test_another_build_is_refused_with_its_reason(family, why):
    blocks = ResidualBlocks(sk.load(f"tiny:{family}"))
    with pytest.raises(
        sk.UnsupportedError, match=rf"block 1 of tiny:.* is not a pre-norm block of a known build.*{why}"
    ):
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
    D, gain = block.down, torch.diag(block.norms[1].gain)
    regression = drawn(60_000, 64)
    y = torch.nn.functional.silu(regression @ block.feed.gate.T) * (regression @ block.feed.up.T)
    M = torch.linalg.lstsq(regression, y).solution.T
    F = block.fed().dense()
    assert (F - D @ M @ gain).norm() / F.norm() < 0.1
    for linear in (block.attended(), block.fed(), block.fed(normed=True)):
        x, u = drawn(64), drawn(64).flip(0)
        assert float(u @ linear.apply(x)) == pytest.approx(float(linear.apply_adjoint(u) @ x), rel=1e-10)


def test_normed_reads_the_gain_before_the_gate(blocks):
    """At gain 1 both modes are one; where the gain is doubled, normed is twice a gate and an up of twice the size."""
    block = blocks.block(0)
    block.norms[1].gain.fill_(1.0)
    plain = block.fed().dense()
    assert torch.allclose(block.fed(normed=True).dense(), plain, rtol=1e-10, atol=1e-12)
    block.norms[1].gain.fill_(2.0)
    assert torch.allclose(block.fed().dense(), 2 * plain, rtol=1e-10, atol=1e-12)
    feed, norm = block.feed, replace(block.norms[1], gain=torch.ones(64, dtype=torch.float64))
    steeper = replace(block, feed=replace(feed, gate=2 * feed.gate, up=2 * feed.up), norms=(block.norms[0], norm))
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
