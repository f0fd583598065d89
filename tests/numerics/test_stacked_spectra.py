"""Spectra of stacks against dense decompositions, and ratios of spectra that are known."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics import stacked_spectra
from stabilitykit.numerics.stacked_spectra import _BATCH, null, product_values, ratios, rounding_floor, singular_values


def normal(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@pytest.mark.parametrize("shape", [(3, 5, 9), (4, 9, 5), (2, 1, 7), (2, 7, 1), (1, 6, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_of_a_dense_decomposition(shape, dtype):
    A = torch.from_numpy(normal(*shape)).to(dtype)
    expected = np.linalg.svd(A.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(A), expected, rtol=1e-12)


def test_small_values_keep_their_digits():
    """From 1 down to 1e-12: far below what a Gram matrix can hold."""
    U, _ = np.linalg.qr(normal(8, 8))
    V, _ = np.linalg.qr(normal(20, 8, seed=1))
    s = 10.0 ** -np.arange(0, 16, 2)[:8]
    A = (U * s) @ V.T
    found = singular_values(torch.from_numpy(np.stack([A, normal(8, 20)])))
    np.testing.assert_allclose(found[0], np.linalg.svd(A, compute_uv=False), rtol=1e-3, atol=1e-16)
    np.testing.assert_allclose(found[0][:7], s[:7], rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_no_square_leaves_the_range(scale):
    A = normal(2, 4, 6)
    np.testing.assert_allclose(
        singular_values(torch.from_numpy(A * scale)) / scale, np.linalg.svd(A, compute_uv=False), rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_zero_among_large_or_small_elements_lets_no_square_leave_the_range(scale):
    A = torch.diag(torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64))[None]
    np.testing.assert_allclose(singular_values(scale * A), scale * np.array([[4.0, 3.0, 2.0]]), rtol=1e-12)


def test_large_stacks_are_cut_into_batches(monkeypatch):
    widened, eigvalsh = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda A: widened.append(len(A)) or eigvalsh(A))
    A = torch.from_numpy(normal(9, 4, _BATCH // 16)).float()
    np.testing.assert_allclose(singular_values(A)[8], np.linalg.svd(A[8].double(), compute_uv=False), rtol=1e-12)
    assert widened == [4, 4, 1], "as many matrices at a time as have 2^22 elements"


def test_exact_relations():
    A = torch.from_numpy(normal(6, 12, 40))
    s = singular_values(A)
    np.testing.assert_allclose((s**2).sum(axis=1), (A**2).sum(dim=(1, 2)).numpy(), rtol=1e-12)
    whole = singular_values(A.reshape(1, 72, 40))[0]
    assert s[:, 0].max() <= whole[0] <= math.sqrt((s[:, 0] ** 2).sum())
    turned = torch.linalg.qr(torch.from_numpy(normal(12, 12, seed=3))).Q @ A
    np.testing.assert_allclose(singular_values(turned), s, rtol=1e-10)
    np.testing.assert_allclose(singular_values(A.mT), s, rtol=1e-12)
    scaled = singular_values(-3 * A)
    np.testing.assert_allclose(scaled, 3 * s, rtol=1e-12)
    for name, values in ratios(scaled).items():
        np.testing.assert_allclose(values, ratios(s)[name], rtol=1e-12)
    found = ratios(s)
    assert (found["top10"] >= 10 / 12).all()
    assert (found["least10"] <= 10 / 12).all()
    assert (found["first_last"] >= 1).all()
    for name in ("stable_rank", "entropy_rank"):
        assert ((found[name] >= 1) & (found[name] <= 12)).all()


def test_ratios_of_known_spectra():
    flat, one, steps = np.ones(20), np.r_[5.0, np.zeros(19)], np.arange(20.0, 0, -1)
    found = {name: values.tolist() for name, values in ratios(np.stack([flat, one, steps, np.zeros(20)])).items()}
    assert found["top10"][:3] == [0.5, 1.0, 155 / 210]
    assert found["least10"][:3] == [0.5, 0.0, 55 / 210]
    assert found["top_tenth"][:3] == [0.1, 1.0, 39 / 210]
    assert found["least_tenth"][:3] == [0.1, 0.0, 3 / 210]
    assert found["first_last"][:3] == [1.0, math.inf, 20.0]
    assert found["stable_rank"][:3] == [20.0, 1.0, 2870 / 400]
    p = steps**2 / 2870
    assert found["entropy_rank"][:3] == pytest.approx([20.0, 1.0, math.exp(-(p * np.log(p)).sum())], rel=1e-12)
    assert all(math.isnan(values[3]) for values in found.values())


@pytest.mark.parametrize(
    ("shape", "top10", "first_last", "least10"),
    [((64, 576), 0.198, 1.96, 0.117), ((64, 2048), 0.177, 1.41, 0.136), ((128, 2048), 0.095, 1.65, 0.062)],
)
def test_null_values(shape, top10, first_last, least10):
    """Those that an independent program gave; First/Last is also (sqrt d + sqrt r) / (sqrt d - sqrt r), nearly."""
    means, spectrum = null(shape, 8)
    assert means["top10"] == pytest.approx(top10, rel=0.01)
    assert means["first_last"] == pytest.approx(first_last, rel=0.02)
    assert means["least10"] == pytest.approx(least10, rel=0.02)
    r, d = (math.sqrt(side) for side in shape)
    assert means["first_last"] == pytest.approx((d + r) / (d - r), rel=0.05)
    assert len(spectrum) == shape[0]
    assert (spectrum**2).sum() == pytest.approx(1, rel=1e-3)
    assert null(shape, 8, seed=1)[0] != means


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_spectrum(bad):
    A = torch.from_numpy(normal(3, 4, 5))
    A[1, 2, 3] = bad
    with pytest.raises(InvalidError, match="weight 'w' holds a NaN or an infinity"):
        singular_values(A, "weight 'w'")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_floor_lies_between_rounding_and_full_rank(dtype):
    """A product of rank 20 in 24 dimensions, rounded, has its last value below; Gaussian elements have it above."""
    low = torch.from_numpy(normal(50, 24, 20) @ normal(50, 20, 96, seed=1)).to(dtype)
    full = torch.from_numpy(normal(50, 24, 96, seed=2)).to(dtype)
    for stack, deficient in ((low, True), (full, False)):
        s = singular_values(stack)
        assert ((s[:, -1] <= rounding_floor(s, (24, 96), torch.finfo(dtype).eps)) == deficient).all()


def test_only_an_ill_conditioned_matrix_is_decomposed(monkeypatch):
    """Its product with itself costs a fraction of a decomposition, and has the digits where s_n is above 1e-6 s_1."""
    decomposed = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda A: decomposed.append(len(A)) or svdvals(A))
    stack = torch.diag_embed(torch.tensor([[1.0, 1.5e-6], [1.0, 0.5e-6], [3e8, 1e3]], dtype=torch.float64))
    assert singular_values(stack) == pytest.approx(np.array([[1, 1.5e-6], [1, 0.5e-6], [3e8, 1e3]]), rel=1e-4)
    assert decomposed == [1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 72, 4 * 9 * 7, 2**22])
def test_values_of_products_are_those_of_the_whole_matrices(dtype, at_once, monkeypatch):
    """Also where only some of the products fit into the memory that is allowed, down to one at a time."""
    monkeypatch.setattr(stacked_spectra, "_BATCH", at_once)
    reduced, qr = [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda X, mode: reduced.append(len(X)) or qr(X, mode=mode))
    left, right = (torch.from_numpy(normal(5, 4, d, seed=d)).to(dtype) for d in (9, 7))
    whole = left.double().mT @ right.double()
    expected = np.linalg.svd(whole.numpy(), compute_uv=False)[:, :4]
    np.testing.assert_allclose(product_values(left, right), expected, rtol=1e-12)
    each = {1: [1] * 5, 72: [2, 2, 1]}.get(at_once, [5])
    assert reduced == [size for size in each for _ in "LR"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_product_of_what_is_not_finite_is_refused(bad, side):
    factors = [torch.ones(2, 3, 4), torch.ones(2, 3, 5)]
    factors[side][1, 2, 3] = bad
    with pytest.raises(InvalidError, match=r"^the heads holds a NaN or an infinity"):
        product_values(*factors, "the heads")


def test_a_null_is_the_mean_over_so_many_matrices_of_its_seed():
    random = np.random.Generator(np.random.PCG64((7, 3, 5)))
    spectra = np.stack([np.linalg.svd(random.standard_normal((3, 5)), compute_uv=False) for _ in range(2)])
    means, spectrum = null((3, 5), 2, 7)
    assert means == pytest.approx({name: values.mean() for name, values in ratios(spectra).items()}, rel=1e-12)
    assert spectrum == pytest.approx(
        np.mean(spectra / np.linalg.norm(spectra, axis=1, keepdims=True), axis=0), rel=1e-12
    )


def test_the_floor_is_that_of_the_elements_themselves():
    A = normal(6, 10)
    s = np.linalg.svd(A, compute_uv=False)[None]
    expected = 2.0**-8 / 2 * np.sqrt((A**2).mean()) * (math.sqrt(6) + math.sqrt(10))
    assert rounding_floor(s, (6, 10), 2.0**-8) == pytest.approx([expected], rel=1e-12)


def test_no_more_than_the_elements_that_are_stated_are_widened_at_a_time(monkeypatch):
    """Eight matrices that together have 2^23 elements go in two parts of 2^22 each."""
    widened, eigvalsh = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda A: widened.append(len(A)) or eigvalsh(A))
    stack = torch.ones(1, 1, 1).expand(8, 1, 2**20)
    assert singular_values(stack).tolist() == [[2.0**10]] * 8
    assert widened == [4, 4]


def test_zeros_are_not_decomposed(monkeypatch):
    """Their product with themselves has lost nothing."""
    decomposed = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda A: decomposed.append(len(A)) or svdvals(A))
    assert singular_values(torch.zeros(2, 3, 4)).tolist() == [[0.0] * 3] * 2
    assert decomposed == []


def test_matrices_without_a_row_have_no_singular_values_of_their_products():
    assert product_values(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4)).shape == (2, 0)


def test_the_spectrum_of_a_null_which_all_share_cannot_be_changed():
    _, spectrum = null((3, 5), 2, 8)
    with pytest.raises(ValueError, match="read-only"):
        spectrum[0] = 0


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_a_stack_without_elements_has_no_singular_values(shape):
    with pytest.raises(UsageError, match=r"heads has shape \(\d, \d, \d\), no elements"):
        singular_values(torch.zeros(shape), "heads")


def test_a_product_has_as_many_values_as_its_thinnest_side():
    """A row vector times a matrix has one, which is its length."""
    left, right = torch.tensor([[[2.0], [1.0]]]), torch.tensor([[[3.0, 0.0, 1.0], [0.0, 4.0, 1.0]]])
    found = product_values(left, right)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(math.sqrt(36 + 16 + 9), rel=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_is_that_of_the_largest_size_whatever_its_sign(sign):
    """Its square would be infinite, while that of the largest number of the other sign is nothing special."""
    A = sign * torch.tensor([[[1e200, -1.0, 0.0], [0.0, 2e200, -3.0]]], dtype=torch.float64)
    np.testing.assert_allclose(singular_values(A), [[2e200, 1e200]], rtol=1e-12)


def test_a_matrix_of_more_elements_than_are_widened_at_a_time_is_taken_alone(monkeypatch):
    monkeypatch.setattr(stacked_spectra, "_BATCH", 10)
    A = torch.from_numpy(normal(3, 4, 5))
    np.testing.assert_allclose(singular_values(A), np.linalg.svd(A.numpy(), compute_uv=False), rtol=1e-12)


@pytest.mark.parametrize(("length", "tenth"), [(1, 1), (3, 1), (10, 1), (11, 2), (25, 3)])
def test_a_tenth_of_the_values_is_rounded_up(length, tenth):
    s = np.arange(length, 0.0, -1)[None]
    found = ratios(s)
    assert found["top_tenth"] == pytest.approx(s[0, :tenth].sum() / s.sum())
    assert found["least_tenth"] == pytest.approx(s[0, length - tenth :].sum() / s.sum())


def test_a_null_that_is_kept_for_the_next_caller_cannot_be_written_to():
    _, spectrum = null((3, 5), 2, 7)
    with pytest.raises(ValueError, match="read-only"):
        spectrum[0] = 1.0
    assert null((3, 5), 2, 7)[1] is spectrum


def test_a_stack_of_one_product_has_its_values():
    left, right = torch.diag(torch.tensor([3.0, 1.0]))[None], torch.diag(torch.tensor([2.0, 4.0]))[None]
    np.testing.assert_allclose(product_values(left, right), [[6.0, 4.0]], rtol=1e-12)
