"""Planted spectra in real models: a head of low rank, Gaussian elements, permuted and rotated heads, damage."""

import math

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.head_spectra import _padded
from stabilitykit.measurements.head_trends import ORDERS, STATISTICS, TRENDS, layer_rows, order_rows, trend_rows

HEADS, KEYS, WIDTH, HIDDEN = 4, 2, 16, 64


@pytest.fixture
def loaded():
    return sk.load("tiny")


def asked(loaded, **how):
    return sk.measure(
        sk.HeadSpectra(**{"null_draws": 8, "shuffles": 199, **how}), sk.Checkpoint.of(loaded), progress=False
    )


def weight(loaded, matrix, layer=0):
    return getattr(loaded.model.model.layers[layer].self_attn, f"{matrix}_proj").weight.data


def of(result, part, **where):
    return [row for row in result.rows if row["part"] == part and all(row[k] == v for k, v in where.items())]


def gaussian(loaded):
    """Put independent Gaussian elements into every attention weight."""
    random = np.random.Generator(np.random.PCG64(5))
    for layer in range(3):
        for matrix in "qkvo":
            W = weight(loaded, matrix, layer)
            W.copy_(torch.from_numpy(random.standard_normal(W.shape)))


def test_rows_are_those_of_a_dense_decomposition(loaded):
    """Each of 3 layers of 4 q and o heads and 2 k and v heads, by slices that numpy cuts."""
    result = asked(loaded)
    rows, at = of(result, "head"), 0
    assert len(rows) == 3 * (HEADS + KEYS + KEYS + HEADS) == result.readings["heads"].value
    for layer in range(3):
        for matrix, count in (("q", HEADS), ("k", KEYS), ("v", KEYS), ("o", HEADS)):
            W = weight(loaded, matrix, layer).double().numpy()
            for head in range(count):
                part = slice(head * WIDTH, (head + 1) * WIDTH)
                s = np.linalg.svd(W[:, part] if matrix == "o" else W[part], compute_uv=False)
                row = rows[at]
                assert (row["layer"], row["matrix"], row["head"]) == (layer, matrix, head)
                assert row["kv_head"] == (head // 2 if matrix in "qo" else head)
                assert (row["rows"], row["cols"]) == ((HIDDEN, WIDTH) if matrix == "o" else (WIDTH, HIDDEN))
                np.testing.assert_allclose(result.arrays["spectra"][at], s, rtol=1e-10)
                expected = (s[0], s[-1], s[:10].sum() / s.sum(), s[0] / s[-1], s[-10:].sum() / s.sum())
                found = [row[name] for name in ("s1", "s_last", "top10", "first_last", "least10")]
                np.testing.assert_allclose(found, expected, rtol=1e-10)
                assert row["excess_first_last"] == row["first_last"] / row["null_first_last"]
                at += 1
    assert result.readings["first_last"].value == max(row["first_last"] for row in rows)
    assert result.readings["least10"].value == min(row["least10"] for row in rows)
    assert result.verdict == "measured"


def test_heads_hold_their_weight_s_length(loaded):
    result = asked(loaded)
    for layer in range(3):
        for matrix in "qkvo":
            places = [n for n, row in enumerate(of(result, "head")) if (row["layer"], row["matrix"]) == (layer, matrix)]
            squares = (result.arrays["spectra"][places] ** 2).sum()
            assert squares == pytest.approx(float((weight(loaded, matrix, layer).double() ** 2).sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("matrix", "head"), [("q", 2), ("k", 1), ("v", 0), ("o", 3)])
def test_a_head_of_low_rank_is_found(loaded, matrix, head, dtype):
    gaussian(loaded)
    assert asked(loaded).readings["deficient"].value == 0
    low = torch.from_numpy(np.random.Generator(np.random.PCG64(8)).standard_normal((WIDTH, 3))).float() @ torch.ones(
        3, HIDDEN
    )
    low += torch.outer(torch.arange(WIDTH), torch.linspace(-1, 1, HIDDEN))
    part = slice(head * WIDTH, (head + 1) * WIDTH)
    W = weight(loaded, matrix, 1)
    if matrix == "o":
        W[:, part] = low.T
    else:
        W[part] = low
    loaded.model.to(dtype)
    result = asked(loaded)
    (row,) = [row for row in of(result, "head") if row["deficient"]]
    assert (row["layer"], row["matrix"], row["head"], row["dtype"]) == (1, matrix, head, str(dtype)[6:])
    assert row["entropy_rank"] <= 2.01
    assert result.readings["first_last"].place == {"layer": "1", "matrix": matrix, "head": str(head)}
    assert result.readings["deficient"].value == 1
    assert f"{matrix.upper()} of head {head} in layer 1" in result.sentence
    assert "1 are rank-deficient" in result.sentence


def test_gaussian_heads_are_the_null(loaded):
    gaussian(loaded)
    result = asked(loaded, null_draws=200)
    for name in ("top10", "least10"):
        assert np.mean([row[f"excess_{name}"] for row in of(result, "head")]) == pytest.approx(1, abs=0.03)
    for row in of(result, "layer"):
        for name in ("top10", "least10"):
            assert row[name] == pytest.approx(row[f"null_{name}"], rel=0.05)
        assert row["first_last"] == pytest.approx(row["null_first_last"], rel=0.15)


def test_an_even_head_is_not_taken_for_chance(loaded):
    """The control: orthogonal rows stretch alike, which random elements do not."""
    gaussian(loaded)
    weight(loaded, "q", 2).copy_(
        torch.linalg.qr(torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal((HIDDEN, HIDDEN)))).Q
    )
    (row,) = of(asked(loaded), "layer", layer=2, matrix="q")
    assert row["first_last"] == pytest.approx(1, rel=1e-5)
    assert row["entropy_rank"] == pytest.approx(WIDTH, rel=1e-5)


def test_permuted_heads_permute_the_rows_and_rotated_ones_leave_them(loaded):
    before = asked(loaded)
    W = weight(loaded, "q").reshape(HEADS, WIDTH, HIDDEN)
    turn = torch.linalg.qr(torch.from_numpy(np.random.Generator(np.random.PCG64(1)).standard_normal((WIDTH, WIDTH)))).Q
    W.copy_((turn @ W.double())[[2, 0, 3, 1]])
    after = asked(loaded)
    found, expected = (of(result, "head", layer=0, matrix="q") for result in (after, before))
    for row, other in zip(found, (2, 0, 3, 1), strict=True):
        for name in ("s1", "top10", "first_last", "least10", "stable_rank", "entropy_rank"):
            assert row[name] == pytest.approx(expected[other][name], rel=1e-5)
    assert of(after, "head", layer=1) == of(before, "head", layer=1)


def test_a_wrong_cut_is_another_answer():
    """The control of the layout: heads of an interleaved weight cut as if it were in blocks are no longer low-rank."""
    loaded = sk.load("tiny:gpt_neox")
    W = loaded.model.gpt_neox.layers[0].attention.query_key_value.weight.data
    W.reshape(4, 3, 16, 64)[:, 1] = 1.0
    rows = of(asked(loaded), "head", layer=0)
    assert [(row["matrix"], row["head"]) for row in rows if row["deficient"]] == [("k", head) for head in range(4)]


def test_planted_trends_are_found(loaded):
    """Q grows with depth, K of layer 1 is uneven in the order of its heads, and V and O lie below both."""
    loaded = sk.load("tiny", load_args={"num_hidden_layers": 8, "num_key_value_heads": 4})
    gaussian_all = np.random.Generator(np.random.PCG64(3))
    for layer in range(8):
        for matrix in "qkvo":
            W = weight(loaded, matrix, layer)
            W.copy_(torch.from_numpy(gaussian_all.standard_normal(W.shape)))
            if matrix in "qk":
                W.reshape(4, WIDTH, HIDDEN)[:, 0] *= 10
        weight(loaded, "q", layer).mul_(2.0**layer)
    for head in range(4):
        weight(loaded, "k", 1).reshape(4, WIDTH, HIDDEN)[head, 0] *= 2.0**head
    result = asked(loaded, shuffles=999)
    (depth,) = of(result, "trend", matrix="q", statistic="s1", along="depth")
    assert (depth["spearman"], depth["p"]) == (pytest.approx(1), 0.001)
    (flat,) = of(result, "trend", matrix="v", statistic="s1", along="depth")
    assert flat["p"] > 0.01
    (heads,) = of(result, "trend", matrix="k", statistic="top10", along="heads of layer 1")
    assert heads["spearman"] == pytest.approx(1)
    assert heads["p"] == pytest.approx(2 / 24, abs=0.04)
    order = {(row["statistic"], row["matrix"]): row for row in of(result, "order")}
    for name in ("top10", "first_last", "least10"):
        assert all(order[name, matrix]["layers"] == order[name, matrix]["of"] == 8 for matrix in "qk")
    assert order["least10", "q"]["sense"] == "below"
    assert (result.readings["q_layers"].value, result.readings["k_layers"].value) == (8, 8)
    weight(loaded, "o", 5).reshape(HIDDEN, 4, WIDTH)[:, :, 0] *= 1000
    assert asked(loaded).readings["q_layers"].value == 7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named(loaded, bad):
    weight(loaded, "k", 2)[5, 5] = bad
    with pytest.raises(sk.InvalidError, match=r"layers\.2\.self_attn\.k_proj\.weight' holds a NaN or an infinity"):
        asked(loaded)


def test_a_head_of_zeros_is_flagged(loaded):
    weight(loaded, "v", 0)[:WIDTH] = 0
    (row,) = [row for row in of(asked(loaded), "head") if row["deficient"]]
    assert (row["matrix"], row["head"]) == ("v", 0)
    assert math.isnan(row["first_last"])


def test_chosen_blocks(loaded):
    result = asked(loaded, blocks=[2])
    assert {row["layer"] for row in of(result, "head")} == {2}
    assert of(result, "head") == of(asked(loaded), "head", layer=2)
    with pytest.raises(sk.UsageError, match="names 3, which has no attention heads"):
        asked(loaded, blocks=[0, 3])
    with pytest.raises(sk.UsageError, match="at least 1 of each"):
        sk.HeadSpectra(null_draws=0)


def test_only_weights_are_asked(loaded):
    with pytest.raises(sk.UsageError, match=r"asked of a Checkpoint, not of a LoadedModel; make one with Checkpoint\("):
        sk.measure(sk.HeadSpectra(), loaded)


def test_a_folder_gives_the_same_rows(loaded, tmp_path):
    loaded.model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    from_files = sk.measure(sk.HeadSpectra(null_draws=8, shuffles=199), sk.Checkpoint(tmp_path), progress=False)
    assert from_files.rows == asked(loaded).rows


def test_a_single_head_is_the_mean_of_its_layer_and_has_its_null():
    head = {"layer": 0, "matrix": "q", "null_s1": 3.0, **dict.fromkeys(STATISTICS, 2.0)}
    (row,) = layer_rows([head])
    assert (row["heads"], row["null_s1"], *(row[name] for name in STATISTICS)) == (1, 3.0, *[2.0] * len(STATISTICS))


@pytest.mark.parametrize(("sharing", "orders"), [(1, 24), (2, 8), (4, 24)])
def test_heads_that_share_keys_are_shuffled_as_one(sharing, orders):
    """Of the orders that four rising heads may take, they and their reverse are as far from chance."""
    heads = [{"layer": 0, "matrix": "q", "kv_head": k // sharing, "top10": float(k), "least10": 1.0} for k in range(4)]
    layers = [{"layer": 0, "matrix": "q", **dict.fromkeys(TRENDS, 1.0)}]
    (row,) = trend_rows(heads, layers, 1999, 0)
    assert (row["along"], row["values"], row["spearman"]) == ("heads of layer 0", 4, pytest.approx(1))
    assert row["p"] == pytest.approx(2 / orders, rel=0.2)


def test_an_order_is_counted_over_the_layers_that_have_all_four_matrices():
    """Q is above in both, K in one; a third layer without O is none of them."""
    means = {(0, "q"): 9, (0, "k"): 8, (0, "v"): 2, (0, "o"): 3, (1, "q"): 9, (1, "k"): 2, (1, "v"): 4, (1, "o"): 1}
    means |= {(2, "q"): 9, (2, "k"): 9, (2, "v"): 1}
    layers = [
        {"layer": layer, "matrix": matrix, **dict.fromkeys(ORDERS, float(value))}
        for (layer, matrix), value in means.items()
    ]
    found = {(row["statistic"], row["matrix"]): (row["layers"], row["of"], row["sense"]) for row in order_rows(layers)}
    assert found["s1", "q"] == (2, 2, "above")
    assert found["s1", "k"] == (1, 2, "above")
    assert found["least10", "q"] == (0, 2, "below")
    assert found["least10", "k"] == (0, 2, "below")
    assert order_rows(layers[8:]) == []


def test_spectra_of_several_lengths_are_filled_up_to_the_longest():
    padded = _padded([np.array([3.0, 2.0]), np.array([4.0, 2.0, 1.0]), np.array([5.0])])
    assert np.array_equal(padded, [[3, 2, math.nan], [4, 2, 1], [5, math.nan, math.nan]], equal_nan=True)


@pytest.mark.model
def test_smollm2_has_the_figures_of_an_independent_program():
    """Means over layers and heads, and the order of the matrices, as dense float32 decompositions gave them."""
    result = sk.measure(sk.HeadSpectra(), sk.Checkpoint.of(sk.load("smollm2")), progress=False)
    means = {
        matrix: [np.mean([row[name] for row in of(result, "layer", matrix=matrix)]) for name in names]
        for names in [("s1", "top10", "first_last", "least10")]
        for matrix in "qkvo"
    }
    expected = {
        "q": (10.32, 0.288, 12.3, 0.062),
        "k": (10.43, 0.269, 12.4, 0.063),
        "v": (6.24, 0.198, 2.64, 0.118),
        "o": (7.26, 0.239, 4.26, 0.093),
    }
    for matrix, values in expected.items():
        np.testing.assert_allclose(means[matrix], values, rtol=0.01)
    order = {(row["statistic"], row["matrix"]): row["layers"] for row in of(result, "order")}
    assert [order["first_last", m] for m in "qk"] == [30, 30]
    assert [order["least10", m] for m in "qk"] == [30, 30]
    assert [order["top10", m] for m in "qk"] == [30, 24]
    depth = {(row["matrix"], row["statistic"]): row for row in of(result, "trend", along="depth")}
    assert depth["q", "s1"]["spearman"] == pytest.approx(-0.65, abs=0.005)
    assert depth["k", "s1"]["spearman"] == pytest.approx(-0.87, abs=0.005)
    assert depth["q", "top10"]["spearman"] == pytest.approx(0.53, abs=0.005)
    assert depth["q", "first_last"]["spearman"] == pytest.approx(0.36, abs=0.005)
    assert result.readings["deficient"].value == 0
