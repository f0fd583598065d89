"""Spectra of heads and components of a prediction on another CPU setting: equal to a stated bound."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stabilitykit as sk

PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
"""The plainest instructions that torch and its matrix library have on an x86 machine."""

STORE = "import sys; sys.path.insert(0, sys.argv[1]); from test_readout_elsewhere import store; store(*sys.argv[2:])"


def store(spec, path):
    """Write what this process finds."""
    loaded = sk.load(spec)
    asked = sk.HeadSpectra(null_draws=1, shuffles=1)  # what is compared needs neither
    spectra = sk.measure(asked, sk.Checkpoint.of(loaded), progress=False).arrays["spectra"]
    rows = sk.measure(sk.PredictionSpread(["To be or"]), loaded, progress=False).rows
    counts = [[row["k_first"], row["k_stay"], row["line_margin"]] for row in rows if row["part"] == "components"]
    tops = [[row["position"], row["rank"], row["token_id"]] for row in rows if row["part"] == "top"]
    np.savez(path, spectra=spectra, counts=np.array(counts), tops=np.array(tops))


def stored(path):
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def elsewhere(spec, path):
    command = [sys.executable, "-c", STORE, str(Path(__file__).parent), spec, str(path)]
    subprocess.run(command, check=True, env={**os.environ, **PLAIN}, timeout=300)
    return stored(path)


def within(s, t):
    """|ds_i| <= 16 eps s_1^2 / s_i in float64: Weyl's bound on the Gram matrix, whose roots the values are.

    It implies 16 eps s_1 of float32, the bound of a decomposition in that dtype, for all s_i above 1e-8 s_1.
    """
    bound = 16 * np.finfo(np.float64).eps * s[:, :1] ** 2 / np.maximum(s, 1e-300)
    return bool((np.abs(s - t) <= bound).all() and (np.abs(s - t) <= 16 * np.finfo(np.float32).eps * s[:, :1]).all())


@pytest.mark.parametrize("spec", ["tiny", pytest.param("smollm2", marks=[pytest.mark.model, pytest.mark.long])])
def test_spectra_and_counts_are_those_of_another_cpu_setting(spec, tmp_path):
    store(spec, tmp_path / "here.npz")
    here, plain = stored(tmp_path / "here.npz"), elsewhere(spec, tmp_path / "plain.npz")
    assert within(here["spectra"], plain["spectra"])
    assert np.array_equal(here["tops"], plain["tops"])
    for (first, stay, margin), (other, kept, _) in zip(here["counts"], plain["counts"], strict=True):
        assert margin > 1e-6  # nearer to the line, a count may move
        assert (first, stay) == (other, kept)


def test_another_weight_is_outside_the_bound():
    """The control: one element of one head moved by a thousandth of its size, and the spectra of two models."""
    loaded = sk.load("tiny")
    before = sk.measure(sk.HeadSpectra(null_draws=1, shuffles=1), sk.Checkpoint.of(loaded), progress=False)
    weight = loaded.model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[0, 0] *= 1.001
    after = sk.measure(
        sk.HeadSpectra(null_draws=1, shuffles=1), sk.Checkpoint.of(sk.adopt(loaded.model)), progress=False
    )
    assert within(before.arrays["spectra"], before.arrays["spectra"])
    assert not within(before.arrays["spectra"], after.arrays["spectra"])
