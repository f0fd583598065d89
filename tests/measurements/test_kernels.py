"""Kernel accuracy: planted defects with known readings, their clean twins, and exact fractions as a second opinion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.kernels import KernelAccuracy
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.trials import alone, true_result
from stabilitykit.numerics.bits import bits_equal, nudge, pattern
from stabilitykit.results.result import Result
from stabilitykit.subjects.draws import DRAWS
from stabilitykit.subjects.kernel import Kernel


def ask(fn: Callable[..., Tensor], signature: str = "bh->bh", *, shapes: Any = ((3, 5),), **given: Any) -> Result:
    """Ask about a function, with the kernel's own arguments and the measurement's told apart."""
    own = {key: given.pop(key) for key in ("dtype", "batch_axis", "inputs", "exact") if key in given}
    kernel = Kernel(fn, signature, name="toy", **own)
    given = {"draws": ("normal",), "tries": 1, **given}
    return measure(KernelAccuracy(shapes=shapes, **given), kernel, progress=False)


def values(result: Result) -> dict[str, float]:
    return {name: reading.value for name, reading in result.readings.items()}


def same(x: Tensor) -> Tensor:
    """A kernel without any error."""
    return x.clone()


CHANGES = [f"{kind}_{name}" for kind in ("batch", "split", "stride") for name in ("max_ulp", "max_scaled_ulp")]
BITS = ["repeat_differing_bits", *(f"{kind}_differing_bits" for kind in ("batch", "split", "stride"))]


# ---- a kernel without an error ----


def test_an_exact_kernel_is_right_everywhere_and_always() -> None:
    result = ask(same, shapes=[(3, 5), (1, 7)], draws=DRAWS, tries=2)
    found = values(result)
    assert result.verdict == "measured"
    assert [found[name] for name in ("max_ulp", "max_scaled_ulp", "excess", "not_finite", "median_ulp")] == [0] * 5
    assert [found[name] for name in (*BITS, *CHANGES)] == [0] * 10
    assert found["correctly_rounded"] == 1
    # Two shapes twice whole, then each again and in four layouts; of three rows each alone, and the halves.
    assert found["runs"] == 5 * (2 * 2 + 2 * (1 + 4) + 3 + 1)
    assert found["refused"] == 0
    assert result.worst is None
    assert "rounds 220 of 220 elements as float64 rounded once" in result.sentence
    assert "Its bits are the same when run again, by rows alone, in two halves and in other layouts." in result.sentence


@pytest.mark.parametrize(
    ("signature", "shape", "missing", "layouts"),
    [
        ("bh->bh", (1, 5), ["batch", "split"], 4),
        ("h->h", (5,), ["batch", "split"], 2),
        ("bh->bh", (2, 5), [], 4),
    ],
)
def test_what_cannot_be_compared_is_nan_and_not_zero(
    signature: str, shape: tuple[int, ...], missing: list[str], layouts: int
) -> None:
    result = ask(same, signature, shapes=[shape])
    for kind in ("batch", "split", "stride"):
        assert math.isnan(values(result)[f"{kind}_differing_bits"]) == (kind in missing)
    assert sum(row["run"] == "stride" for row in result.rows) == layouts
    assert ("rows alone" in result.sentence) == (not missing)


# ---- planted errors: each reading by hand ----


def nudged_at(place: tuple[int, int], k: int, when: Callable[[Tensor], bool] = lambda x: True) -> Callable[..., Tensor]:
    """A copy with one element k ULP away, if `when`."""

    def run(x: Tensor) -> Tensor:
        y = x.contiguous().clone()
        if x.dtype == torch.float32 and when(x):
            y[place] = nudge(y[place], k)
        return y

    return run


def test_a_wrong_element_is_found_and_sized() -> None:
    def plain(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.broadcast_to([1.5, 1.5, 1.5, 3.0, 1.5], shape)

    result = ask(nudged_at((0, 2), 12), draws=[plain])
    found = values(result)
    assert (found["max_ulp"], found["max_scaled_ulp"], found["median_ulp"]) == (12, 6, 12)
    assert found["excess"] == 6  # 12 * 2**-23 over the move of the largest element, 2**-22
    assert found["correctly_rounded"] == 14 / 15
    assert result.readings["excess"].place["shape"] == "3x5"
    assert result.readings["excess"].place["draw"] == "plain"
    assert result.worst is not None
    assert result.worst.where.startswith("y[0, 2] at x0 = 1.5 (0x3fc00000) (shape 3x5, draw plain, try 0")
    assert (result.worst.left, result.worst.right) == ("1.5 (0x3fc00000)", "1.50000143 (0x3fc0000c)")


def test_the_worst_run_is_the_one_with_the_largest_excess_and_not_with_the_most_ulp() -> None:
    def plain(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.full(shape, 1.5)

    def uneven(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.broadcast_to([1.0, 2.0**-40, 1.0, 1.0, 1.0], shape)

    def wrong(x: Tensor) -> Tensor:
        y = x.contiguous().clone()
        if x.dtype == torch.float32:
            y[0] += torch.tensor([0, 0, 5 * 2.0**-23, 0, 0] if x[0, 0] == 1.5 else [0, 2.0**-30, 0, 0, 0])
        return y

    result = ask(wrong, draws=[plain, uneven])
    assert values(result)["max_ulp"] > 1e6
    assert result.readings["max_ulp"].place["draw"] == "uneven"
    assert result.readings["excess"].place["draw"] == "plain"
    assert result.worst is not None
    assert result.worst.where.startswith("y[0, 2] at x0 = 1.5")
    assert (result.arrays["worst_input_0"] == 1.5).all()


def test_a_median_is_typical_and_not_the_worst() -> None:
    result = ask(lambda x: nudge(x, 2) if x.dtype == torch.float32 and x[0, 0] < 0 else same(x), tries=4, seed=1)
    medians = [row["median_ulp"] for row in result.rows if row["run"] == "whole"]
    assert sorted(set(medians)) == [0, 2]
    assert values(result)["median_ulp"] == np.median(medians)
    assert values(result)["max_ulp"] == 2


@pytest.mark.parametrize(
    ("when", "changed", "kinds"),
    [
        (lambda x: len(x) == 3, ["batch", "split"], {"row 0 alone", "two halves"}),
        (lambda x: len(x) == 1, ["batch", "split"], {"row 0 alone", "row 1 alone", "row 2 alone", "two halves"}),
        (lambda x: len(x) == 2, ["split"], {"two halves"}),
        (lambda x: x.stride() == (1, 3), ["stride"], {"transposed"}),
        (lambda x: x.stride() == (8, 1), ["stride"], {"padded"}),
        (lambda x: x.stride(1) == 2, ["stride"], {"stepped"}),
        (lambda x: x.data_ptr() % 16 == 4, ["stride"], {"shifted"}),
    ],
)
def test_a_run_in_other_company_or_memory_is_told_from_the_whole(
    when: Callable[[Tensor], bool], changed: list[str], kinds: set[str]
) -> None:
    result = ask(nudged_at((0, 2), 3, when))
    found = values(result)
    assert result.verdict == "differs"
    for kind in ("batch", "split", "stride"):
        assert found[f"{kind}_differing_bits"] == (kind in changed)
        assert found[f"{kind}_max_ulp"] == 3 * (kind in changed)
        assert (found[f"{kind}_max_scaled_ulp"] > 0) == (kind in changed)
    assert {row["variant"] for row in result.rows if row.get("differing_bits")} == kinds
    assert found["repeat_differing_bits"] == 0
    assert found["max_ulp"] == 3  # every run is judged, not the whole one alone
    words = {"batch": "by rows alone", "split": "in two halves", "stride": "in other layouts"}
    assert "Its bits differ " + " and ".join(words[kind] for kind in changed) in result.sentence
    assert "and the same when run again" in result.sentence


def test_the_largest_change_is_in_units_of_the_largest_element() -> None:
    def steps(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.broadcast_to([1.0, 1.0, 1.0, 8.0, 1.0], shape)

    found = values(ask(nudged_at((0, 2), 4, lambda x: len(x) == 3), draws=[steps]))
    assert (found["batch_max_ulp"], found["batch_max_scaled_ulp"]) == (4, 0.5)


def test_a_kernel_that_does_not_repeat_is_told_so() -> None:
    calls = itertools.count()
    result = ask(nudged_at((0, 0), 1, lambda x: next(calls) == 1))
    assert values(result)["repeat_differing_bits"] == 1
    assert result.verdict == "differs"
    assert "Its bits differ when run again, and the same by rows alone" in result.sentence


def test_each_row_is_judged_at_its_own_place() -> None:
    # Three rows alone, of which only the last errs, in a tensor whose batch axis is not the first.
    def last(x: Tensor) -> Tensor:
        y = x.contiguous().clone()
        if x.dtype == torch.float32:
            y[1, -1] = nudge(y[1, -1], 5)
        return y

    result = ask(last, "hb->hb", batch_axis="b", shapes=[(4, 3)])
    whole = next(row for row in result.rows if row["run"] == "whole")
    assert (whole["index"], whole["max_ulp"]) == ("1, 2", 5)
    by_variant = {row["variant"]: row for row in result.rows}
    assert by_variant["row 2 alone"]["differing_bits"] == 0
    assert by_variant["row 1 alone"]["index"] == "1, 1"
    assert by_variant["row 1 alone"]["differing_bits"] == 1
    (x,) = Kernel(last, "hb->hb", batch_axis="b").draw((4, 3), "normal", (0, 0))
    assert [by_variant[f"row {row} alone"]["truth"] for row in range(3)] == x[1].double().tolist()


def test_an_index_of_several_axes_is_that_of_the_kernels_own_output() -> None:
    def one(x: Tensor) -> Tensor:
        y = x.clone()
        if x.dtype == torch.float32 and x.shape == (2, 3, 4):
            y[1, 2, 3] = nudge(y[1, 2, 3], 9)
        return y

    for axis in ("a", "b", "c", None):
        result = ask(one, "abc->abc", batch_axis=axis, shapes=[(2, 3, 4)])
        whole = next(row for row in result.rows if row["run"] == "whole")
        assert whole["index"] == "1, 2, 3"
        assert f"x0 = {whole['truth']:.9g}" in whole["at"]


# ---- what is not finite, and what cannot be judged ----


def test_what_is_not_finite_is_an_error_of_its_own_named_by_its_index() -> None:
    def broken(x: Tensor) -> Tensor:
        y = x.clone()
        if x.dtype == torch.float32:
            y[1:2, 3] = math.inf
        return y

    result = ask(broken)
    found = values(result)
    assert result.verdict == "invalid"
    assert found["not_finite"] == 1
    assert all(math.isnan(found[name]) for name in ("max_ulp", "max_scaled_ulp", "excess"))
    assert "toy is not finite in 7 of 10 runs, first at y[1, 3], which is inf where float64 has" in result.sentence
    with pytest.raises(AssertionError, match=r"max_ulp nan breaks <= 1e\+06"):
        result.check(max_ulp=1_000_000)


def test_a_nan_against_a_number_has_no_size() -> None:
    result = ask(nudged_at((0, 2), 3, lambda x: False), draws=["normal"])
    assert values(result)["stride_max_ulp"] == 0

    def read_wrongly(x: Tensor) -> Tensor:
        return torch.as_strided(x, x.shape, (x.shape[1], 1)).clone()

    lost = ask(read_wrongly)
    assert lost.verdict == "invalid"
    assert values(lost)["stride_differing_bits"] == 14  # every element but the first, where the transposed one is read
    assert math.isnan(values(lost)["stride_max_ulp"])
    assert math.isnan(values(lost)["stride_max_scaled_ulp"])
    assert values(lost)["batch_differing_bits"] == 0


def test_an_overflow_that_the_truth_shares_is_right() -> None:
    def huge(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.full(shape, 1e38)

    assert ask(lambda x: x * 8, draws=[huge]).verdict == "measured"


def test_a_refused_layout_is_counted_and_no_error() -> None:
    def strict(x: Tensor) -> Tensor:
        if not x.is_contiguous():
            raise RuntimeError("input must be contiguous")
        return x.clone()

    result = ask(strict)
    assert (values(result)["refused"], result.verdict) == (3, "measured")
    assert sum(row["run"] == "stride" for row in result.rows) == 1
    with pytest.raises(RuntimeError, match="at all"):
        ask(lambda x: (_ for _ in ()).throw(RuntimeError("at all")), exact=same)


def test_float64_needs_a_better_reference() -> None:
    for fn, dtype in ((same, "float64"), (lambda x: x.double(), "float32")):
        with pytest.raises(UnsupportedError, match="returns float64 and so does its own formula; give reference="):
            ask(fn, dtype=dtype)
        assert values(ask(fn, dtype=dtype, reference=same))["max_ulp"] == 0


def test_a_truth_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidError, match="the reference is no number at"):
        ask(same, reference=lambda x: x / 0 * 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shapes": []}, r"shapes is empty; give at least one, such as shapes=\[\(8, 256\)\]"),
        ({"shapes": 8}, r"shapes=8 is no list; write shapes=\[8\]"),
        ({"draws": []}, r"draws=\[\] draws nothing; give a list"),
        ({"draws": "normal"}, "draws='normal' draws nothing; give a list"),
        ({"draws": ["nromal"]}, "draw 'nromal' is not one of"),
        ({"tries": 0}, "tries=0 tries nothing; give at least 1"),
        ({"seed": -1}, "seed=-1 is negative"),
    ],
)
def test_what_tries_nothing_is_refused_on_construction(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KernelAccuracy(**{"shapes": [(2, 3)], **given})


def test_another_kind_of_thing_is_refused() -> None:
    with pytest.raises(UsageError, match="is asked of a Kernel, not of a function; make one with Kernel"):
        measure(KernelAccuracy(shapes=[(2, 3)]), same)  # type: ignore[arg-type]


# ---- independent oracle: exact fractions on the same inputs ----


def nearest(value: Fraction) -> Fraction:
    """A bfloat16 number, to nearest even, in exact arithmetic; normal numbers only."""
    if not value:
        return value
    e = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    e -= Fraction(2) ** e > abs(value)
    quantum = Fraction(2) ** (e - 7)
    return round(value / quantum) * quantum


def unit(value: Fraction) -> Fraction:
    e = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    e -= Fraction(2) ** e > abs(value)
    return Fraction(2) ** (e - 7)


def test_a_product_in_bfloat16_is_judged_as_exact_fractions_judge_it() -> None:
    def coarse(a: Tensor, b: Tensor) -> Tensor:
        total = a[:, :1] @ b[:1]
        for k in range(1, a.shape[1]):
            total = total + a[:, k : k + 1] @ b[k : k + 1]
        return total

    kernel = Kernel(coarse, "mk,kn->mn", dtype="bfloat16")
    result = measure(KernelAccuracy(shapes=[(3, 6, 4)], draws=["normal"], tries=3, seed=9), kernel, progress=False)
    correct, scaled, wrong = 0, [], []
    for attempt in range(3):
        a, b = kernel.draw((3, 6, 4), "normal", (9, attempt))
        got = coarse(a, b)
        A, B = ([[Fraction(v) for v in line] for line in x.double().tolist()] for x in (a, b))
        for m in range(3):
            exact = [sum(A[m][k] * B[k][n] for k in range(6)) for n in range(4)]
            best = [nearest(Fraction(value)) for value in exact]
            line = [Fraction(value) for value in got[m].double().tolist()]
            correct += sum(x == y for x, y in zip(line, best, strict=True))
            largest = max(map(abs, best))
            scaled.append(max(abs(x - y) for x, y in zip(line, best, strict=True)) / unit(largest))
            wrong += [pattern(x) for x, y in zip(got[m], best, strict=True) if Fraction(float(x)) != y]
    found = values(result)
    assert found["correctly_rounded"] == correct / 36
    assert found["max_scaled_ulp"] == float(max(scaled))
    assert {row["output_bits"] for row in result.rows if "output_bits" in row} <= set(wrong)
    assert found["not_finite"] == 0


def test_the_excess_excuses_what_an_input_ulp_does() -> None:
    # y = x ** 64 multiplies a relative error by 64, but a kernel that rounds its input once more is excused.
    def power(x: Tensor) -> Tensor:
        return (x.double() ** 64).to(x.dtype)

    def clumsy(x: Tensor) -> Tensor:
        return power(nudge(x, 1) if x.dtype == torch.float32 else x)

    def wrong(x: Tensor) -> Tensor:
        return power(nudge(x, 40) if x.dtype == torch.float32 else x)

    def near_one(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return 1 + random.integers(0, 1000, size=shape) / 8192

    sharp, excused, found = (values(ask(fn, draws=[near_one])) for fn in (power, clumsy, wrong))
    assert sharp["excess"] < 1
    assert excused["max_scaled_ulp"] > 30
    assert 0.9 < excused["excess"] < 1.2
    assert 36 < found["excess"] < 48


def test_what_an_input_ulp_does_is_the_largest_of_three_patterns() -> None:
    # The two inputs of a row move its difference by 0 or by 2 ULP; no row of 200 stays at 0 in all but one of eight.
    kernel = Kernel(lambda x: x[:, :1] - x[:, 1:], "bh->bo")
    truth = true_result(kernel, [torch.full((200, 2), 1.5)], None, (0,))
    assert {move * 2**22 for move in truth.moved.tolist()} == {0, 1}
    assert 0.05 < float((truth.moved == 0).double().mean()) < 0.25


def test_the_noise_of_the_truth_is_what_a_float64_ulp_does() -> None:
    result = ask(lambda x: (x * 2**20).floor() / 2**20, draws=["normal"])
    assert result.noise.startswith("one float64 ULP of every input moves the reference by at most ")
    exact = ask(same)
    assert all(row["truth_noise"] <= 2**-29 for row in exact.rows)
    assert all(row["truth_noise"] >= 2**-31 for row in exact.rows)


# ---- known kernels with planted defects, and their clean twins ----


def softmax(x: Tensor) -> Tensor:
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def softmax_without_maximum(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(-1, keepdim=True)


def rms_norm(x: Tensor, w: Tensor, eps: float = 1e-6) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def rms_norm_of_another_eps(x: Tensor, w: Tensor) -> Tensor:
    return rms_norm(x, w, 1e-5)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] * b).sum(1)


def matmul_in_bfloat16(a: Tensor, b: Tensor) -> Tensor:
    return (a.bfloat16() @ b.bfloat16()).to(a.dtype)


def matmul_split_by_batch(a: Tensor, b: Tensor) -> Tensor:
    parts = 4 if len(a) < 4 else 1
    return torch.stack([matmul(x, y) for x, y in zip(a.chunk(parts, 1), b.chunk(parts, 0), strict=True)]).sum(0)


def matmul_of_rows_as_they_lie(a: Tensor, b: Tensor) -> Tensor:
    return matmul(torch.as_strided(a, a.shape, (a.shape[1], 1)), b)


CASES = {
    "softmax": (softmax, "bh->bh", (6, 64), None),
    "rms_norm": (rms_norm, "bh,h->bh", (6, 64), None),
    "matmul": (matmul, "mk,kn->mn", (6, 64, 8), None),
}
DEFECTS = {
    "softmax without its maximum": (softmax_without_maximum, "bh->bh", (6, 64), softmax, "not_finite"),
    "another eps": (rms_norm_of_another_eps, "bh,h->bh", (6, 64), rms_norm, "excess"),
    "bfloat16 products": (matmul_in_bfloat16, "mk,kn->mn", (6, 64, 8), None, "excess"),
    "split by batch": (matmul_split_by_batch, "mk,kn->mn", (6, 64, 8), None, "batch_differing_bits"),
    "strides ignored": (matmul_of_rows_as_they_lie, "mk,kn->mn", (6, 64, 8), matmul, "not_finite"),
}
LIMITS = {"excess": 10, "not_finite": 0, "batch_differing_bits": 0, "repeat_differing_bits": 0}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_clean_kernel_keeps_the_limits(name: str, dtype: str) -> None:
    fn, signature, shape, reference = CASES[name]
    ask(fn, signature, shapes=[shape], dtype=dtype, draws=DRAWS, tries=2, reference=reference).check(**LIMITS)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_breaks_the_limit_that_names_it(name: str) -> None:
    fn, signature, shape, reference, broken = DEFECTS[name]
    result = ask(fn, signature, shapes=[shape], draws=DRAWS, tries=2, reference=reference)
    with pytest.raises(AssertionError, match=f"{broken} .* breaks"):
        result.check(**{broken: LIMITS[broken]})


def accumulated_in_bfloat16(a: Tensor, b: Tensor) -> Tensor:
    total = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


def accumulated_in_float32(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() @ b.float()).to(a.dtype)


def test_a_narrow_accumulator_exceeds_what_the_inputs_of_its_own_dtype_excuse() -> None:
    how: dict[str, Any] = {"shapes": [(4, 256, 8)], "dtype": "bfloat16", "draws": DRAWS, "tries": 2}
    ask(accumulated_in_float32, "mk,kn->mn", **how).check(excess=1, correctly_rounded=0.9)
    found = values(ask(accumulated_in_bfloat16, "mk,kn->mn", **how))
    assert found["excess"] > 2
    assert found["correctly_rounded"] < 0.5


def test_a_float8_kernel_is_judged_too() -> None:
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        ask(accumulated_in_float32, "mk,kn->mn", shapes=[(3, 32, 8)], dtype=dtype, draws=DRAWS).check(
            excess=1, correctly_rounded=1, not_finite=0, batch_differing_bits=0, stride_differing_bits=0
        )


def test_a_wrong_formula_is_not_found_without_a_reference() -> None:
    result = ask(rms_norm_of_another_eps, "bh,h->bh", shapes=[(6, 64)], draws=DRAWS)
    result.check(**LIMITS)


# ---- replay, cost, several kernels ----


def test_the_worst_inputs_are_kept_with_every_bit_and_give_the_worst_output_again() -> None:
    result = ask(softmax, shapes=[(3, 40)], draws=DRAWS, tries=2, dtype="bfloat16", seed=4)
    worst = max(result.rows, key=lambda row: float(row["excess"]))
    kernel = Kernel(softmax, "bh->bh", dtype="bfloat16")
    (x,) = kernel.draw((3, 40), worst["draw"], (4, worst["try"]))
    assert bits_equal(torch.from_numpy(result.arrays["worst_input_0"]).bfloat16(), x)
    row, column = (int(i) for i in worst["index"].split(", "))
    if worst["run"] == "whole":
        assert pattern(softmax(x)[row, column]) == worst["output_bits"]
        assert result.arrays["worst_output"].shape == (3, 40)
    assert result.arrays["worst_truth"].dtype == np.float64
    assert result.worst is not None
    assert worst["output_bits"] in result.worst.right
    assert worst["truth_bits"] in result.worst.left


@pytest.mark.parametrize(
    ("signature", "shapes", "given"),
    [
        ("bh->bh", [(1, 3), (2, 3), (9, 3)], {}),
        ("bh->bh", [(5, 3)], {"draws": ["wide"], "tries": 3}),
        ("h->h", [4], {}),
        ("bh->bh", [(5, 3)], {"batch_axis": None}),
    ],
)
def test_the_stated_cost_is_what_is_called(signature: str, shapes: Any, given: dict[str, Any]) -> None:
    kernel = Kernel(same, signature, **{key: given.pop(key) for key in ("batch_axis",) if key in given})
    question = KernelAccuracy(shapes=shapes, **given)
    stated, spent = question.cost(kernel), measure(question, kernel, progress=False).execution
    assert (stated.calls, stated.forwards) == (spent.calls, spent.forwards)
    assert spent.forwards == 0


def test_rows_alone_are_spread_over_the_batch() -> None:
    assert [alone(batch) for batch in (2, 3, 4, 100)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 33, 66, 99]]


def test_several_kernels_are_one_result_with_their_names() -> None:
    kernels = [Kernel(same, "bh->bh", name="a"), Kernel(nudged_at((0, 0), 7), "bh->bh", name="b")]
    result = measure(KernelAccuracy(shapes=[(2, 3)], draws=["normal"], tries=1), kernels, progress=False)
    assert {row["subject"] for row in result.rows} == {"a", "b"}
    assert result.readings["max_ulp"].place["subject"] == "b"
    assert result.readings["max_ulp"].value == 7


def test_a_function_is_named_and_not_addressed_in_identity_and_title() -> None:
    one, two = (KernelAccuracy(shapes=[(2, 3)], reference=fn) for fn in (softmax, rms_norm))
    assert one.identity != two.identity
    assert one.parameters()["reference"].endswith("test_kernels.softmax")
    assert "0x" not in one.title
    again = KernelAccuracy(shapes=[(2, 3)], reference=softmax)
    assert again.identity == one.identity
