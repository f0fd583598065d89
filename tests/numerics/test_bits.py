"""The lattice of floating-point numbers, against oracles that never look at a sign-magnitude key."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics import bits

NARROW = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
WIDE = [
    pytest.param(torch.float32, "f", 24, -126, id="float32"),
    pytest.param(torch.float64, "d", 53, -1022, id="float64"),
]
DTYPES = list(bits.FORMATS)
WITH_INFINITY = [dtype for dtype, row in bits.FORMATS.items() if row.infinite]
INT64_MAX = 2**63 - 1
NAN, INF = math.nan, math.inf
Exhaustive = tuple[torch.Tensor, np.ndarray]


@pytest.fixture(params=NARROW)
def every(request: pytest.FixtureRequest) -> Exhaustive:
    """Every pattern of a narrow format with its value in float64."""
    dtype = getattr(torch, request.param)
    width = 8 * dtype.itemsize
    codes = np.arange(2**width).astype(f"uint{width}")
    # Decoding a signalling NaN raises the invalid flag, which is not an error here.
    with np.errstate(invalid="ignore"):
        values = codes.view(NARROW[request.param]).astype(np.float64)
    return torch.from_numpy(codes.view(f"int{width}")).view(dtype), values


@pytest.fixture
def flush_to_zero() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    yield
    torch.set_flush_denormal(False)


def numbers(every: Exhaustive) -> tuple[torch.Tensor, np.ndarray]:
    """One pattern a distinct number, ascending, zero as +0."""
    patterns, values = every
    kept, first = np.unique(values[~np.isnan(values)], return_index=True)
    return patterns[torch.from_numpy(~np.isnan(values))][torch.from_numpy(first)], kept


def rank(value: float, precision: int, lowest: int) -> int:
    """Signed count of floats between zero and the value, from its fraction and exponent only."""
    size = abs(value)
    if size < 2.0**lowest:
        steps = int(math.ldexp(size, precision - 1 - lowest))
    else:
        fraction, exponent = (0.5, 3 - lowest) if math.isinf(size) else math.frexp(size)
        steps = (exponent - 1 - lowest) * 2 ** (precision - 1) + int(math.ldexp(fraction, precision))
    return -steps if value < 0 else steps


def sampled(kind: str, count: int, seed: int) -> list[float]:
    """Uniform bit patterns without NaN, with the extremes in front."""
    width = struct.calcsize(kind)
    raw = np.random.default_rng(seed).bytes(count * width)
    largest = np.finfo(kind).max.item()
    smallest = np.finfo(kind).smallest_subnormal.item()
    edges = [0.0, -0.0, INF, -INF, largest, -largest, smallest, -smallest, np.finfo(kind).tiny.item()]
    return edges + [x for x in struct.unpack(f"<{count}{kind}", raw) if x == x]


def test_the_key_is_the_rank_of_the_value_for_every_narrow_pattern(every: Exhaustive) -> None:
    patterns, values = every
    number = ~np.isnan(values)
    ascending = np.unique(values[number])
    expected = np.searchsorted(ascending, values[number]) - np.searchsorted(ascending, 0.0)
    assert np.array_equal(expected, bits.ordered(patterns)[torch.from_numpy(number)].numpy())


def test_neighbours_are_one_ulp_apart_in_both_directions_for_every_narrow_number(every: Exhaustive) -> None:
    ascending, _ = numbers(every)
    one = torch.ones(len(ascending) - 1, dtype=torch.int64)
    assert torch.equal(one, bits.ulp_distance(ascending[:-1], ascending[1:]))
    assert torch.equal(one, bits.ulp_distance(ascending[1:], ascending[:-1]))


def test_the_distance_of_shuffled_narrow_numbers_is_the_difference_of_their_ranks(every: Exhaustive) -> None:
    ascending, _ = numbers(every)
    order = np.random.default_rng(1).permutation(len(ascending))
    expected = np.abs(order - np.arange(len(ascending)))
    assert np.array_equal(expected, bits.ulp_distance(ascending[torch.from_numpy(order)], ascending).numpy())


def test_nan_infinity_and_number_are_told_apart_for_every_narrow_pattern(every: Exhaustive) -> None:
    patterns, values = every
    assert np.array_equal(np.isnan(values), bits.is_nan(patterns).numpy())
    assert np.array_equal(np.isinf(values), bits.is_infinite(patterns).numpy())


def test_total_order_is_a_bijection_with_an_exact_inverse_for_every_narrow_pattern(every: Exhaustive) -> None:
    patterns, _ = every
    keys = bits.total_order(patterns)
    half = len(patterns) // 2
    assert torch.equal(torch.arange(-half, half), keys.sort().values)
    assert bits.bits_equal(patterns, bits.from_total_order(keys, patterns.dtype))


def test_a_nudge_reaches_the_next_number_and_back_for_every_narrow_number(every: Exhaustive) -> None:
    ascending, _ = numbers(every)
    assert bits.bits_equal(ascending[1:], bits.nudge(ascending[:-1], 1))
    assert bits.bits_equal(ascending[:-1], bits.nudge(ascending[1:], -1))


def test_a_nudge_by_any_count_lands_on_that_number(every: Exhaustive) -> None:
    ascending, _ = numbers(every)
    target = torch.randperm(len(ascending), generator=torch.Generator().manual_seed(2))
    steps = target - torch.arange(len(ascending))
    there = bits.nudge(ascending, steps)
    back = bits.nudge(there, -steps)
    same = steps == 0
    assert bits.bits_equal(ascending[target], there)
    assert bits.bits_equal(ascending[~same], back[~same])


def test_spacing_is_the_step_away_from_zero_for_every_narrow_number(every: Exhaustive) -> None:
    ascending, values = numbers(every)
    zero = int(np.searchsorted(values, 0.0))
    finite = np.isfinite(np.diff(values[zero:]))
    got = bits.spacing(ascending).numpy()
    assert np.array_equal(np.diff(values[zero:])[finite], got[zero:-1][finite])
    assert np.array_equal(got[zero:], got[: zero + 1][::-1])


@pytest.mark.parametrize(("dtype", "kind", "precision", "lowest"), WIDE)
def test_distances_of_sampled_wide_pairs_equal_exact_integers(
    dtype: torch.dtype, kind: str, precision: int, lowest: int
) -> None:
    left = sampled(kind, 110_000, seed=3)[:100_000]
    right = sampled(kind, 110_000, seed=4)[:100_000][::-1]
    ranks = [(rank(a, precision, lowest), rank(b, precision, lowest)) for a, b in zip(left, right, strict=True)]
    a, b = torch.tensor(left, dtype=dtype), torch.tensor(right, dtype=dtype)
    assert [pair[0] for pair in ranks] == bits.ordered(a).tolist()
    assert [min(abs(p - q), INT64_MAX) for p, q in ranks] == bits.ulp_distance(a, b).tolist()
    assert bits.bits_equal(a, bits.from_total_order(bits.total_order(a), dtype))


@pytest.mark.parametrize(("dtype", "kind", "precision", "lowest"), WIDE)
def test_nudging_sampled_wide_numbers_agrees_with_nextafter(
    dtype: torch.dtype, kind: str, precision: int, lowest: int
) -> None:
    values = np.array(sampled(kind, 20_000, seed=5), dtype=kind)
    values = values[np.isfinite(values)]
    x = torch.from_numpy(values)
    # nextafter leaves the largest value for infinity and says so with the overflow flag.
    with np.errstate(over="ignore", under="ignore"):
        up, down = np.nextafter(values, values.dtype.type(INF)), np.nextafter(values, values.dtype.type(-INF))
    assert bits.value_equal(torch.from_numpy(up), bits.nudge(x, 1))
    assert bits.value_equal(torch.from_numpy(down), bits.nudge(x, -1))
    assert bits.value_equal(x, bits.nudge(bits.nudge(x, 1), -1))


@pytest.mark.parametrize(("dtype", "kind", "precision", "lowest"), WIDE)
def test_spacing_of_sampled_wide_numbers_agrees_with_numpy_and_math(
    dtype: torch.dtype, kind: str, precision: int, lowest: int
) -> None:
    values = np.array(sampled(kind, 20_000, seed=6), dtype=kind)
    values = values[np.abs(values) < np.finfo(kind).max]
    got = bits.spacing(torch.from_numpy(values))
    assert np.array_equal(np.abs(np.spacing(values)).astype(np.float64), got.numpy())
    if dtype == torch.float64:
        assert [math.ulp(x) for x in values.tolist()] == got.tolist()


def test_spacing_follows_math_ulp_at_the_ends_of_the_range() -> None:
    ends = [math.nextafter(INF, 0.0), INF, -INF, 0.0, -0.0, 5e-324, 2.0**-1022, -1.0]
    got = bits.spacing(torch.tensor(ends, dtype=torch.float64))
    assert [math.ulp(x) for x in ends] == got.tolist()
    assert math.isnan(bits.spacing(torch.tensor(NAN)).item())


def test_the_widest_finite_float32_distance_is_not_cut_to_32_bits() -> None:
    a, b = torch.tensor([-3e38, 3e38]), torch.tensor([3e38, -3e38])
    assert bits.ulp_distance(a, b).tolist() == [4274217932, 4274217932]


def test_a_float64_distance_beyond_int64_saturates_and_the_last_one_below_does_not() -> None:
    high = torch.tensor(1e300, dtype=torch.float64)
    keys = bits.ordered(high) - INT64_MAX + torch.tensor([1, 0, -1])
    low = bits.from_total_order(keys - 1, torch.float64)
    assert bits.ordered(low).tolist() == keys.tolist()
    assert bits.ulp_distance(high.expand(3), low).tolist() == [INT64_MAX - 1, INT64_MAX, INT64_MAX]
    assert bits.ulp_distance(low, high.expand(3)).tolist() == [INT64_MAX - 1, INT64_MAX, INT64_MAX]


@pytest.mark.parametrize("dtype", WITH_INFINITY)
def test_infinity_is_one_step_beyond_the_largest_value(dtype: torch.dtype) -> None:
    largest = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    infinite = torch.tensor([INF, -INF], dtype=dtype)
    assert bits.ulp_distance(largest, infinite).tolist() == [1, 1]
    assert bits.bits_equal(infinite, bits.nudge(largest, torch.tensor([1, -1])))


def test_a_format_without_infinity_ends_at_its_largest_number() -> None:
    largest = torch.tensor([448.0, -448.0]).to(torch.float8_e4m3fn)
    assert bits.pattern(largest[0]) == "0x7e"
    assert bits.is_nan(torch.tensor([0x7F, -1], dtype=torch.int8).view(torch.float8_e4m3fn)).all()
    with pytest.raises(InvalidError, match=r"the step at \[0\] \(2 in all\) leaves the range of float8_e4m3fn"):
        bits.nudge(largest, torch.tensor([1, -1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_table_agrees_with_torch_on_every_format(dtype: torch.dtype) -> None:
    row, finfo = bits.FORMATS[dtype], torch.finfo(dtype)
    assert row.width == finfo.bits
    assert 2.0**-row.mantissa == finfo.eps
    assert 2.0 ** (1 - row.bias) == finfo.smallest_normal
    assert bits.from_total_order(torch.tensor(row.largest), dtype).double().item() == finfo.max


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_every_pair_of_8_bit_numbers_is_compared_as_its_values_are(name: str) -> None:
    codes = np.arange(256).astype("uint8")
    values = codes.view(NARROW[name]).astype(np.float64)
    left, right = (axis.ravel() for axis in np.meshgrid(codes, codes, indexing="ij"))
    a, b = (torch.from_numpy(side.view("int8")).view(getattr(torch, name)) for side in (left, right))
    assert np.array_equal(left == right, bits.same_bits(a, b).numpy())
    number = ~np.isnan(values[left]) & ~np.isnan(values[right])
    ranks = np.searchsorted(np.unique(values[~np.isnan(values)]), values)
    expected = np.abs(ranks[left] - ranks[right])[number]
    kept = torch.from_numpy(number)
    assert np.array_equal(expected, bits.ulp_distance(a[kept], b[kept]).numpy())
    one = int(number.sum()) // 2
    assert bits.value_equal(a[kept][one], b[kept][one]) == (values[left][number][one] == values[right][number][one])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_two_zeros_are_one_point_of_value_and_two_of_total_order(dtype: torch.dtype) -> None:
    zeros = torch.tensor([-0.0, 0.0], dtype=dtype)
    minus, plus = zeros
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert bits.ordered(zeros).tolist() == [0, 0]
    assert bits.total_order(zeros).tolist() == [-1, 0]
    assert bits.ulp_distance(minus, plus).item() == 0
    assert bits.nudge(zeros, 1).tolist() == [tiny, tiny]
    assert bits.nudge(zeros, -1).tolist() == [-tiny, -tiny]


def test_a_step_to_zero_gives_plus_zero_and_no_step_keeps_the_sign() -> None:
    assert bits.pattern(bits.nudge(torch.tensor(-1e-45), 1)) == "0x00000000"
    assert bits.pattern(bits.nudge(torch.tensor(-0.0), 0)) == "0x80000000"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 2**62, INT64_MAX, 2**70, -(2**70), torch.tensor(-(2**63))])
def test_a_step_past_infinity_is_refused_however_long(dtype: torch.dtype, k: int | torch.Tensor) -> None:
    end = torch.finfo(dtype).max if k > 0 else torch.finfo(dtype).min
    x = torch.tensor([[1.0, end]], dtype=dtype)[:, 1:]
    with pytest.raises(InvalidError, match=r"the step at \[0, 0\] \(1 in all\) leaves the range of"):
        bits.nudge(x, k)


def test_the_longest_step_there_is_ends_on_its_number() -> None:
    """From the lowest float64 key, minus infinity's, 2^63 - 1 steps lead to the number of that many patterns less."""
    found = bits.nudge(torch.tensor(-INF, dtype=torch.float64), INT64_MAX)
    assert bits.pattern(found) == f"0x{INT64_MAX - 0x7FF0_0000_0000_0000:016x}"
    assert bits.pattern(bits.nudge(torch.tensor(INF, dtype=torch.float64), -INT64_MAX)) == "0x800fffffffffffff"


def test_nan_has_no_distance_and_no_neighbour_and_the_message_names_its_place() -> None:
    x = torch.tensor([[1.0, 2.0], [NAN, NAN]], dtype=torch.bfloat16)
    with pytest.raises(InvalidError, match=r"NaN in left at \[1, 0\] \(2 in all\)"):
        bits.ulp_distance(x, torch.zeros_like(x))
    with pytest.raises(InvalidError, match=r"NaN in right at \[1, 0\] \(2 in all\)"):
        bits.ulp_distance(torch.zeros_like(x), x)
    with pytest.raises(InvalidError, match=r"NaN in x at \[1, 0\]"):
        bits.nudge(x, 1)


@pytest.mark.parametrize("compare", [bits.ulp_distance, bits.same_bits])
def test_different_dtypes_and_shapes_are_refused_with_both_named(compare: object) -> None:
    assert callable(compare)
    with pytest.raises(UsageError, match="dtype bfloat16 != float32"):
        compare(torch.ones(2).bfloat16(), torch.ones(2))
    with pytest.raises(UsageError, match=r"shape \(2,\) != \(1, 2\)"):
        compare(torch.ones(2), torch.ones(1, 2))


def test_an_integer_tensor_is_refused_with_the_supported_dtypes() -> None:
    with pytest.raises(UsageError, match=r"int32 .* use one of float64, float32, float16, bfloat16"):
        bits.ordered(torch.zeros(2, dtype=torch.int32))


@pytest.mark.parametrize("k", [torch.tensor(1.0), torch.tensor(True), torch.ones(3, dtype=torch.int64)])
def test_a_step_count_that_is_no_integer_or_does_not_fit_is_refused(k: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"integer|broadcast"):
        bits.nudge(torch.zeros(2), k)


@pytest.mark.parametrize("key", [torch.tensor([0, 2**15]), torch.tensor([0, -(2**15) - 1])])
def test_a_key_the_dtype_does_not_have_is_refused(key: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"key at \[1\] .* outside bfloat16's -32768..32767"):
        bits.from_total_order(key, torch.bfloat16)
    with pytest.raises(UsageError, match="keys are int64, not int32"):
        bits.from_total_order(key.int(), torch.bfloat16)


def test_an_upcast_changes_the_unit_so_ulps_are_counted_in_the_native_dtype() -> None:
    a, b = torch.tensor([1.0]).bfloat16(), torch.tensor([1.0078125]).bfloat16()
    assert bits.ulp_distance(a, b).item() == 1
    assert bits.ulp_distance(a.float(), b.float()).item() == 2**16


def test_steps_broadcast_so_that_one_number_gives_its_whole_neighbourhood() -> None:
    steps = torch.arange(-3, 4, dtype=torch.int32)[:, None]
    around = bits.nudge(torch.tensor([1.0, -2.0]).half(), steps)
    assert around.shape == (7, 2)
    assert torch.equal(steps.long().expand(7, 2), bits.ordered(around) - bits.ordered(around[3]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_empty_tensors_scalars_and_gradients_do_not_matter(dtype: torch.dtype) -> None:
    dense = torch.linspace(-2, 2, 24).to(dtype).reshape(4, 6)
    for view in (dense.T, dense[::2, 1::3], dense[0, 0], dense[:0], dense[1:2, ::6], dense.expand(2, 4, 6)):
        copy = view.clone(memory_format=torch.contiguous_format).requires_grad_()
        assert torch.equal(bits.ordered(copy), bits.ordered(view))
        assert bits.bits_equal(view, bits.from_total_order(bits.total_order(view), dtype))
        assert bits.bits_equal(copy, view)
        assert bits.value_equal(copy, view)
        assert bits.same_bits(copy, view).all()
        assert bits.ulp_distance(bits.nudge(copy, 3), view).eq(3).all()
        assert bits.spacing(view).shape == view.shape
        assert not bits.raw_bytes(copy).requires_grad


def test_a_lazily_negated_view_is_read_with_its_sign() -> None:
    lazy = torch.tensor([1 + 2j]).conj().imag
    assert lazy.is_neg()
    assert bits.pattern(lazy) == "0xc0000000"
    assert bits.bits_equal(torch.tensor([-2.0]), lazy)


def test_the_three_equalities_part_at_signed_zeros_and_nans() -> None:
    plus, minus = torch.tensor([1.0, 0.0]), torch.tensor([1.0, -0.0])
    nan, payload = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert bits.value_equal(plus, minus)
    assert not bits.bits_equal(plus, minus)
    assert bits.same_bits(plus, minus).tolist() == [True, False]
    assert bits.bits_equal(nan, nan)
    assert not bits.bits_equal(nan, payload)
    assert not bits.value_equal(nan, nan)


def test_equality_needs_the_dtype_and_the_shape() -> None:
    zero = torch.zeros(2).half()
    for equal in (bits.bits_equal, bits.value_equal):
        assert equal(zero, zero.clone()) is True
        assert equal(zero, zero.bfloat16()) is False
        assert equal(zero, zero.double()) is False
        assert equal(zero, zero[None]) is False

        assert equal(zero, zero.clone())
        for other in (zero.bfloat16(), zero.double(), zero[None]):
            assert equal(zero, other) is False, "a bool as any other answer"


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_bits_are_compared_for_any_dtype(dtype: torch.dtype) -> None:
    ones, other = torch.ones(3).to(dtype), torch.tensor([1.0, 1.0, 0.0]).to(dtype)
    assert bits.bits_equal(ones, ones.clone())
    assert not bits.bits_equal(ones, other)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (-1.8203125, torch.bfloat16, "0xbfe9"),
        (1.0, torch.float16, "0x3c00"),
        (-0.0, torch.float32, "0x80000000"),
        (-INF, torch.float64, "0xfff0000000000000"),
        (5e-324, torch.float64, "0x0000000000000001"),
    ],
)
def test_a_pattern_is_printed_in_full_width_with_the_sign_first(
    value: float, dtype: torch.dtype, expected: str
) -> None:
    assert bits.pattern(torch.tensor(value, dtype=dtype)) == expected
    assert bits.pattern(torch.tensor([[value]], dtype=dtype)) == expected


def test_a_pattern_of_several_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2,\)"):
        bits.pattern(torch.zeros(2))


@pytest.mark.usefixtures("flush_to_zero")
def test_subnormals_are_seen_and_walked_while_the_processor_flushes_them() -> None:
    for dtype, spelled in ((torch.float32, "0x00000001"), (torch.float64, "0x0000000000000001")):
        zero = torch.tensor(0.0, dtype=dtype)
        tiny = bits.nudge(zero, 1)
        assert bits.pattern(tiny) == spelled
        assert not bits.value_equal(zero, tiny)
        assert bits.ulp_distance(zero, tiny).item() == 1
    assert bits.pattern(bits.spacing(zero)) == "0x0000000000000001"
