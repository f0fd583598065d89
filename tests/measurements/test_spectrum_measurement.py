"""The singular spectrum as a measurement: planted singular values, and what it refuses."""

import json

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.directions import cheaper_whole, singular
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.subject import Subject

PLANTED = [27.5, 19.25, 15.0, 12.125, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]


def rotation(size, seed):
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return q


def planted(sigma, M=20, H=12):
    """A linear map with these singular values, its left and right vectors, and it as a subject."""
    left, right = rotation(M, 1)[: len(sigma)], rotation(H, 2)[: len(sigma)]
    J = left.T @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right
    x0 = torch.linspace(-1, 1, H, dtype=torch.float64)
    return FunctionSubject(lambda X: X @ J.T, x0), left, right


@pytest.mark.parametrize("k", [1, 3, 5, 12, "all"])
def test_planted_singular_values_are_found(k):
    subject, left, right = planted(PLANTED)
    result = measure(SingularSpectrum(k=k), subject)
    count = 12 if k == "all" else k
    wanted = PLANTED[:count]
    found = [result.readings[f"sigma_{i + 1}"].value for i in range(count)]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found[0] == pytest.approx(PLANTED[0], rel=1e-9)
    assert f"sigma_{count + 1}" not in result.readings
    assert result.arrays["sigma"].tolist() == found == [row["sigma"] for row in result.rows]
    assert [row["index"] for row in result.rows] == list(range(1, count + 1))
    for i in range(count):
        residual = result.readings[f"residual_{i + 1}"].value
        assert abs(found[i] - wanted[i]) <= residual + 1e-12
        assert residual < 1e-3
    if count > 1:
        assert result.readings["gap"].value == pytest.approx((27.5 - 19.25) / 27.5, rel=1e-6)
    for name, exact in (("v", right), ("u", left)):
        overlap = (torch.from_numpy(result.arrays[name]) * exact[:count]).sum(dim=1).abs()
        assert torch.allclose(overlap, torch.ones(count, dtype=torch.float64), atol=1e-4), name
    v = result.arrays["v"]
    assert (v[np.arange(count), np.abs(v).argmax(axis=1)] > 0).all()


def test_a_residual_is_that_of_the_map_not_of_the_recurrence():
    subject, _, _ = planted(PLANTED)
    result = measure(SingularSpectrum(k=4, tolerance=0.05, max_products=20), subject)
    u, v, sigma = (torch.from_numpy(result.arrays[name]) for name in ("u", "v", "sigma"))
    forward, reverse = subject.jvp(v) - sigma[:, None] * u, subject.vjp(u) - sigma[:, None] * v
    exact = torch.maximum(forward.norm(dim=1), reverse.norm(dim=1))
    torch.testing.assert_close(torch.from_numpy(result.arrays["residual"]), exact, rtol=1e-6, atol=1e-12)
    assert result.arrays["residual"].max() > 1e-6


@pytest.mark.parametrize("k", [2, 5, "all"])
def test_a_map_of_rank_three_has_three_values_and_zeros(k):
    subject, _, _ = planted([7.0, 5.0, 2.0])
    result = measure(SingularSpectrum(k=k), subject)
    sigma = result.arrays["sigma"].tolist()
    assert sigma[:3] == pytest.approx([7.0, 5.0, 2.0][: len(sigma)], rel=1e-9)
    assert sigma[3:] == pytest.approx([0.0] * len(sigma[3:]), abs=1e-9)
    v = torch.from_numpy(result.arrays["v"])
    torch.testing.assert_close(v @ v.T, torch.eye(len(v), dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [3, "all"])
def test_the_identity_stretches_nothing(k):
    result = measure(SingularSpectrum(k=k), FunctionSubject(lambda X: X, torch.linspace(-1, 1, 8)))
    assert result.arrays["sigma"] == pytest.approx(1, abs=1e-6)
    assert result.readings["gap"].value == pytest.approx(0, abs=1e-6)
    assert "grows at most 1 times" in result.sentence


def test_a_constant_stretches_nothing_to_nothing():
    result = measure(SingularSpectrum(k=2), FunctionSubject(lambda X: X * 0, torch.linspace(-1, 1, 8)))
    assert result.arrays["sigma"].tolist() == [0, 0]


def test_curved_maps_are_linearised_at_x0():
    x0 = torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)
    result = measure(SingularSpectrum(k="all"), FunctionSubject(lambda X: X**3 / 3, x0))
    assert result.arrays["sigma"].tolist() == pytest.approx([9, 4, 1], rel=1e-12)


def test_products_are_counted_and_bounded():
    subject, _, _ = planted(PLANTED)
    top = measure(SingularSpectrum(k=2, max_products=25), subject)
    assert 12 <= top.execution.tangents + top.execution.backwards <= 25
    dense = measure(SingularSpectrum(k="all"), subject)
    assert (dense.execution.tangents, dense.execution.backwards) == (12, 0), "twelve inputs are fewer than the outputs"
    assert SingularSpectrum(k="all").cost(subject).backwards == 12 + 3
    cost = SingularSpectrum(k=2, max_products=25).cost(subject)
    assert cost.forwards + cost.backwards == 25 - 1 + 3


@pytest.mark.parametrize("k", [2, "all"])
def test_what_was_computed_before_is_measured_anew_and_not_computed(k):
    subject, _, _ = planted(PLANTED)
    first = measure(SingularSpectrum(k=k), subject)
    again = measure(SingularSpectrum(k=k), subject)
    count = len(first.rows)
    assert first.execution.tangents + first.execution.backwards >= 12
    assert (again.execution.tangents, again.execution.backwards) == (count, count)
    assert again.arrays["v"].tobytes() == first.arrays["v"].tobytes()
    assert again.arrays["residual"] == pytest.approx(first.arrays["residual"], abs=1e-12)
    other = measure(SingularSpectrum(k=2, tolerance=1e-4), subject)
    assert other.execution.tangents + other.execution.backwards >= 12, "another tolerance is another question"


def test_a_map_that_changed_under_its_name_is_computed_anew():
    """The weights of a function, or of a model, may be written to after its vectors were kept."""
    J = torch.diag(torch.arange(9.0, 0, -1, dtype=torch.float64))
    subject = FunctionSubject(lambda X: X @ J.T, torch.ones(9, dtype=torch.float64))
    assert measure(SingularSpectrum(k=2), subject).arrays["sigma"] == pytest.approx([9, 8])
    J.diagonal()[0] = 20
    assert measure(SingularSpectrum(k=2), subject).arrays["sigma"] == pytest.approx([20, 8])


def test_a_change_within_the_tolerance_of_the_largest_value_is_not_computed_anew():
    """It is far beyond that of the smallest one; told are the vectors that were kept, with their residual of now."""
    J = torch.diag(torch.tensor([9.0, 8.0, 1e-6], dtype=torch.float64))
    subject = FunctionSubject(lambda X: X @ J.T, torch.ones(3, dtype=torch.float64))
    first = measure(SingularSpectrum(k="all"), subject)
    J.diagonal()[0] += 2.0**-16
    again = measure(SingularSpectrum(k="all"), subject)
    assert (again.execution.tangents, again.execution.backwards) == (3, 3)
    assert again.arrays["sigma"].tolist() == first.arrays["sigma"].tolist()
    assert again.arrays["residual"] == pytest.approx([2.0**-16, 0, 0], abs=1e-12)


def test_a_budget_that_ends_too_early_is_said():
    generator = torch.Generator().manual_seed(1)
    J = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    subject = FunctionSubject(lambda X: X @ J.T, torch.ones(40, dtype=torch.float64))
    short = measure(SingularSpectrum(k=2, max_products=12, tolerance=1e-12), subject)
    assert "The product budget ended before the tolerance was met." in short.sentence
    assert short.readings["residual_1"].value > 1e-3
    exact = torch.linalg.svdvals(J)
    assert min(abs(exact - short.readings["sigma_1"].value)) <= short.readings["residual_1"].value
    assert "budget ended" not in measure(SingularSpectrum(k=2, max_products=300), subject).sentence


def test_only_sixteen_values_are_readings_and_all_are_rows():
    sigma = [2.0 ** (5 - i / 2) for i in range(20)]
    subject, _, _ = planted(sigma, M=24, H=20)
    result = measure(SingularSpectrum(k="all"), subject)
    assert [name for name in result.readings if name.startswith("sigma")] == [f"sigma_{i}" for i in range(1, 17)]
    assert [row["sigma"] for row in result.rows] == pytest.approx(sigma, rel=1e-10)


@pytest.mark.parametrize("k", [0, -1, 2.5, "some", None])
def test_a_k_that_is_no_count_is_refused(k):
    with pytest.raises(UsageError, match="is neither a positive count nor 'all'"):
        SingularSpectrum(k=k)


def test_more_values_than_there_are_are_refused():
    subject, _, _ = planted(PLANTED)
    with pytest.raises(UsageError, match="k=13 singular values of a 20 x 12 map do not exist; take 1 to 12"):
        measure(SingularSpectrum(k=13), subject)
    with pytest.raises(UsageError, match="20 products cannot give 5 triplets; allow at least 21"):
        measure(SingularSpectrum(k=5, max_products=20), subject)


@pytest.mark.parametrize("k", [2, "all"])
def test_products_that_are_no_numbers_are_refused(k):
    """The square root of zero has a value and an infinite slope."""
    x0 = torch.tensor([0.0, 1.0, 2.0, 3.0])
    with pytest.raises(InvalidError, match="a Jacobian product is not finite"):
        measure(SingularSpectrum(k=k), FunctionSubject(lambda X: X.abs().sqrt(), x0))


class Stated(FunctionSubject):
    """Claims a defect and a bound about its products."""

    defect, bound = 0.0, 1e-3

    def linearisation(self, J=None):
        return {"adjoint_defect": self.defect, "adjoint_bound": self.bound}


@pytest.mark.parametrize(("defect", "passes"), [(1e-4, True), (1e-3, True), (1.1e-3, False), (float("nan"), False)])
def test_products_that_are_not_adjoint_are_refused_by_the_stated_bound(defect, passes):
    subject = Stated(lambda X: 2 * X, torch.ones(4), name="toy")
    subject.defect = defect
    if passes:
        assert measure(SingularSpectrum(k=1), subject).readings["adjoint_defect"].value == defect
    else:
        with pytest.raises(InvalidError, match="toy: forward and reverse products are not adjoint, defect"):
            measure(SingularSpectrum(k=1), subject)


def test_a_subject_without_a_stated_bound_has_no_such_reading():
    assert "adjoint_defect" not in measure(SingularSpectrum(k=1), planted(PLANTED)[0]).readings


def test_a_subject_without_derivatives_says_so():
    class Bare(Subject):
        def evaluate(self, X):
            return X

        def with_batch(self, batch):
            return self

    with pytest.raises(UnsupportedError, match="has no forward derivative"):
        measure(SingularSpectrum(k=1), Bare(torch.ones(4)))


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_products_and_the_dense_matrix_agree_on_a_model(family, path):
    subject = CausalLMSubject(load(f"tiny:{family}"), [3, 10, 17, 24], path=path)
    top = measure(SingularSpectrum(k=3), subject).arrays["sigma"]
    assert top == pytest.approx(measure(SingularSpectrum(k="all"), subject).arrays["sigma"][:3], rel=1e-5)


@pytest.mark.parametrize(("count", "whole"), [(1, False), (2, False), (3, True), (9, True)])
def test_vectors_come_from_as_few_products_as_give_them(count, whole):
    """Of 24 values, about twelve products a vector are as many as the dense matrix takes from the third on."""
    subject, _, right = planted([2.0 ** (5 - i / 2) for i in range(24)], M=30, H=24)
    triplets = singular(subject, count)
    assert (len(triplets.sigma) == 24) == (triplets.products == 24) == cheaper_whole(subject, count) == whole
    overlap = (triplets.v[:count] * right[:count]).sum(dim=1).abs()
    assert torch.allclose(overlap, torch.ones(count, dtype=torch.float64), atol=1e-4)
    assert not cheaper_whole(subject, 25), "there are 24; the error is that of the products"


def test_both_primals_are_stored_with_the_result():
    """The points that both kinds of products were taken at travel with the numbers, through JSON too."""
    subject = sk.CausalLMSubject(sk.load("tiny:llama"), "abc")
    result = sk.measure(sk.SingularSpectrum(k=2), subject, progress=False)
    stored = sk.Result.from_dict(json.loads(result.to_json())).subject["linearisation"]
    assert stored == subject.linearisation()
    assert stored["reverse_primal"] == digest(subject.linear.baseline[0])
