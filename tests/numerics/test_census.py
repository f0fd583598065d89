"""Counts, percentiles and histograms against numpy on sorted copies, and against numbers one can count by hand."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy import stats

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.census import BINS, CHUNK, Census
from stabilitykit.numerics.moments import moments

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PERCENTS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


def drawn(dtype, count, seed=0):
    """Heavy-tailed numbers with zeros of both signs, equal numbers, and a shifted mean."""
    random = np.random.Generator(np.random.PCG64(seed))
    values = random.standard_t(3, count) * 0.03 + 0.01
    values[::17] = 0.0
    values[::34] = -0.0
    values[5::29] = 0.25
    return torch.from_numpy(values).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1001, CHUNK + 77])
def test_percentiles_and_median_are_those_of_a_sorted_copy(dtype, count):
    x = drawn(dtype, count, seed=count)
    wide, census = x.double().numpy(), Census.of(x)
    np.testing.assert_allclose(census.percentiles(PERCENTS), np.percentile(np.abs(wide), PERCENTS), rtol=1e-14)
    assert census.median() == np.median(wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prepared", [True, False])
def test_counts_are_those_of_comparisons(dtype, prepared):
    x = drawn(dtype, 20_011)
    wide, census = x.double().numpy(), Census.of(x)
    bounds = [
        1e-1,
        1e-2,
        1e-3,
        1e-4,
        0.25,
        float(np.abs(wide).max()),
        1e30 if dtype != torch.float16 else 6e4,
        2.0**-20,
    ]
    if prepared:
        census.prepare(PERCENTS, bounds)
    assert census.at_least(bounds) == [int((np.abs(wide) >= bound).sum()) for bound in bounds]
    assert census.signs() == (int((wide > 0).sum()), int((wide < 0).sum()))
    assert census.zeros == int((wide == 0).sum())
    assert census.not_finite == 0
    assert int(census.counts.sum()) == len(wide)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_are_those_of_scipy(dtype):
    x = drawn(dtype, CHUNK + 1234)
    wide = x.double().numpy()
    a = np.abs(wide)
    found = moments(Census.of(x))
    expected = {
        "mean": wide.mean(),
        "std": wide.std(),
        "var": wide.var(),
        "min": wide.min(),
        "max": wide.max(),
        "mean_abs": a.mean(),
        "std_abs": a.std(),
        "min_abs": a.min(),
        "max_abs": a.max(),
        "skewness": stats.skew(wide),
        "kurtosis": stats.kurtosis(wide),
        "frobenius": np.linalg.norm(wide),
    }
    assert found == {name: pytest.approx(value, rel=1e-10) for name, value in expected.items()}


def test_moments_of_a_large_mean_keep_their_digits():
    """Sums of squares alone would leave nothing of a spread of 1e-5 around 1000."""
    x = torch.tensor([1000.0 - 2.0**-14, 1000.0, 1000.0 + 2.0**-14])
    found = moments(Census.of(x))
    assert found["std"] == pytest.approx(2.0**-14 * math.sqrt(2 / 3), rel=1e-9)
    assert found["std_abs"] == pytest.approx(2.0**-14 * math.sqrt(2 / 3), rel=1e-9)
    assert found["kurtosis"] == pytest.approx(-1.5, rel=1e-9)


def test_equal_elements_have_no_shape():
    found = moments(Census.of(torch.full((7,), 0.3)))
    assert found["std"] == pytest.approx(0, abs=1e-16)
    assert math.isnan(found["skewness"])
    assert math.isnan(found["kurtosis"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_have_no_spread_and_no_shape(dtype):
    found = moments(Census.of(torch.zeros(5, dtype=dtype)))
    shapeless = {found.pop("skewness"), found.pop("kurtosis")}
    assert all(math.isnan(value) for value in shapeless)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_the_shape_does_not_depend_on_the_unit(scale):
    """Of 0, 0 and 3 the centred numbers are -1, -1 and 2; and 1 and -1, which have no mean, are their own."""
    skew, even = (moments(Census.of(torch.tensor(x).double() * scale)) for x in ([0.0, 0.0, 3.0], [1.0, -1.0]))
    assert skew["skewness"] == pytest.approx(math.sqrt(0.5))
    assert skew["kurtosis"] == pytest.approx(-1.5)
    assert even["skewness"] == 0
    assert even["kurtosis"] == pytest.approx(-2)


def test_the_least_and_the_largest_are_those_of_all_pieces():
    x = torch.full((CHUNK + 2,), 2.0)
    x[[0, 1, -2, -1]] = torch.tensor([0.5, -5.0, -4.0, 7.0])
    found = moments(Census.of(x))
    assert [found[name] for name in ("min", "max", "min_abs", "max_abs")] == [-5, 7, 0.5, 7]


@pytest.mark.parametrize("dtype", DTYPES)
def test_histograms_are_those_of_numpy(dtype):
    x = drawn(dtype, 30_000)
    wide = x.double().numpy()
    width, counts = Census.of(x).histogram()
    rms = math.sqrt((wide**2).mean())
    assert math.log2(width).is_integer()
    assert rms / 12 < width < rms / 5
    places = np.minimum(np.floor(np.abs(wide) / width), BINS).astype(int)
    expected = np.zeros(2 * BINS + 2, dtype=int)
    for place, negative in zip(places, np.signbit(wide), strict=True):
        expected[BINS - place if negative else BINS + 1 + place] += 1
    np.testing.assert_array_equal(counts, expected)
    assert counts[0] + counts[-1] == int((np.abs(wide) >= BINS * width).sum())


def test_a_known_histogram():
    x = torch.tensor([1.0, -1.0, 0.5, 0.0, -0.0, 0.49])
    width, counts = Census.of(x).histogram()
    assert width == 2.0**-4
    assert {place: int(n) for place, n in enumerate(counts) if n} == {
        BINS - 16: 1,
        BINS: 1,
        65: 1,
        65 + 7: 1,
        65 + 8: 1,
        65 + 16: 1,
    }


def test_zeros_have_no_width():
    width, counts = Census.of(torch.zeros(5)).histogram()
    assert math.isnan(width)
    assert counts.tolist() == [0] * (2 * BINS + 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_counted(dtype):
    x = drawn(dtype, 100)
    x[3], x[50], x[51] = math.nan, math.inf, -math.inf
    assert Census.of(x).not_finite == 3


def test_every_bfloat16_and_its_neighbours():
    """All numbers of 16 bits, in float32, with one ULP of float32 beside each: no pattern is taken for another."""
    patterns = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    finite = patterns[np.isfinite(patterns)]
    x = np.concatenate([finite, np.nextafter(finite, np.float32(0))])
    census = Census.of(torch.from_numpy(x))
    wide = x.astype(np.float64)
    percents = tuple(range(0, 101, 7))
    np.testing.assert_allclose(census.percentiles(percents), np.percentile(np.abs(wide), percents), rtol=1e-14)
    bounds = [float(b) for b in np.abs(finite[1:100]) if b]
    assert census.at_least(bounds) == [int((np.abs(wide) >= b).sum()) for b in bounds]


def test_other_dtypes_are_refused():
    with pytest.raises(UnsupportedError, match="int64 numbers are not counted"):
        Census.of(torch.arange(3))


@pytest.mark.parametrize("value", [0.1, -0.1])
def test_equal_numbers_have_no_shape_though_their_mean_is_rounded(value):
    """Three times a tenth is more than 0.3, so the deviations from the mean are not exactly 0."""
    found = moments(Census.of(torch.full((3,), value, dtype=torch.float64)))
    assert found["var"] > 0
    assert math.isnan(found["skewness"])
    assert math.isnan(found["kurtosis"])


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float64, 8), (torch.float32, 7), (torch.bfloat16, 7), (torch.float16, 10)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_median_beside_the_next_pattern(dtype, bits, sign):
    """Of numbers that are counted apart and lie side by side, on either side of 0."""
    x = sign * torch.tensor([2 + 2.0 ** (1 - bits), 2, 2, 1, 1], dtype=torch.float64).to(dtype)
    assert Census.of(x).median() == 2 * sign


def test_nothing_is_read_that_was_not_counted(monkeypatch):
    """What `empty` holds may be anything, 0 as well as what was there before."""
    monkeypatch.setattr(np, "empty", np.zeros)
    census = Census.of(torch.ones(4))
    assert (census.zeros, census.signs()) == (0, (4, 0))


def test_a_bin_is_the_power_of_two_nearest_to_an_eighth():
    """Nearest by ratio: 6.0625 / 8 is nearer to 1 than to 1/2."""
    assert Census.of(torch.full((3,), 6.0625)).histogram()[0] == 1
    assert Census.of(torch.full((3,), 5.5)).histogram()[0] == 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_was_prepared_is_answered_without_another_look(dtype):
    """Nothing is left of the numbers when they are asked for, only what one pass kept; of 16 bits their counts."""
    x = drawn(dtype, 5000)
    wide, census, bounds = x.double().numpy().copy(), Census.of(x), [0.25, 1e-2]
    if dtype.itemsize > 2:
        census.prepare(PERCENTS, bounds)
    x.fill_(math.nan)
    assert census.at_least(bounds) == [int((np.abs(wide) >= bound).sum()) for bound in bounds]
    np.testing.assert_allclose(census.percentiles(PERCENTS), np.percentile(np.abs(wide), PERCENTS), rtol=1e-14)
    assert census.median() == np.median(wide)
    assert census.signs() == (int((wide > 0).sum()), int((wide < 0).sum()))
    assert census.zeros == int((wide == 0).sum())


def test_thousands_of_elements_are_counted_at_once(monkeypatch):
    sizes, bincount = [], torch.bincount

    def counted(keys, minlength):
        sizes.append(len(keys))
        return bincount(keys, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", counted)
    Census.of(torch.ones(4096))
    assert sizes == [4096]


@pytest.mark.parametrize("values", [[], [math.nan, math.inf, -math.inf]])
def test_where_nothing_is_finite_a_histogram_has_no_width(values):
    width, counts = Census.of(torch.tensor(values)).histogram()
    assert math.isnan(width)
    assert counts.tolist() == [0] * (2 * BINS + 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_median_of_zero_is_found_between_both_signs(dtype, zero):
    assert Census.of(torch.tensor([-1.0, zero, 2.0]).to(dtype)).median() == 0
    assert Census.of(torch.tensor([-3.0, zero, 2.0, 5.0]).to(dtype)).median() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zeros_are_prepared_also_where_neither_the_median_nor_a_percentile_is_one(dtype):
    x = torch.tensor([0.0, -0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, -5.0], dtype=dtype)
    census = Census.of(x)
    census.prepare([99], [2.5])
    x.fill_(math.nan)
    assert (census.zeros, census.signs()) == (3, (6, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_median_of_numbers_that_begin_alike(dtype, sign):
    """Three begin with the same bits, and the fourth, nearer to 0, with the bits before those."""
    x = sign * torch.tensor([1 - 2.0**-9, 1 + 2.0**-12, 1 + 2.0**-11, 1 + 2.0**-10], dtype=dtype)
    assert Census.of(x).median() == sign * (1 + 1.5 * 2.0**-12)
