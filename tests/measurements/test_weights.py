"""Weight statistics against numpy and scipy, in memory and in shards; exports that are read back by others."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

import stabilitykit as sk

DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.layers.2.input_layernorm.weight"


@pytest.fixture
def loaded():
    return sk.load("tiny")


def asked(subject, **how):
    subject = sk.Checkpoint.of(subject) if isinstance(subject, sk.LoadedModel) else subject
    return sk.measure(sk.WeightStatistics(**{"shuffles": 199, **how}), subject, progress=False)


def row(result, name):
    (found,) = [one for one in result.rows if one["part"] == "weight" and one["name"] == name]
    return found


def parts(result, part):
    return [one for one in result.rows if one["part"] == part]


def value(result, name):
    return result.readings[name].value


def test_every_weight_is_described(loaded):
    """Norms, MLP, embedding and head included, each once, with the numbers of numpy and scipy."""
    result = asked(loaded, spectra="all")
    state = loaded.model.state_dict()
    assert {one["name"] for one in parts(result, "weight")} == set(state)
    assert value(result, "parameters") == sum(t.numel() for t in state.values())
    kinds = {one["name"].removeprefix("model."): (one["layer"], one["kind"]) for one in parts(result, "weight")}
    assert kinds["embed_tokens.weight"] == (None, "embedding")
    assert kinds["lm_head.weight"] == (None, "head")
    assert kinds["norm.weight"] == (None, "norm")
    assert kinds["layers.2.post_attention_layernorm.weight"] == (2, "norm")
    assert kinds["layers.1.mlp.gate_proj.weight"] == (1, "mlp")
    assert kinds["layers.0.self_attn.o_proj.weight"] == (0, "attention")
    for name, tensor in state.items():
        w, one = tensor.double().numpy(), row(result, name)
        a = np.abs(w.ravel())
        assert (one["shape"], one["params"]) == (" x ".join(map(str, w.shape)), w.size)
        expected = {"mean": w.mean(), "std": w.std(), "median": np.median(w), "range": np.ptp(w), "mean_abs": a.mean()}
        expected |= {f"abs_p{p}": np.percentile(a, p) for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
        expected |= {"skewness": stats.skew(w.ravel()), "kurtosis": stats.kurtosis(w.ravel())}
        expected |= {"frobenius": np.linalg.norm(w), "max_over_rms": a.max() / np.sqrt((w**2).mean())}
        expected |= {"n_positive": (w > 0).sum(), "n_negative": (w < 0).sum(), "n_zero": 0, "median_abs": np.median(a)}
        expected |= {"n_geq_1e-1": (a >= 0.1).sum(), "n_lt_1e-4": (a < 1e-4).sum()}
        expected |= {
            "n_1e-2_to_1e-1": ((a >= 0.01) & (a < 0.1)).sum(),
            "n_1e-3_to_1e-2": ((a >= 1e-3) & (a < 0.01)).sum(),
        }
        if w.ndim == 2:
            s = np.linalg.svd(w, compute_uv=False)
            expected |= {
                "spectral_norm": s[0],
                "nuclear_norm": s.sum(),
                "condition": s[0] / s[-1],
                "least_singular": s[-1],
            }
            expected |= {"stable_rank": (s**2).sum() / s[0] ** 2}
        else:
            assert math.isnan(one["spectral_norm"])
        for key, wanted in expected.items():
            assert one[key] == pytest.approx(wanted, rel=1e-9, abs=1e-12), (name, key)
    assert result.verdict == "measured"


def test_histograms_are_in_the_order_of_the_rows(loaded):
    result = asked(loaded, spectra="none")
    for at, one in enumerate(parts(result, "weight")):
        w = loaded.model.state_dict()[one["name"]].double().numpy()
        assert result.arrays["histograms"][at].sum() == w.size
        assert (
            result.arrays["histograms"][at, 65 + 2]
            == ((w >= 2 * (step := result.arrays["widths"][at])) & (w < 3 * step)).sum()
        )


def test_the_spectral_norm_alone_is_that_of_the_whole_spectrum(loaded):
    norm, every = asked(loaded), asked(loaded, spectra="all")
    for one in parts(every, "weight"):
        found = row(norm, one["name"])
        if one["dims"] == 2:
            assert found["spectral_norm"] == pytest.approx(one["spectral_norm"], rel=1e-6)
            assert found["stable_rank"] == pytest.approx(one["stable_rank"], rel=1e-6)
            assert math.isnan(found["nuclear_norm"])


def test_only_some_blocks_are_decomposed(loaded):
    result = asked(loaded, spectra="all", spectra_blocks=2)
    known = {one["layer"] for one in parts(result, "weight") if not math.isnan(one["nuclear_norm"])}
    assert known == {0, 2}
    assert all(math.isnan(one["spectral_norm"]) for one in parts(asked(loaded, spectra="none"), "weight"))


def test_experts_are_matrices_of_their_own():
    loaded = sk.load("tiny:mixtral")
    result = asked(loaded, spectra="all", names="*experts*")
    for one in parts(result, "weight"):
        stack = loaded.model.state_dict()[one["name"]].double().numpy()
        s = np.linalg.svd(stack, compute_uv=False)
        assert one["dims"] == 3
        assert one["kind"] == "mlp"
        assert one["spectral_norm"] == pytest.approx(s.max(), rel=1e-9)
        assert one["nuclear_norm"] == pytest.approx(s.sum(), rel=1e-9)
        assert one["condition"] == pytest.approx((s[:, 0] / s[:, -1]).max(), rel=1e-9)


def test_a_planted_large_weight_is_found(loaded):
    W = loaded.model.get_parameter(DOWN).data
    W[3, 4] = 50.0
    result = asked(loaded)
    assert result.readings["max_over_rms"].place == {"layer": "1", "module": DOWN}
    assert value(result, "max_abs") == 50.0
    assert DOWN in result.sentence
    assert result.worst.where == DOWN


def test_a_planted_block_stands_apart():
    """One in eight blocks with a larger spread; without it none does."""
    loaded = sk.load("tiny", load_args={"num_hidden_layers": 8})
    assert not parts(asked(loaded, spectra="none"), "outlier")
    loaded.model.get_parameter("model.layers.5.mlp.up_proj.weight").data *= 3
    found = parts(asked(loaded, spectra="none"), "outlier")
    assert [(one["layer"], one["weight"], one["statistic"]) for one in found] == [(5, "mlp.up_proj.weight", "std")]
    values = [
        float(loaded.model.get_parameter(f"model.layers.{k}.mlp.up_proj.weight").std(correction=0)) for k in range(8)
    ]
    others = np.delete(values, 5)
    expected = (values[5] - others.mean()) / (others.std(ddof=1) * math.sqrt(8 / 7))
    assert found[0]["t"] == pytest.approx(expected, rel=1e-5)
    assert found[0]["p"] == pytest.approx(2 * stats.t.sf(expected, 6), rel=1e-4)


def test_a_planted_trend_over_depth(loaded):
    loaded = sk.load("tiny", load_args={"num_hidden_layers": 8})
    for layer in range(8):
        loaded.model.get_parameter(f"model.layers.{layer}.self_attn.k_proj.weight").data *= 2.0 ** (7 - layer)
    rows = {(one["weight"], one["statistic"]): one for one in parts(asked(loaded, spectra="none"), "depth")}
    found = rows["self_attn.k_proj.weight", "frobenius"]
    assert (found["spearman"], found["p"]) == (pytest.approx(-1), 1 / 200)
    assert (found["most_layer"], found["least_layer"]) == (0, 7)
    assert rows["self_attn.q_proj.weight", "frobenius"]["p"] > 0.005


def test_what_a_cast_would_do():
    """Numbers at the edges of float16 and bfloat16, beside the casts themselves."""
    edges = [65519.9, 65520.0, 70000.0, 2.0**-24, 2.0**-25, 2.0**-25 * 1.001, 2.0**-26, 1e-40, 2.0**-134, 2.0**-133]
    edges += [3.38e38, 3.3961e38, 3.4e38, 0.0, 1.0, 1 + 2.0**-8, 1 + 2.0**-10, 1 + 2.0**-12, -65536.0, 2.0**-149]
    x = torch.tensor(edges * 2)
    loaded = sk.load("tiny")
    loaded.model.get_parameter("lm_head.weight").data = x.reshape(4, 10)
    result = asked(loaded, names="lm_head*", spectra="none")
    one = row(result, "lm_head.weight")
    for name, dtype in (("float16", np.float16), ("bfloat16", None)):
        with np.errstate(over="ignore"):
            cast = x.numpy().astype(dtype).astype(np.float64) if dtype else x.to(torch.bfloat16).double().numpy()
        wide = x.double().numpy()
        assert one[f"overflow_{name}"] == np.isinf(cast).sum() > 0
        assert one[f"underflow_{name}"] == ((cast == 0) & (wide != 0)).sum() > 0
        assert one[f"exact_{name}"] == (cast == wide).mean()
        assert value(result, f"overflow_{name}") == one[f"overflow_{name}"]


def test_widened_weights_are_recognised(loaded):
    """The study's weights were bfloat16 in float32 clothes: all of them are exact there, and random ones are not."""
    assert value(asked(loaded, spectra="none"), "exact_bfloat16") < 0.02
    loaded.model.to(torch.bfloat16).to(torch.float32)
    assert value(asked(loaded, spectra="none"), "exact_bfloat16") == 1
    loaded.model.to(torch.bfloat16)
    assert value(asked(loaded, spectra="none"), "exact_bfloat16") == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_invalid_and_named(loaded, bad):
    loaded.model.get_parameter(NORM).data[:2] = bad
    result = asked(loaded)
    assert result.verdict == "invalid"
    assert value(result, "not_finite") == 2
    assert result.sentence == f"2 elements of 1 weights are not finite, first in {NORM}."
    assert math.isnan(row(result, NORM)["std"])
    assert not math.isnan(row(result, DOWN)["std"])


def test_shards_give_the_rows_of_the_model(loaded, tmp_path):
    loaded.model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert asked(sk.Checkpoint(tmp_path)).rows == asked(loaded).rows


def test_other_dtypes_are_counted_and_left_out(tmp_path):
    save_file({"w": torch.ones(2, 2), "packed": torch.arange(4, dtype=torch.uint8)}, tmp_path / "a.safetensors")
    result = asked(sk.Checkpoint(tmp_path))
    assert (value(result, "tensors"), value(result, "left_out")) == (1, 1)
    with pytest.raises(sk.UnsupportedError, match="none of 1 tensors is in a float dtype"):
        asked(sk.Checkpoint(tmp_path), names="pack*")


def test_a_weight_without_elements_is_counted(tmp_path):
    save_file({"w": torch.ones(0, 2)}, tmp_path / "a.safetensors")
    assert asked(sk.Checkpoint(tmp_path)).sentence.startswith("1 weights with 0 elements: bfloat16 holds 0% of them")


def test_choices_that_leave_nothing_are_refused(loaded):
    assert {one["layer"] for one in parts(asked(loaded, blocks=[1], spectra="none"), "weight")} == {1}
    for how in ({"blocks": [7]}, {"names": "nothing*"}):
        with pytest.raises(sk.UsageError, match="no weight of tiny fits"):
            asked(loaded, **how)
    for how in ({"spectra": "some"}, {"spectra_blocks": 0}, {"outlier": 0}, {"shuffles": 0}):
        with pytest.raises(sk.UsageError):
            sk.WeightStatistics(**how)


def export(loaded, folder, **how):
    return sk.measure(sk.WeightExport(str(folder), **how), sk.Checkpoint.of(loaded), progress=False)


def test_every_weight_has_a_file_of_its_own(loaded, tmp_path):
    result = export(loaded.model.to(torch.bfloat16) and loaded, tmp_path / "out", blocks=None)
    listed = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert {one["name"] for one in listed} == set(loaded.model.state_dict())
    for one in listed:
        held = load_file(tmp_path / "out" / one["file"])
        assert list(held) == [one["name"]]
        assert sk.bits_equal(held[one["name"]], loaded.model.state_dict()[one["name"]])
        assert one["dtype"] == "bfloat16"
    assert (result.verdict, value(result, "differing_tensors")) == ("pass", 0)
    assert value(result, "tensors") == len(listed) == len(list((tmp_path / "out").glob("*.safetensors")))


def test_by_default_the_first_block_is_written(loaded, tmp_path):
    result = export(loaded, tmp_path / "out")
    assert {one["layer"] for one in result.rows} == {0}
    assert len(result.rows) == 9
    assert str(tmp_path) not in json.dumps(result.to_dict())


def test_a_disk_that_changes_a_bit_is_seen(loaded, tmp_path, monkeypatch):
    def other(path):
        found = load_file(path)
        return {name: -tensor if name.endswith("k_proj.weight") else tensor for name, tensor in found.items()}

    monkeypatch.setattr("stabilitykit.measurements.weight_export.load_file", other)
    result = export(loaded, tmp_path / "out")
    assert (result.verdict, value(result, "differing_tensors")) == ("differs", 1)
    assert [one["name"] for one in result.rows if not one["same"]] == ["model.layers.0.self_attn.k_proj.weight"]


def test_hostile_names_stay_in_the_folder(tmp_path):
    names = ["../../x", "..", "/etc/passwd", "a\\b", "con:", "W", "w", "é" * 300, "é" * 301, "x\n", "h.1.w", "H.1.w"]
    (tmp_path / "in").mkdir()
    # The longer one is in a block, and so comes after the other, whose name is the same but for its case.
    tensors = {name: torch.full((3 if name == "H.1.w" else 2,), float(at)) for at, name in enumerate(names)}
    save_file(tensors, tmp_path / "in" / "a.safetensors")
    result = sk.measure(
        sk.WeightExport(str(tmp_path / "out"), blocks=None), sk.Checkpoint(tmp_path / "in"), progress=False
    )
    files = [one["file"] for one in result.rows]
    assert len({file.lower() for file in files}) == len(names)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*files, "weights.json"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    for one in result.rows:
        assert float(load_file(tmp_path / "out" / one["file"])[one["name"]][0]) == names.index(one["name"])


def test_nothing_is_written_over(loaded, tmp_path):
    (tmp_path / "out").mkdir()
    export(loaded, tmp_path / "out")
    with pytest.raises(sk.UsageError, match="not an empty folder"):
        export(loaded, tmp_path / "out")
    with pytest.raises(sk.UsageError, match="folder names the new folder"):
        sk.WeightExport()


@pytest.mark.model
def test_smollm2():
    result = asked(sk.Checkpoint.of(sk.load("smollm2")), spectra="all", spectra_blocks=1)
    assert (value(result, "tensors"), value(result, "parameters")) == (272, 134_515_008)
    assert value(result, "not_finite") == 0
    weight = sk.load("smollm2").model.get_parameter("model.layers.27.mlp.gate_proj.weight").double().numpy()
    one = row(result, "model.layers.27.mlp.gate_proj.weight")
    assert one["kurtosis"] == pytest.approx(stats.kurtosis(weight.ravel()), rel=1e-9)
    assert one["abs_p99"] == np.percentile(np.abs(weight), 99)
