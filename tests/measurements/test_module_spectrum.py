"""Spectra of parts: dense linear algebra beside the kit, and what cannot be isolated."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements import parts
from stabilitykit.subjects import module_subject

IDS = list(b"The capital of France is")


def value(result, name):
    return result.readings[name].value


def matrix(seed, size=8):
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).float()


def rows_of(result, part):
    return [row for row in result.rows if row["part"] == part]


def measured(subject, **fields):
    return sk.measure(sk.ModuleSpectrum(tolerance=1e-8, max_products=60, **fields), subject)


def test_a_chain_of_matrices_has_the_norms_of_dense_algebra(toys):
    """Three matrices and a diagonal norm: sigma, alignment, observed gain, bound and looseness in closed form."""
    A, gains = [matrix(seed) for seed in (1, 2, 3)], torch.linspace(0.5, 2, 8)
    subject = toys.subject([toys.Matrix(a) for a in A], norm=toys.Times(gains))
    result = measured(subject)
    factors = [*(a.double() for a in A), torch.diag(gains).double()]
    whole = torch.linalg.multi_dot(factors[::-1])
    sigma, v1 = float(torch.linalg.svdvals(whole)[0]), torch.linalg.svd(whole).Vh[0]
    sigmas, alignments, w = [], [], v1
    rows = [*rows_of(result, "block"), *rows_of(result, "final_norm")]
    for row, factor in zip(rows, factors, strict=True):
        _, S, Vh = torch.linalg.svd(factor)
        assert row["sigma_1"] == pytest.approx(float(S[0]), rel=1e-5)
        assert row["residual_1"] < 1e-4
        assert row["gain_observed"] == pytest.approx(float((factor @ w).norm() / w.norm()), rel=1e-4)
        assert row["alignment"] == pytest.approx(abs(float(w @ Vh[0] / w.norm())), abs=1e-4)
        sigmas.append(float(S[0]))
        alignments.append(abs(float(w @ Vh[0] / w.norm())))
        w = factor @ w
    assert value(result, "sigma_1") == pytest.approx(sigma, rel=1e-5)
    assert value(result, "sigma_1_block") == pytest.approx(max(sigmas[:3]), rel=1e-5)
    assert result.readings["sigma_1_block"].place["block"] == str(int(np.argmax(sigmas[:3])))
    assert value(result, "chain_bound") == pytest.approx(math.prod(sigmas), rel=1e-4)
    assert value(result, "looseness") == pytest.approx(math.prod(sigmas) / sigma, rel=1e-4)
    assert value(result, "looseness") > 1.1
    assert value(result, "chain_defect") < 1e-5
    assert value(result, "alignment") == pytest.approx(np.median(alignments[:3]), abs=1e-4)
    ratios = [row["gain_observed"] / row["sigma_1"] for row in rows]
    assert value(result, "gain_over_sigma") == max(ratios) <= 1 + 1e-5
    assert value(result, "parts") == 4
    assert value(result, "unsupported") == 3  # a matrix has no branches
    for name in ("sigma_1", "gain_observed", "alignment", "share"):
        np.testing.assert_array_equal(result.arrays[name][1:], [row[name] for row in rows])
    assert result.arrays["parts"].tolist() == ["embed", *(f"model.layers.{k}" for k in range(3)), "model.norm"]


@pytest.mark.parametrize("site", ["block:1", "pre_norm", "post_norm"])
def test_the_chain_ends_at_the_subjects_site(toys, site):
    A = [matrix(seed) for seed in (4, 5, 6)]
    subject = toys.subject([toys.Matrix(a) for a in A], norm=toys.Times(16.0), site=site)
    count, factor = {"block:1": (2, 1), "pre_norm": (3, 1), "post_norm": (3, 16)}[site]
    whole = factor * torch.linalg.multi_dot([a.double() for a in A[:count]][::-1])
    bound = factor * math.prod(float(torch.linalg.svdvals(a.double())[0]) for a in A[:count])
    result = measured(subject, inside=0)
    assert value(result, "sigma_1") == pytest.approx(float(torch.linalg.svdvals(whole)[0]), rel=1e-5)
    assert value(result, "chain_bound") == pytest.approx(bound, rel=1e-4)
    largest = max(float(torch.linalg.svdvals(a.double())[0]) for a in A)
    assert value(result, "sigma_1_block") == pytest.approx(largest, rel=1e-5)  # the norm's 16 is not a block's


def test_what_comes_before_block_0_is_in_the_bound(toys):
    A = matrix(7)
    subject = toys.subject([toys.Times(1.0)], before=toys.Matrix(A))
    bound = float(torch.linalg.svdvals(A.double())[0])
    assert value(measured(subject, inside=0), "chain_bound") == pytest.approx(bound, rel=1e-4)


def test_branches_and_norms_are_taken_apart(toys):
    """Branch and identity plus branch against the dense Jacobian, the norm against its bound."""
    A, weight = matrix(8), torch.linspace(-3, 2, 8)
    subject = toys.subject([toys.Residual(toys.Matrix(A), toys.RMSNorm(weight), scale=0.5), toys.Times(2.0)])
    result = measured(subject, inside=1)
    x = subject.x0.double()

    def branch(x):
        return 0.5 * A.double() @ (weight.double() * x / (x.square().mean() + 1e-6).sqrt())

    J = torch.autograd.functional.jacobian(branch, x)
    (row,) = rows_of(result, "branch")
    assert row["module"] == "model.layers.0.norm > model.layers.0.mlp"
    assert (row["label"], row["block"]) == ("norm", 0)  # the heaviest of the two: a norm has weights, this map a buffer
    assert row["scale"] == pytest.approx(0.5)
    assert row["sigma_1"] == pytest.approx(float(torch.linalg.svdvals(J)[0]), rel=1e-5)
    eye = torch.eye(8, dtype=torch.float64)
    assert row["sigma_1_residual"] == pytest.approx(float(torch.linalg.svdvals(eye + J)[0]), rel=1e-5)
    assert value(result, "sigma_1_branch") == row["sigma_1"]
    whole = eye + J
    v1 = torch.linalg.svd(2 * whole).Vh[0]
    assert row["gain_observed"] == pytest.approx(float((J @ v1).norm()), rel=1e-4)
    (norm,) = rows_of(result, "norm")
    bound = 3 / float((x.square().mean() + 1e-6).sqrt())
    assert norm["bound"] == pytest.approx(bound, rel=1e-6)
    assert 0.5 < value(result, "norm_ratio") == norm["sigma_1"] / norm["bound"] <= 1 + 1e-6
    assert result.readings["norm_ratio"].place["module"] == "model.layers.0.norm"
    assert [row["module"] for row in rows_of(result, "branches")] == []  # block 1 was not opened
    assert value(result, "unsupported") == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_block_is_its_dense_jacobian(family):
    """Against autograd through the float64 block alone, its other tokens held."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS)
    result = measured(subject, block=1, inside=0)
    twin = sk.ModuleSubject(subject, subject.anatomy.block_names[1]).in_float64()
    J = torch.autograd.functional.jacobian(lambda x: twin.forward(x[None])[0], twin.x0)
    assert rows_of(result, "block")[0]["sigma_1"] == pytest.approx(float(torch.linalg.svdvals(J)[0]), rel=1e-4)
    assert math.isnan(value(result, "chain_bound"))
    assert result.subject["chain"] == f"{subject.anatomy.block_names[0]} has no sigma_1"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mamba", "gpt_oss", "opt", "granite"])
def test_every_architecture_is_measured_or_named(family):
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS)
    result = sk.measure(sk.ModuleSpectrum(inside=1, replace=False), subject)
    sigma = value(result, "sigma_1")
    assert value(result, "chain_defect") < 1e-4
    assert value(result, "chain_bound") >= sigma * (1 - 1e-3)
    assert value(result, "gain_over_sigma") <= 1 + 1e-3
    assert value(result, "norm_ratio") == pytest.approx(1, abs=0.05)
    assert value(result, "remainder") == pytest.approx(0, abs=1e-4)
    closed = [row for row in result.rows if row["verdict"] == "unsupported"]
    assert [row["part"] for row in closed] == (["branches"] if family == "bloom" else [])
    assert all(row["reason"] for row in closed)


def test_a_model_that_reads_its_input_again_has_no_chain(toys):
    keep = toys.Keep()
    subject = toys.subject([toys.Matrix(matrix(9)), toys.Reread(keep)], before=keep)
    result = measured(subject, inside=0)
    assert math.isnan(value(result, "chain_bound"))
    assert math.isnan(value(result, "looseness"))
    assert result.subject["chain"] == "the blocks one after another are not the model"
    narrow = sk.CausalLMSubject(sk.load("tiny:zamba2", dtype="bfloat16"), IDS)
    assert math.isnan(value(sk.measure(sk.ModuleSpectrum(inside=0, replace=False), narrow), "chain_bound"))


def test_a_block_that_reads_an_earlier_block_again_breaks_the_chain(toys):
    """The swap proof of block 0 does not see it; the product of the parts along v_1 does."""
    keep = toys.Keep()
    subject = toys.subject([toys.Matrix(matrix(12)), keep, toys.Matrix(matrix(13)), toys.Reread(keep)])
    assert subject.screens
    result = measured(subject, inside=0)
    assert value(result, "chain_defect") > 0.01
    assert math.isnan(value(result, "chain_bound"))


def test_the_part_that_rounds_has_the_share(toys):
    subject = toys.subject([toys.Times(2.0), toys.Coarse(3.0), toys.Times(2.0)])
    result = measured(subject, inside=0)
    shares = [row["share"] for row in result.rows]
    assert shares == pytest.approx([0, 0, 1, 0, 0], abs=1e-6)
    assert value(result, "top_share") == pytest.approx(1)
    assert result.readings["top_share"].place["module"] == "model.layers.1"
    assert value(result, "remainder") == pytest.approx(0, abs=1e-6)
    assert value(result, "top_removed") == pytest.approx(1, abs=1e-4)
    assert result.readings["top_removed"].place["block"] == "1"
    assert value(result, "forward_error") > 1e-4
    assert "is that of model.layers.1" in result.sentence
    one = measured(subject, block=2, inside=0)
    assert value(one, "remainder") == pytest.approx(1, abs=1e-6)


def test_named_modules_are_measured_and_nested_ones_shared_once(toys):
    A = matrix(10)
    subject = toys.subject([toys.Residual(toys.Matrix(A), toys.Coarse()), toys.Times(2.0)])
    names = ("model.layers.0", "model.layers.0.mlp", "model.layers.0.norm", "lm_head", "model.layers")
    result = measured(subject, modules=names)
    rows = {row["module"]: row for row in result.rows}
    assert rows["model.layers.0.mlp"]["sigma_1"] == pytest.approx(float(torch.linalg.svdvals(A.double())[0]), rel=1e-5)
    assert value(result, "sigma_1_part") == max(row["sigma_1"] for row in result.rows if row["sigma_1"] > 0)
    assert rows["model.layers.0"]["share"] == pytest.approx(1, abs=1e-3)
    assert value(result, "remainder") == pytest.approx(1 - rows["model.layers.0"]["share"], abs=1e-9)
    assert rows["model.layers"]["verdict"] == "unsupported"
    assert "run 0 times" in rows["model.layers"]["reason"]
    assert rows["model.layers.0.mlp"]["label"] == "mlp"
    assert rows["lm_head"]["block"] is None
    with pytest.raises(UsageError, match="no module 'nowhere'"):
        measured(subject, modules=("nowhere",))


def test_without_true_float64_the_spectra_remain(toys, monkeypatch):
    subject = toys.subject([toys.Residual(toys.Matrix(matrix(11)))])

    def refuse(self):
        raise UnsupportedError("no memory for a copy")

    monkeypatch.setattr(sk.CausalLMSubject, "in_float64", refuse)
    result = measured(subject)
    assert result.subject["oracle"] == "no memory for a copy"
    assert value(result, "sigma_1_block") > 0
    assert value(result, "chain_bound") > 0
    assert all(math.isnan(value(result, name)) for name in ("top_share", "remainder", "forward_error", "alignment"))
    assert [row["reason"] for row in rows_of(result, "branches")] == ["there is no true float64 to find them in"]


def test_a_module_that_drops_derivatives_is_a_row_with_its_reason(toys):
    class Table(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.detach().double().numpy().round(3)).to(x)

    subject = toys.subject([toys.Times(2.0), toys.Times(2.0)])
    subject.model.model.layers[1].register_module("lost", Table())
    result = measured(subject, modules=("model.layers.1.lost", "model.layers.0"))
    lost, kept = rows_of(result, "module")
    assert lost["verdict"] == "unsupported"
    assert kept["sigma_1"] == pytest.approx(2)
    assert value(result, "unsupported") == 1


def test_a_module_that_needs_the_rest_of_its_model_is_a_row_with_its_reason(toys):
    class Leaning(nn.Module):
        def forward(self, x):
            return x * self.gain

    class Lending(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Leaning()

        def forward(self, x):
            self.inner.gain = 3.0
            y = self.inner(x)
            del self.inner.gain
            return y

    subject = toys.subject([Lending()])
    result = measured(subject, modules=("model.layers.0.inner", "model.layers.0"))
    lost, kept = rows_of(result, "module")
    assert "cannot be run alone" in lost["reason"]
    assert kept["sigma_1"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": -1}, "block"),
        ({"block": 1.5}, "block"),
        ({"modules": "model.norm"}, "tuple"),
        ({"modules": ("model.norm",), "block": 1}, "not both"),
        ({"inside": -1}, "inside"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_products": 3}, "max_products"),
    ],
)
def test_impossible_parameters_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        sk.ModuleSpectrum(**fields)


def test_a_bare_function_is_unsupported_and_a_block_too_many_refused(toys):
    with pytest.raises(UnsupportedError, match="no modules with names"):
        sk.measure(sk.ModuleSpectrum(), sk.FunctionSubject(lambda X: X, torch.ones(3)))
    with pytest.raises(UsageError, match="blocks 0 to 0"):
        measured(toys.subject([toys.Times(1.0)]), block=1)


def test_blocks_are_opened_from_first_to_last(toys):
    subject = toys.subject([toys.Residual(toys.Matrix(matrix(k))) for k in range(5)], batch=2)
    result = sk.measure(sk.ModuleSpectrum(inside=3, replace=False), subject)
    assert [row["block"] for row in rows_of(result, "branch")] == [0, 2, 4]
    asked = sk.ModuleSpectrum(inside=3)
    assert sk.measure(asked, subject).execution.forwards <= asked.cost(subject).forwards
    assert asked.cost(subject.with_batch(6)).forwards - asked.cost(subject).forwards == 3 * 4


def test_all_modules_are_recorded_in_one_forward(monkeypatch):
    asked, real = [], module_subject.calls_of

    def counted(parent, names, batch):
        asked.append(list(names))
        return real(parent, names, batch)

    monkeypatch.setattr(parts, "calls_of", counted)
    monkeypatch.setattr(module_subject, "calls_of", counted)
    result = measured(sk.CausalLMSubject(sk.load("tiny"), IDS), inside=1)
    isolated = {name for row in result.rows for name in row["module"].split(" > ") if row["verdict"] == "measured"}
    assert [set(names) for names in asked] == [isolated - {"embed"}]
