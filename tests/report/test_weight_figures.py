"""Figures of weights, from real measurements of tiny models: valid plotly, finite, true in words, safe in names."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from safetensors.torch import save_file

import stabilitykit as sk
from stabilitykit.report.figures import Figure, figures
from stabilitykit.results.result import Result


def drawn(figure: Figure) -> go.Figure:
    text = json.dumps(figure.to_dict(), allow_nan=False)
    assert "<b>" not in text
    return go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


@pytest.fixture(scope="module")
def model() -> sk.LoadedModel:
    return sk.load("tiny", load_args={"num_hidden_layers": 5})


@pytest.fixture(scope="module")
def spectra(model: sk.LoadedModel) -> Result:
    return sk.measure(sk.HeadSpectra(null_draws=4, shuffles=99), sk.Checkpoint.of(model), progress=False)


@pytest.fixture(scope="module")
def statistics(model: sk.LoadedModel) -> Result:
    return sk.measure(sk.WeightStatistics(shuffles=99), sk.Checkpoint.of(model), progress=False)


def test_every_ratio_has_a_map_and_a_curve_and_some_layers_their_spectra(spectra: Result) -> None:
    found = figures(spectra)
    titles = [figure.title for figure in found]
    assert titles[:6:2] == [f"{name} of every head, next to chance" for name in ("First/Last", "Top-10", "Least-10")]
    assert titles[1:6:2] == [f"{name} with depth" for name in ("First/Last", "Top-10", "Least-10")]
    assert len(titles) == len(set(titles)) >= 6 + 1 + 3
    assert all(drawn(figure).data for figure in found)


def test_the_map_holds_the_rows(spectra: Result) -> None:
    figure = drawn(figures(spectra)[0])
    rows = [row for row in spectra.rows if row["part"] == "head"]
    heat = figure.data[0]
    assert list(heat.x) == [f"{m} {h}" for m, count in (("Q", 4), ("K", 2), ("V", 2), ("O", 4)) for h in range(count)]
    for row in rows:
        z = heat.z[row["layer"]][list(heat.x).index(f"{row['matrix'].upper()} {row['head']}")]
        assert z == pytest.approx(math.log2(row["excess_first_last"]), abs=1e-3)


def test_the_curves_hold_the_means(spectra: Result) -> None:
    curve = {trace.name: trace for trace in drawn(figures(spectra)[1]).data}
    assert set(curve) == {"Q", "K", "V", "O", "random"}
    means = [row["first_last"] for row in spectra.rows if row["part"] == "layer" and row["matrix"] == "k"]
    np.testing.assert_allclose(curve["K"].y, means)
    over_layers = sum(means) / len(means)
    assert f"K {over_layers:.3g}" in figures(spectra)[1].caption


def test_the_largest_values_hold_the_means(spectra: Result) -> None:
    (figure,) = [one for one in figures(spectra) if one.title == "The largest singular value with depth"]
    for trace in drawn(figure).data:
        rows = [row for row in spectra.rows if row["part"] == "layer" and row["matrix"] == trace.name.lower()]
        np.testing.assert_allclose(trace.y, [row["s1"] for row in rows])
    assert [trace.name for trace in drawn(figure).data] == ["Q", "K", "V", "O"]


def test_the_spectra_are_those_of_their_layer(spectra: Result) -> None:
    (figure,) = [one for one in figures(spectra) if one.title == "Singular values of the heads of layer 4"]
    lines = drawn(figure).data
    heads = [row for row in spectra.rows if row["part"] == "head"]
    places = [at for at, row in enumerate(heads) if row["layer"] == 4]
    assert len(lines) == len(places) == 12
    for line, at in zip(lines, places, strict=True):
        np.testing.assert_allclose(line.y, spectra.arrays["spectra"][at], rtol=1e-3)


def test_weights_have_their_depth_and_their_histograms(statistics: Result) -> None:
    found = figures(statistics)
    titles = [figure.title for figure in found]
    assert titles[:4] == [
        f"{name} with depth" for name in ("Frobenius norm", "Spectral norm", "Largest |w| over rms", "Excess kurtosis")
    ]
    assert [title.startswith("Histograms of ") for title in titles[4:]] == [True, True]
    rows = {row["name"]: row for row in statistics.rows if row["part"] == "weight"}
    lines = {trace.name: trace for trace in drawn(found[0]).data}
    assert len(lines) == 9
    expected = [rows[f"model.layers.{k}.mlp.up_proj.weight"]["frobenius"] for k in range(5)]
    np.testing.assert_allclose(lines["mlp.up_proj"].y, expected)
    for trace in drawn(found[4]).data:
        density = np.array([y or 0 for y in trace.y], dtype=float)
        assert density.sum() * (trace.x[1] - trace.x[0]) == pytest.approx(1, abs=0.01)


def test_several_models_show_the_first(model: sk.LoadedModel) -> None:
    both = [sk.Checkpoint.of(model), sk.Checkpoint.of(sk.load("tiny:gemma"))]
    for asked in (sk.HeadSpectra(null_draws=4, shuffles=99), sk.WeightStatistics(shuffles=99, spectra="none")):
        alone, together = (sk.measure(asked, subject, progress=False) for subject in (both[0], both))
        assert [f.to_dict() for f in figures(together)] == [f.to_dict() for f in figures(alone)]


def test_a_head_without_a_spectrum_is_a_gap(model: sk.LoadedModel) -> None:
    loaded = sk.load("tiny")
    loaded.model.get_parameter("model.layers.0.self_attn.v_proj.weight").data[:] = 0
    result = sk.measure(sk.HeadSpectra(null_draws=4, shuffles=99), sk.Checkpoint.of(loaded), progress=False)
    assert drawn(figures(result)[0]).data[0].z[0][list(drawn(figures(result)[0]).data[0].x).index("V 0")] is None
    described = sk.measure(sk.WeightStatistics(shuffles=99), sk.Checkpoint.of(loaded), progress=False)
    assert all(drawn(figure) for figure in figures(described))


def test_hostile_names_are_text(tmp_path) -> None:
    tensors = {f"<b>x.{k}.<b>w.attn": torch.randn(4, 6, generator=torch.Generator().manual_seed(k)) for k in range(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    result = sk.measure(sk.WeightStatistics(shuffles=99), sk.Checkpoint(tmp_path), progress=False)
    found = figures(result)
    assert any("&lt;b&gt;" in figure.title for figure in found)
    assert all("<b>" not in figure.caption + figure.title and drawn(figure) for figure in found)


def test_products_are_points_a_head_beside_the_null(model: sk.LoadedModel) -> None:
    result = sk.measure(sk.HeadProducts(null_draws=2, shuffles=9), sk.Checkpoint.of(model), progress=False)
    (figure,) = figures(result)
    qk, ov, null = drawn(figure).data
    rows = [row for row in result.rows if row["part"] == "head"]
    assert list(qk.y) == [float(f"{row['entropy_rank']:.3g}") for row in rows if row["matrix"] == "qk"]
    assert list(ov.y) == [float(f"{row['entropy_rank']:.3g}") for row in rows if row["matrix"] == "ov"]
    assert set(null.y) == {rows[0]["null_entropy_rank"]}
    bad = [
        {**row, "entropy_rank": value, "head": "<b>"}
        for row, value in zip(rows, (None, math.nan, -1.0, "<b>"), strict=False)
    ]
    (damaged,) = figures(Result(**{**vars(result), "rows": (*bad, *rows[4:])}))
    assert sum(len(trace.y) for trace in drawn(damaged).data[:2]) == len(rows) - 4
