"""Singular defects of models with layer norms and two-matrix layers, in sequence and side by side."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.defective import BLOCKS, DECAYS, EXPLODES, STEP, TRIGGERS, WRITTEN
from oracles.defective_plain import PARALLEL, PLAIN, defective_plain

import stabilitykit as sk
from stabilitykit.measurements.projected_out import projected_values
from stabilitykit.numerics.acute import acute_angle
from stabilitykit.subjects.residual_block import ResidualBlocks
from stabilitykit.subjects.tiny import tiny

TEXTS = ("ab,cd", "efg.h", "ijk")


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


@pytest.fixture(scope="module", params=PLAIN)
def planted(request):
    model = defective_plain(request.param)
    how = sk.SingularDefects(TEXTS, tokens=258, eigenpairs=True)
    return request.param, model, sk.measure(how, model, progress=False)


def test_the_planted_blocks_direction_and_tokens_are_found(planted):
    _, _, result = planted
    layers = part(result, "layer")
    assert [row["role"] for row in layers] == [
        "explosion" if k == EXPLODES else "decay" if k == DECAYS else "" for k in range(BLOCKS)
    ]
    assert result.readings["dominant_coordinate"].value == WRITTEN
    assert layers[EXPLODES]["angle"] < 10 > layers[DECAYS]["angle"]
    assert result.readings["other_angle"].value > 60
    for way in ("initial", "second", "unattended"):
        exploding = {row["token_id"] for row in part(result, "pathway") if row[f"explodes_{way}"]}
        assert exploding == TRIGGERS, way


def test_the_decay_is_negative_by_weights_and_in_truth(planted):
    _, _, result = planted
    decay, explosion = part(result, "layer")[DECAYS], part(result, "layer")[EXPLODES]
    assert decay["rayleigh"] < -1
    assert decay["step"] == pytest.approx(-0.8 * STEP, rel=0.02)
    assert explosion["step"] > 0.9 * STEP / 2
    first, *rest = part(result, "right vector")
    assert first["output_plus"] == pytest.approx(STEP, rel=0.03)
    assert max(max(row["output_plus"], row["output_minus"]) for row in rest) < STEP / 5


def test_layers_are_those_of_dense_algebra(planted):
    """I + F + A where branches stand side by side, (I + F)(I + A) where one follows the other."""
    family, model, result = planted
    blocks, u = ResidualBlocks(model), torch.from_numpy(result.arrays["direction"])
    one = torch.eye(64, dtype=torch.float64)
    centre = one - 1 / 64
    for row in part(result, "layer"):
        block = blocks.block(row["block"])
        A = block.attention.output @ block.attention.value @ torch.diag(block.norms[0].gain) @ centre
        F = block.fed().dense()
        L = one + F + A if family in PARALLEL else (one + F) @ (one + A)
        U, sigma, _ = torch.linalg.svd(L)
        assert (row["s1"], row["s2"]) == pytest.approx(sigma[:2].tolist(), rel=1e-4)
        assert row["angle"] == pytest.approx(acute_angle(U[:, 0], u), abs=row["direction_bound_deg"] + 1e-6)
        assert row["rayleigh"] == pytest.approx(float(u @ (A + F) @ u), rel=1e-9, abs=1e-12)
        cross = 0.0 if family in PARALLEL else float(u @ F @ A @ u)
        assert row["rayleigh_cross"] == pytest.approx(cross, rel=1e-9, abs=1e-12)


def test_the_down_projections_to_keep_are_the_planted_ones(planted):
    rows = part(planted[2], "down projection")
    assert {row["block"] for row in rows if row["keep"]} == {EXPLODES, DECAYS}
    assert rows[EXPLODES]["error"] > max(row["error"] for row in rows if not row["keep"])


def test_the_errors_of_kept_and_of_other_projections_are_medians_of_theirs(planted):
    rows = part(planted[2], "down projection")
    kept, other = ([row["error"] for row in rows if bool(row["keep"]) == keep] for keep in (True, False))
    assert planted[2].readings["kept_error"].value == np.median(kept) > np.median(other)
    assert planted[2].readings["other_error"].value == np.median(other)


def test_three_forwards_a_text_are_counted_as_three_calls(planted):
    model = planted[1]
    blocks = ResidualBlocks(model)
    block, before = blocks.block(EXPLODES), replace(model.counter)
    projected_values(blocks, block, torch.eye(64, dtype=torch.float64)[:2], [[1, 2], [3, 4, 5]])
    assert (model.counter.forwards - before.forwards, model.counter.calls - before.calls) == (6, 6)


def test_the_longest_state_is_looked_for_behind_blocks_and_not_before_them():
    """Embeddings are longest where every block hands on a hundredth of its state."""
    model = sk.load("tiny")
    blocks = ResidualBlocks(model)
    block = blocks.block(0)
    for layer in blocks.anatomy.blocks:
        layer.register_forward_hook(lambda _module, _given, state: state / 100)
    found = projected_values(blocks, block, torch.eye(64, dtype=torch.float64)[:2], [[1, 2]])
    assert 0 < found["projected_norm"] < float(model.model.get_input_embeddings().weight[[1, 2]].norm(dim=1).max()) / 9


@pytest.mark.parametrize("family", PLAIN)
def test_a_twin_without_decay_has_none_and_a_random_one_no_long_tokens(family):
    twin = sk.measure(sk.SingularDefects(TEXTS, tokens=4), defective_plain(family, decay=False), progress=False)
    assert math.isnan(twin.readings["decay_block"].value)
    random = sk.adopt(tiny(family, num_hidden_layers=BLOCKS), sk.load("tiny").tokenizer)
    with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
        sk.measure(sk.SingularDefects(TEXTS, tokens=4), random, progress=False)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_mixture_says_why_it_has_no_map(family):
    with pytest.raises(sk.UnsupportedError, match="which of its experts compute depends on the token"):
        sk.measure(sk.SingularDefects(TEXTS, tokens=4, tau=1e-3), sk.load(f"tiny:{family}"), progress=False)
