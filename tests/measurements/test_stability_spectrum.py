"""Radius against sigma: planted relations of either sign, none, arbitrary vectors, and a control of random ones."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from stabilitykit.errors import UsageError
from stabilitykit.measurements import triplet_store
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.smooth import smooth_changes
from stabilitykit.measurements.stability_spectrum import StabilitySpectrum, _sentence, null_below
from stabilitykit.results.metric import Reading
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

H = 16
SIGMA = torch.tensor([40.0 * 0.7**k for k in range(H)], dtype=torch.float64)
ORDER = torch.tensor([5, 0, 9, 12, 3, 7, 14, 1, 10, 15, 2, 8, 11, 4, 13, 6])
X0 = 0.75 * 2.0 ** torch.tensor([0, 3, -2, 1, 0, -1, 2, -3, 1, 0, -2, 3, 1, -1, 2, 0])


class Zones(FunctionSubject):
    """Coordinate ORDER[k] stretches by SIGMA[k], says the derivative, and changes the output from floats[k] on."""

    def __init__(self, floats, sigma=SIGMA, x0=X0, batch=4):
        self.floats = torch.zeros(H, dtype=torch.int32)
        self.floats[ORDER] = torch.tensor(floats, dtype=torch.int32)
        self.J = torch.zeros(H, H, dtype=torch.float64)
        self.J[torch.arange(H), ORDER] = sigma
        super().__init__(self._changed, x0, batch=batch, name="zones")

    def _changed(self, X):
        moved = (X.contiguous().view(torch.int32) - self.x0.view(torch.int32)).abs()
        return (moved >= self.floats).float()

    def with_batch(self, batch):
        return self

    def jvp(self, V):
        self.counter.tangents += len(V)
        return V.double() @ self.J.T

    def vjp(self, U):
        self.counter.backwards += len(U)
        return U.double() @ self.J


def value(result, name):
    return result.readings[name].value


def of(floats, **settings):
    subject = Zones(floats, **{key: settings.pop(key) for key in ("sigma", "x0") if key in settings})
    return measure(StabilitySpectrum(**{"control": 5, **settings}), subject)


NEAR, FAR = [1 + 2 * k for k in range(H)], [1 + 2 * k for k in reversed(range(H))]
SHUFFLED = [7, 2, 9, 4, 12, 1, 8, 3, 11, 5, 2, 10, 6, 3, 9, 4]


def test_every_vector_stands_beside_its_sigma_and_its_boundary():
    result = of(NEAR)
    along = [row for row in result.rows if row["kind"] == "singular"]
    assert [row["direction"] for row in along[:4]] == ["v1", "-v1", "v2", "-v2"]
    assert [row["index"] for row in along] == [i for i in range(1, H + 1) for _ in range(2)]
    assert [row["sign"] for row in along] == [1, -1] * H
    assert [row["sigma"] for row in along] == pytest.approx([float(s) for s in SIGMA for _ in range(2)], rel=1e-12)
    assert [row["gain"] for row in along] == [row["sigma"] for row in along]
    assert not any(row["null"] for row in along)
    for row in along:
        d = torch.from_numpy(result.arrays["directions"][along.index(row)])
        assert int(d.abs().argmax()) == ORDER[row["index"] - 1]
        assert float(d[ORDER[row["index"] - 1]]) * row["sign"] == pytest.approx(1)
        assert row["cells"] == NEAR[row["index"] - 1]
        assert row["coordinate"] == ORDER[row["index"] - 1]
    for name in ("index", "sign", "sigma", "gain", "null"):
        assert np.array_equal(result.arrays[name], [row[name] for row in result.rows], equal_nan=name == "sigma")
    assert (value(result, "vectors"), value(result, "null_vectors")) == (H, 0)
    assert value(result, "sigma_1") == pytest.approx(40, rel=1e-12)
    assert value(result, "directions") == 2 * H
    assert value(result, "radius") == min(row["radius"] for row in along)


@pytest.mark.parametrize("floats", [NEAR, FAR, SHUFFLED])
def test_correlations_are_those_of_scipy(floats):
    result = of(floats)
    along = [row for row in result.rows if row["kind"] == "singular"]
    radius, sigma, lattice = ([row[name] for row in along] for name in ("radius", "sigma", "lattice_radius"))
    pairs = {"spearman_sigma": (radius, sigma), "spearman_lattice": (radius, lattice)}
    for name, (a, b) in pairs.items():
        assert value(result, name) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        # As many independent samples as vectors, though each gives two rays.
        half = 1.959963984540054 * math.sqrt((1 + value(result, name) ** 2 / 2) / (H - 3))
        assert result.readings[name].low == pytest.approx(math.tanh(math.atanh(value(result, name)) - half))
        assert result.readings[name].high == pytest.approx(math.tanh(math.atanh(value(result, name)) + half))
    ranks = [stats.rankdata(sample) for sample in (radius, sigma, lattice)]
    design = np.stack([np.ones(2 * H), ranks[2]], axis=1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks[:2]]
    partial = result.readings["partial_sigma"]
    assert partial.value == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)
    # What is held fixed costs one more of the vectors.
    half = 1.959963984540054 * math.sqrt((1 + partial.value**2 / 2) / (H - 4))
    ends = [math.tanh(math.atanh(partial.value) + sign * half) for sign in (-1, 1)]
    assert [partial.low, partial.high] == pytest.approx(ends)


def test_a_planted_relation_is_said_and_its_opposite_too():
    near, far, neither = of(NEAR), of(FAR), of(SHUFFLED)
    assert value(near, "partial_sigma") < -0.7
    assert near.sentence.startswith(
        "The first change is nearer along the directions the output reacts to most: over 16"
    )
    assert value(far, "partial_sigma") > 0.7
    assert far.sentence.startswith("The first change is farther along the directions")
    assert abs(value(neither, "partial_sigma")) < 0.4
    assert neither.sentence.startswith("The first change is neither nearer nor farther along the directions")
    low, high = (getattr(neither.readings["partial_sigma"], side) for side in ("low", "high"))
    assert f"(95 %: {low:.2f} to {high:.2f})" in neither.sentence
    assert "Every distinct input below it was tried." in near.sentence


def test_arbitrary_vectors_are_flagged_and_count_as_equal():
    """Their sigmas fall in the order of their radii, which would be a relation if they meant anything."""
    sigma = SIGMA.clone()
    sigma[8:] = 1e-7 * torch.arange(8, 0, -1)
    result = of(NEAR, sigma=sigma)
    along = [row for row in result.rows if row["kind"] == "singular"]
    assert [row["null"] for row in along] == [False] * 16 + [True] * 16
    assert value(result, "null_vectors") == 8
    flat = [0.0 if row["null"] else row["sigma"] for row in along]
    wanted = stats.spearmanr([row["radius"] for row in along], flat).statistic
    assert value(result, "spearman_sigma") == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float32, 16 * 2.0**-23), (torch.float16, 2.0**-5), (torch.bfloat16, 2.0**-3.5)]
)
def test_the_rank_tolerance_is_capped_where_it_says_nothing(dtype, share):
    subject = FunctionSubject(lambda X: X, torch.ones(16, dtype=dtype))
    assert null_below(torch.tensor([3.0, 1.0]), subject) == pytest.approx(
        3 * min(share, 16 * torch.finfo(dtype).eps), abs=0
    )


def test_the_control_is_a_set_of_random_unit_vectors_with_their_own_gain():
    result = of(SHUFFLED, control=7, seed=3)
    drawn = [row for row in result.rows if row["kind"] == "random"]
    directions = torch.from_numpy(result.arrays["directions"][2 * H :])
    assert len(drawn) == len(directions) == value(result, "control") == 7
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(7, dtype=torch.float64))
    J = Zones(SHUFFLED).J
    assert [row["gain"] for row in drawn] == pytest.approx((directions @ J.T).norm(dim=1).tolist(), rel=1e-9)
    assert all(math.isnan(row["sigma"]) for row in drawn)
    alone = measure(FirstChange(direction=directions), Zones(SHUFFLED))
    assert [row["radius"] for row in drawn] == [row["radius"] for row in alone.rows]
    assert value(result, "control_radius") == np.median([row["radius"] for row in drawn])
    assert value(result, "control_rho") == np.median([row["rho"] for row in drawn])
    ratio = value(result, "median_radius") / value(result, "control_radius")
    assert value(result, "radius_over_control") == pytest.approx(ratio, rel=1e-12)
    again, other = of(SHUFFLED, control=7, seed=3), of(SHUFFLED, control=7, seed=4)
    assert np.array_equal(again.arrays["directions"], result.arrays["directions"])
    assert not np.array_equal(other.arrays["directions"], result.arrays["directions"])


def test_without_a_control_nothing_is_said_about_it():
    result = of(SHUFFLED, control=0)
    assert len(result.rows) == 2 * H
    assert value(result, "control") == 0
    assert all(math.isnan(value(result, name)) for name in ("control_radius", "control_rho", "radius_over_control"))


def test_one_sign_only_has_no_ratio_of_signs():
    result = of(NEAR, both_signs=False, control=0)
    assert [row["direction"] for row in result.rows] == [f"v{k}" for k in range(1, H + 1)]
    assert math.isnan(value(result, "sign_ratio"))
    assert value(result, "vectors") == value(result, "directions") == H


def test_the_two_signs_are_compared_pair_by_pair():
    """Next to 1.0 floats lie twice as close below as above: upward radii are about twice as long."""
    result = of([1] * H, x0=2.0 ** torch.tensor([0.0, 3, -2, 1, 0, -1, 2, -3, 1, 0, -2, 3, 1, -1, 2, 0]))
    along = [row["radius"] for row in result.rows if row["kind"] == "singular"]
    pairs = zip(along[::2], along[1::2], strict=True)
    assert value(result, "sign_ratio") == pytest.approx(np.median([max(p) / min(p) for p in pairs]), rel=1e-12)
    assert value(result, "sign_ratio") == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        ("all", list(range(1, 17))),
        (1, [1]),
        (2, [1, 16]),
        (4, [1, 6, 11, 16]),
        (100, list(range(1, 17))),
        ([3, 1], [3, 1]),
        (range(1, 4), [1, 2, 3]),
    ],
)
def test_indices_are_all_or_spread_or_named(indices, wanted):
    subject = Zones(NEAR)
    measured = StabilitySpectrum(indices=indices, control=0, both_signs=False)
    assert measured.numbers(subject) == wanted
    result = measure(measured, subject)
    assert [row["index"] for row in result.rows] == wanted
    assert [row["cells"] for row in result.rows] == [NEAR[i - 1] for i in wanted]


def test_a_few_first_vectors_need_no_dense_jacobian(monkeypatch):
    monkeypatch.setattr(triplet_store, "_memory", {})  # another test of this process may have asked the same subject
    subject = CausalLMSubject(load("tiny:llama"), [3, 10, 17, 24], path="decode", batch=8)
    few, every = StabilitySpectrum(indices=range(1, 4), control=0), StabilitySpectrum(indices="all", control=0)
    assert few.cost(subject).backwards == 160
    assert every.cost(subject).backwards == 64
    result = measure(every, subject)
    assert result.execution.backwards == 64
    assert result.execution.forwards <= every.cost(subject).forwards
    assert measure(few, subject).readings["vectors"].value == 3
    assert measure(every, subject).execution.backwards == 0, "the store has them"
    gains = subject.jvp(torch.from_numpy(result.arrays["directions"][::2])).double().norm(dim=1)
    sigma = torch.from_numpy(result.arrays["sigma"][::2])
    torch.testing.assert_close(sigma, gains, rtol=1e-3, atol=1e-4 * float(sigma[0]))
    assert result.noise == subject.noise_floor().sentence


def test_too_few_vectors_are_no_correlation():
    result = of(NEAR, indices=1, both_signs=False)
    assert all(math.isnan(value(result, name)) for name in ("spearman_sigma", "spearman_lattice", "partial_sigma"))
    assert result.sentence.startswith("Too few vectors (1), or too much alike, to say whether the radius goes")


@pytest.mark.parametrize("indices", ["v1", 0, -3, True, 2.0, [], [0], [1.5], [True], None, "17"])
def test_indices_that_cannot_exist_are_refused(indices):
    with pytest.raises(UsageError, match="give 'all', how many, or a list of numbers from 1 on"):
        StabilitySpectrum(indices=indices)


def test_a_vector_beyond_the_last_is_refused_by_its_number():
    with pytest.raises(UsageError, match="v17 does not exist: this subject has 16 singular vectors"):
        of(NEAR, indices=[2, 17])
    with pytest.raises(UsageError, match="control=-1 is no count"):
        StabilitySpectrum(control=-1)


def test_both_signs_are_two_rays_a_vector_in_the_stated_cost():
    """Four vectors both ways are eight rays: another round of a batch of 4, two forwards and a walk of 64 each."""
    subject = Zones(NEAR)
    both, one = (StabilitySpectrum(indices=4, control=0, both_signs=signs).cost(subject) for signs in (True, False))
    assert both.forwards - one.forwards == (2 + 64) * 4
    assert both.screened == one.screened == 0


def test_a_vector_is_arbitrary_if_its_sigma_lies_below_the_rounding_of_the_products_and_not_at_it():
    floor = 40.0 * H * torch.finfo(torch.float32).eps
    sigma = torch.tensor([40.0, math.nextafter(floor, 1.0), floor, math.nextafter(floor, 0.0)], dtype=torch.float64)
    known = SimpleNamespace(sigma=sigma, v=torch.eye(H, dtype=torch.float64)[:4])
    directions, labels, rows = StabilitySpectrum(control=0)._rays(Zones(NEAR), known, [2, 3, 4])
    assert [row["null"] for row in rows] == [False, False, False, False, True, True]
    assert labels == ["v2", "-v2", "v3", "-v3", "v4", "-v4"]
    assert directions.argmax(dim=1).tolist()[::2] == directions.argmin(dim=1).tolist()[1::2] == [1, 2, 3]


def test_an_interval_that_ends_at_zero_says_neither():
    values = {
        name: Reading(metric, -0.3, low, high)
        for metric in StabilitySpectrum.metrics
        if (name := metric.name) in ("partial_sigma", "spearman_lattice")
        for low, high in [(-0.6, 0.0)]
    }
    assert "is neither nearer nor farther along" in _sentence(values, 16)
    partial = values["partial_sigma"]
    assert "is nearer along" in _sentence({**values, "partial_sigma": replace(partial, high=-1e-9)}, 16)
    assert "neither" in _sentence({**values, "partial_sigma": replace(partial, low=0.0, high=0.6)}, 16)


def test_a_direction_without_length_changes_nothing():
    subject = FunctionSubject(lambda X: 3 * X, torch.ones(2))
    assert smooth_changes(subject, torch.tensor([[0.0, 0.0], [0.0, 2.0]])) == [0.0, pytest.approx(6)]


def test_there_are_as_many_vectors_as_the_smaller_side_has_numbers():
    flat, tall = (FunctionSubject(lambda X, d=d: X[:, :1].repeat(1, d), torch.ones(3)) for d in (2, 5))
    assert [StabilitySpectrum(indices="all").numbers(one) for one in (flat, tall)] == [[1, 2], [1, 2, 3]]
