"""Singular values of Q'K and OV of every head: against dense products, planted ranks, and invariances."""

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.numerics.stacked_spectra import product_values
from stabilitykit.subjects.head_layout import find_heads

QUIET = {"null_draws": 4, "shuffles": 19}


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


def found(loaded, **how):
    return sk.measure(sk.HeadProducts(**{**QUIET, **how}), sk.Checkpoint.of(loaded), progress=False)


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


def attention(loaded, layer):
    return loaded.model.model.layers[layer].self_attn


def test_values_are_those_of_the_whole_product():
    A, B = drawn(3, 5, 12), drawn(3, 5, 9, seed=1)
    dense = torch.linalg.svdvals(A.mT @ B)[:, :5]
    assert torch.allclose(torch.from_numpy(product_values(A, B)), dense, rtol=1e-12)
    with pytest.raises(sk.InvalidError):
        product_values(A * float("nan"), B)
    with pytest.raises(sk.InvalidError):
        product_values(A, B * float("inf"))


def test_small_values_keep_their_digits():
    """From 1 down to 1e-14 in one factor: a Gram matrix would lose them."""
    s = torch.logspace(0, -14, 5, dtype=torch.float64)
    U, V = torch.linalg.qr(drawn(12, 5)).Q, torch.linalg.qr(drawn(9, 5, seed=1)).Q
    W = torch.linalg.qr(drawn(5, 5, seed=2)).Q
    found = product_values((U * s @ W.T).mT[None], (V @ W.T).mT[None])[0]
    assert found == pytest.approx(s.numpy(), rel=1e-2)
    assert found[:4] == pytest.approx(s[:4].numpy(), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "falcon", "qwen3"])
def test_rows_are_those_of_dense_products(family):
    """By slices that numpy cuts; in families with fused weights by the layout that `test_head_layout` proves."""
    loaded = sk.load(f"tiny:{family}")
    result = found(loaded)
    weights = sk.Checkpoint.of(loaded)
    stacks = {}
    for heads in find_heads(weights):
        for matrix, stack in heads.split(weights[heads.name]).items():
            stacks[heads.block, matrix] = stack.double()
    for row in part(result, "head"):
        q, k, v, o = (stacks[row["layer"], matrix] for matrix in "qkvo")
        kv = row["head"] // (len(q) // len(k))
        dense = q[row["head"]].T @ k[kv] if row["matrix"] == "qk" else o[row["head"]] @ v[kv]
        s = torch.linalg.svdvals(dense)[: row["width"]]
        assert row["kv_head"] == kv
        assert (row["s1"], row["s_last"]) == pytest.approx((float(s[0]), float(s[-1])), rel=1e-9)
        p = (s / s.norm()).square()
        assert row["entropy_rank"] == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)
    assert result.readings["heads"].value == 3 * 4 * 2 == len(result.arrays["spectra"])


def test_a_planted_rank_is_found_in_the_product_that_neither_factor_has():
    """Q of head 2 uses 10 of its 16 coordinates and K 9, of which they share 3: the scores see 3 directions."""
    loaded = sk.load("tiny")
    layer = attention(loaded, 1)
    basis = torch.linalg.qr(drawn(64, 29)).Q
    with torch.no_grad():
        layer.q_proj.weight[32:48] = layer.k_proj.weight[16:32] = 0.0
        layer.q_proj.weight[32:42] = basis[:, :10].T.float()
        layer.k_proj.weight[23:32] = basis[:, 10:19].T.float()
    loaded = sk.adopt(loaded.model)
    result = found(loaded)
    row = next(r for r in part(result, "head") if (r["layer"], r["matrix"], r["head"]) == (1, "qk", 2))
    assert row["entropy_rank"] == pytest.approx(3, rel=1e-3)
    assert result.readings["qk_entropy_rank"].value == row["entropy_rank"]
    assert result.readings["qk_entropy_rank"].place == {"layer": "1", "matrix": "qk", "head": "2"}
    assert result.sentence.startswith("Head 2 of layer 1 compares least: over 3 dimensions of 16, products of random")
    alone = sk.measure(sk.HeadSpectra(null_draws=1, shuffles=1), sk.Checkpoint.of(loaded), progress=False)
    assert min(r["entropy_rank"] for r in part(alone, "head") if (r["layer"], r["matrix"]) == (1, "q")) > 8


def test_a_rotation_inside_the_head_changes_the_factors_and_no_product():
    plain, turned = sk.load("tiny"), sk.load("tiny")
    M = drawn(16, 16)
    layer = attention(turned, 0)
    with torch.no_grad():
        layer.q_proj.weight[:16] = (M @ layer.q_proj.weight[:16].double()).float()
        layer.q_proj.weight[16:32] = (M @ layer.q_proj.weight[16:32].double()).float()
        layer.k_proj.weight[:16] = (torch.linalg.inv(M).T @ layer.k_proj.weight[:16].double()).float()
    one, other = found(plain).arrays["spectra"], found(sk.adopt(turned.model)).arrays["spectra"]
    assert other[:8] == pytest.approx(one[:8], rel=1e-3, abs=1e-5)


def test_gaussian_heads_are_the_null():
    loaded = sk.load("tiny")
    for layer in range(3):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weight = getattr(attention(loaded, layer), name).weight
            weight.data = drawn(*weight.shape, seed=layer * 4 + len(name)).float()
    rows = part(found(sk.adopt(loaded.model), null_draws=64), "head")
    for name in ("top10", "entropy_rank"):
        assert np.mean([row[f"excess_{name}"] for row in rows]) == pytest.approx(1, abs=0.03)


def test_chosen_blocks_and_bad_questions():
    loaded = sk.load("tiny")
    assert {row["layer"] for row in part(found(loaded, blocks=(1,)), "head")} == {1}
    with pytest.raises(sk.UsageError, match="names 7"):
        found(loaded, blocks=(7,))
    with pytest.raises(sk.UsageError):
        sk.HeadProducts(null_draws=0)
    attention(loaded, 1).v_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(sk.StabilityError):
        found(loaded)
