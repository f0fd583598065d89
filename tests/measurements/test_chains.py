"""Chains against numpy in extended precision and dense decompositions; modules against their own weights."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.chains import BlockGain, MatmulChain, WeightGain
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.module_subject import ModuleSubject

PROMPT = "The capital of France is"


def values(result):
    return {name: reading.value for name, reading in result.readings.items()}


def product(chain):
    """W_depth ... W_1 in extended precision."""
    matrix = np.eye(len(chain.x0), dtype=np.longdouble)
    for W in chain.weights:
        matrix = W.double().numpy().astype(np.longdouble) @ matrix
    return matrix


# --- a chain of matrices


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chain_is_magnified_as_in_extended_precision(dtype, batch):
    asked = MatmulChain(depth=3, dim=16, epsilons=(0.5, 0.1, 1e-3, 1e-9), directions=2)
    chain = asked.subject(dtype, batch=batch)
    result = measure(asked, chain)
    P, x0 = product(chain), chain.x0
    for row in result.rows:
        d = torch.from_numpy(result.arrays["directions"][["v1", "random 0", "random 1"].index(row["direction"])])
        x = (x0.double() + row["epsilon"] * float(x0.double().norm()) * d).to(x0.dtype)
        dx = (x.double() - x0.double()).numpy()
        assert row["input_step"] == pytest.approx(float(np.linalg.norm(dx)), rel=1e-14)
        assert row["coords_moved"] == int((dx != 0).sum())
        if not dx.any():
            assert math.isnan(row["magnification_realised"])
            continue
        true = np.linalg.norm((P @ dx).astype(np.float64))
        assert row["magnification_true"] == pytest.approx(true / np.linalg.norm(dx), rel=1e-9)
        slot = row["slot"]
        X = chain.copies(batch)
        X[slot] = x
        dy = (chain.evaluate(X)[slot].double() - chain.baseline[slot].double()).numpy()
        assert row["output_jump"] == pytest.approx(float(np.linalg.norm(dy)), rel=1e-14)
        share = np.linalg.norm(dy - (P @ dx).astype(np.float64)) / true
        assert row["rounding_share"] == pytest.approx(share, rel=1e-6, abs=1e-9)
    found = values(result)
    assert found["spectral_norm"] == pytest.approx(np.linalg.svd(P.astype(float))[1][0], rel=1e-6)
    assert found["magnification_true"] <= found["spectral_norm"] * (1 + 1e-9)
    assert found["unchanged"] == sum(row["epsilon"] == 1e-9 for row in result.rows if not row["coords_moved"]) / 12
    stated = asked.cost(chain)
    assert result.execution.forwards <= stated.forwards <= 2 * result.execution.forwards
    assert result.execution.backwards + result.execution.tangents <= stated.backwards


def test_the_bound_of_a_float32_chain_holds_and_rounding_has_its_place():
    asked = MatmulChain(depth=12, dim=32)
    result = measure(asked, asked.subject(batch=16))
    found = values(result)
    shares = [row["rounding_share"] for row in result.rows]
    assert found["plateau_over_norm"] <= 1 + max(share for share in shares if share < 0.1)
    assert found["magnification_realised"] > 10 * found["spectral_norm"]
    assert 1e-7 < found["eps_rounding"] < 1e-2
    assert 0 < found["unchanged"] < 0.5


def test_the_same_recipe_is_the_same_chain_and_says_what_it_is():
    asked = MatmulChain(depth=2, dim=8, weight_scale=0.25, seed=5)
    one, other = asked.subject(), asked.subject(batch=4)
    assert all(bits_equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))
    assert bits_equal(one.x0, other.x0)
    assert one.describe()["weights_digest"] == other.describe()["weights_digest"]
    reseeded = MatmulChain(depth=2, dim=8, weight_scale=0.25, seed=6).subject()
    assert one.describe()["weights_digest"] != reseeded.describe()["weights_digest"]
    assert not bits_equal(one.x0, reseeded.x0)
    assert one.describe()["weight_scale"] == 0.25
    assert MatmulChain(depth=2, dim=64).subject().describe()["weight_scale"] == 1 / 8
    assert bits_equal(MatmulChain(depth=1, dim=8, seed=5).subject().x0, one.x0), "x0 does not depend on the depth"
    W = MatmulChain(depth=1, dim=256).subject().weights[0]
    assert float(W.std()) == pytest.approx(1 / 16, rel=0.02)
    assert one.with_batch(3).describe()["weights_digest"] == one.describe()["weights_digest"]
    assert one.with_batch(3).counter is one.counter
    y = one.weights[1].double() @ (one.weights[0].double() @ one.x0.double())
    assert torch.allclose(one.baseline[0].double(), y, rtol=1e-5)


def test_other_questions_are_asked_of_a_chain_too():
    chain = MatmulChain(depth=2, dim=8).subject()
    direction = torch.ones(8, dtype=torch.float64) / math.sqrt(8)
    assert measure(FirstChange(direction=direction), chain).readings["radius"].value > 0


def test_a_chain_is_asked_of_its_own_subject():
    asked = MatmulChain(depth=2, dim=8)
    with pytest.raises(UsageError, match=r"use its \.subject\(\)"):
        measure(asked, MatmulChain(depth=3, dim=8).subject())
    with pytest.raises(UsageError, match="asked of a Chain"):
        measure(asked, FunctionSubject(lambda X: X, torch.ones(8)))


def test_the_study_asks_for_its_own_numbers():
    study = MatmulChain.study()
    assert (study.depth, study.dim, study.weight_scale, study.unit, study.rule) == (12, 4096, 0.01, "abs", "p32")
    assert study.epsilons == pytest.approx(np.logspace(-6, -19, 14))


@pytest.mark.long
def test_the_studys_steps_hardly_move_its_input():
    """Its input in numpy: of a vector N(0, 1) of 4096 float32, a step of 1e-10 moves nothing."""
    chain = MatmulChain(depth=1, dim=4096).subject()
    asked = MatmulChain(depth=1, dim=4096, epsilons=MatmulChain.study().epsilons, unit="abs", rule="p32", directions=1)
    result = measure(asked, chain)
    rows = [row for row in result.rows if row["direction"] == "random 0"]
    d = torch.from_numpy(result.arrays["directions"][1]).float()
    moved = [int((chain.x0 + torch.tensor(eps).float() * d != chain.x0).sum()) for eps in asked.epsilons]
    assert [row["coords_moved"] for row in rows] == moved
    assert 500 < moved[0] < 1500
    assert moved[4:] == [0] * 10
    assert values(result)["unchanged"] >= 10 / 14


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"depth": 0}, "depth=0"),
        ({"dim": 2.0}, "dim=2.0"),
        ({"weight_scale": 0.0}, "weight_scale=0.0"),
        ({"epsilons": ()}, "epsilons="),
        ({"unit": "cm"}, "unit 'cm'"),
    ],
)
def test_bad_parameters_are_refused_at_once(how, says):
    with pytest.raises(UsageError, match=says):
        MatmulChain(**how)
    with pytest.raises(UsageError, match="float31"):
        MatmulChain(dim=4).subject("float31")


# --- modules of a model


@pytest.fixture(scope="module")
def subject():
    return CausalLMSubject(load("tiny"), PROMPT)


def weight_of(subject, name):
    return subject.model.get_submodule(name).weight.detach().double().numpy()


def test_a_weight_is_bounded_by_its_own_largest_singular_value(subject):
    result = measure(WeightGain(), subject)
    name = "model.layers.0.self_attn.q_proj"
    assert result.subject["module"] == name
    W, found = weight_of(subject, name), values(result)
    assert (result.subject["module_output"], result.subject["module_input"]) == W.shape
    assert found["spectral_norm"] == pytest.approx(np.linalg.svd(W)[1][0], rel=1e-6)
    assert found["magnification_true"] == pytest.approx(np.linalg.svd(W)[1][0], rel=1e-6)
    assert 1 - 1e-6 < found["plateau_over_norm"] < 1.1
    assert found["rounding_share"] < 1e-4
    assert result.execution.forwards <= WeightGain().cost(subject).forwards


def test_a_weight_is_measured_at_its_input_in_the_model(subject):
    """After the norm: the study gave it the raw embedding."""
    seen = []
    module = subject.model.get_submodule("model.layers.0.self_attn.q_proj")
    with torch.no_grad():
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1].clone()))
        subject.evaluate(subject.copies(1))
        handle.remove()
    result = measure(WeightGain(epsilons=(0.1,), directions=1), subject)
    assert np.array_equal(result.arrays["x0"], seen[0].double().numpy())
    assert not np.array_equal(result.arrays["x0"], subject.x0.double().numpy())
    (row,) = (row for row in result.rows if row["direction"] == "random 0")
    d = torch.from_numpy(result.arrays["directions"][1])
    x = (seen[0].double() + 0.1 * float(seen[0].double().norm()) * d).float()
    dx = x.double().numpy() - seen[0].double().numpy()
    W = weight_of(subject, "model.layers.0.self_attn.q_proj")
    assert row["magnification_true"] == pytest.approx(np.linalg.norm(W @ dx) / np.linalg.norm(dx), rel=1e-9)


@pytest.mark.parametrize("given", ["model.layers.1.mlp.down_proj", "model.layers.1.mlp.down_proj.weight"])
def test_a_weight_may_be_named_with_and_without_its_ending(subject, given):
    result = measure(WeightGain(given, epsilons=(0.1,), directions=1), subject)
    assert result.subject["module"] == "model.layers.1.mlp.down_proj"
    W = weight_of(subject, "model.layers.1.mlp.down_proj")
    assert values(result)["spectral_norm"] == pytest.approx(np.linalg.svd(W)[1][0], rel=1e-6)


def test_a_module_without_a_matrix_or_without_existence_is_refused(subject):
    with pytest.raises(UsageError, match="no weight matrix of its own; BlockGain"):
        measure(WeightGain("model.layers.0.input_layernorm"), subject)
    with pytest.raises(UsageError, match=r"no module 'model\.layers\.9\.mlp'"):
        measure(BlockGain("model.layers.9.mlp"), subject)
    with pytest.raises(UsageError, match="asked of a CausalLMSubject"):
        measure(WeightGain(), MatmulChain(depth=1, dim=4).subject())


@pytest.mark.parametrize("module", [None, "model.layers.0", "model.layers.1.self_attn"])
def test_a_block_is_magnified_as_its_dense_jacobian_says(subject, module):
    result = measure(BlockGain(module), subject)
    name = module or "model.layers.0.mlp"
    assert result.subject["module"] == name
    twin = ModuleSubject(subject, name).in_float64()
    J = torch.autograd.functional.jacobian(lambda x: twin.forward(x[None])[0], twin.x0).numpy()
    found = values(result)
    assert found["spectral_norm"] == pytest.approx(np.linalg.svd(J)[1][0], rel=1e-6)
    small = [row for row in result.rows if row["epsilon"] == 1e-4]
    for row, d in zip(small, result.arrays["directions"], strict=True):
        assert row["magnification_true"] == pytest.approx(np.linalg.norm(J @ d), rel=1e-2)
    assert found["plateau_over_norm"] < 1.1


def test_a_batch_of_modules_is_compared_slot_by_slot():
    batched = CausalLMSubject(load("tiny"), PROMPT, batch=3)
    result = measure(BlockGain(epsilons=(0.1, 0.01), directions=1), batched)
    assert [row["slot"] for row in result.rows] == [0, 1, 2, 0]
    assert all(row["rounding_share"] < 1e-3 for row in result.rows)


@pytest.mark.parametrize(
    ("family", "weight", "part"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn", "transformer.h.0.mlp"),
        ("llama", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp"),
    ],
)
def test_the_defaults_are_found_by_structure(family, weight, part):
    subject = CausalLMSubject(load(f"tiny:{family}"), PROMPT)
    assert WeightGain().name_in(subject) == weight
    assert BlockGain().name_in(subject) == part


def test_a_block_without_two_parts_is_taken_whole():
    subject = CausalLMSubject(load("tiny:opt"), PROMPT)
    assert BlockGain().name_in(subject) == subject.anatomy.block_names[0]
