"""Two kernels on the same inputs: every reading by hand, and who is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.kernel_pair import KernelPair
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.bits import bits_equal, nudge
from stabilitykit.results.result import Result
from stabilitykit.subjects.kernel import Kernel


def plain(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    return np.broadcast_to([1.5, 1.5, 1.5, 3.0, 1.5], shape)


def moved(*changes: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """A copy whose elements (row, column) are k ULP away; exact in float64."""

    def run(x: Tensor) -> Tensor:
        y = x.contiguous().clone()
        if x.dtype != torch.float64:
            for row, column, k in changes:
                y[row, column] = nudge(y[row, column], k)
        return y

    return run


def pair(a: Callable[..., Tensor], b: Callable[..., Tensor], **given: Any) -> Result:
    own = {key: given.pop(key) for key in ("dtype",) if key in given}
    first, second = Kernel(a, "bh->bh", name="first", **own), Kernel(b, "bh->bh", name="second", **own)
    given = {"shapes": [(3, 5)], "draws": [plain], "tries": 1, **given}
    return measure(KernelPair(second, **given), first, progress=False)


def values(result: Result) -> dict[str, float]:
    return {name: reading.value for name, reading in result.readings.items()}


def test_every_reading_by_hand() -> None:
    result = pair(moved((0, 0, 2), (1, 3, 1)), moved((0, 0, -1), (1, 3, 5), (2, 4, 6)))
    found = values(result)
    assert (found["differing_bits"], found["max_ulp"], found["median_ulp"]) == (3, 6, 4)
    assert found["max_scaled_ulp"] == 4  # 3.0 moved from 1 to 5 ULP, and ULP of 3.0 are the largest
    assert (found["a_nearer"], found["b_nearer"]) == (2 / 3, 1 / 3)
    assert (found["a_max_scaled_ulp"], found["b_max_scaled_ulp"]) == (1, 5)
    assert (found["a_excess"], found["b_excess"]) == (1, 5)
    assert (found["a_correctly_rounded"], found["b_correctly_rounded"]) == (13 / 15, 12 / 15)
    assert (found["a_not_finite"], found["b_not_finite"], found["trials"]) == (0, 0, 1)
    assert result.verdict == "measured"
    assert result.sentence.startswith("first and second differ in 3 of 15 elements, by at most 4 scaled ULP.")
    assert "Float64 is nearer to first in 2 of them and to second in 1" in result.sentence
    assert result.worst is not None
    assert result.worst.where == "y[1, 3], float64 3 (shape 3x5, draw plain, try 0)"
    assert (result.worst.left_name, result.worst.right_name) == ("first", "second")
    assert (result.worst.left, result.worst.right) == ("3.00000024 (0x40400001)", "3.00000119 (0x40400005)")


def test_equal_errors_make_neither_nearer() -> None:
    found = values(pair(moved((0, 0, 2)), moved((0, 0, -2))))
    assert (found["a_nearer"], found["b_nearer"], found["max_ulp"]) == (0, 0, 4)


def test_a_sign_of_zero_is_a_bit_and_no_distance() -> None:
    result = pair(lambda x: x * 0, lambda x: -(x * 0), draws=["normal"])
    found = values(result)
    assert (found["differing_bits"], found["max_ulp"]) == (15, 0)
    assert math.isnan(found["a_nearer"])


def test_two_ways_to_the_same_bits_pass() -> None:
    result = pair(lambda x: x * 2, lambda x: x + x, draws=["normal", "wide"], tries=3)
    assert result.verdict == "pass"
    assert result.sentence == "first and second have the same bits in all 90 elements of 6 trials."
    assert values(result)["differing_bits"] == 0
    assert result.worst is None


def test_one_function_twice_is_no_comparison() -> None:
    result = pair(torch.exp, torch.exp)
    assert result.verdict == "not-distinct"
    assert "one function on one device: that they agree proves nothing" in result.sentence


@pytest.mark.parametrize("broken", ["first", "second"])
def test_what_is_not_finite_is_invalid_and_named(broken: str) -> None:
    def bad(x: Tensor) -> Tensor:
        return x / (0 if x.dtype == torch.float32 else 1)

    def good(x: Tensor) -> Tensor:
        return x * 1

    result = pair(*((bad, good) if broken == "first" else (good, bad)))
    assert result.verdict == "invalid"
    assert result.sentence == f"{broken} is not finite in 1 of 1 trials, first at shape 3x5, draw plain."
    side = "a" if broken == "first" else "b"
    assert values(result)[f"{side}_not_finite"] == 15
    assert math.isnan(values(result)[f"{side}_excess"])


def test_a_nan_against_a_number_has_no_distance() -> None:
    result = pair(lambda x: x * 1, lambda x: x * (math.nan if x.dtype == torch.float32 else 1))
    assert math.isnan(values(result)["max_ulp"])
    assert values(result)["differing_bits"] == 15


def test_a_reference_decides_between_them() -> None:
    def tripled(x: Tensor) -> Tensor:
        return x * 3

    def doubled(x: Tensor) -> Tensor:
        return x * 2

    own, given = values(pair(tripled, doubled)), values(pair(tripled, doubled, reference=doubled))
    assert (own["a_nearer"], own["b_nearer"]) == (1, 0)
    assert (given["a_nearer"], given["b_nearer"]) == (0, 1)


def test_the_worst_trial_is_kept() -> None:
    def off(x: Tensor) -> Tensor:
        return nudge(x, 4) if x.dtype != torch.float64 and x[0, 0] < 0 else x * 1

    result = pair(lambda x: x.clone(), off, draws=["normal"], tries=5, dtype="bfloat16")
    worst = max(result.rows, key=lambda row: float(row["max_scaled_ulp"]))
    (x,) = Kernel(off, "bh->bh", dtype="bfloat16").draw((3, 5), "normal", (0, worst["try"]))
    assert x[0, 0] < 0
    assert bits_equal(torch.from_numpy(result.arrays["worst_input_0"]).bfloat16(), x)
    assert bits_equal(torch.from_numpy(result.arrays["worst_output"]).bfloat16(), x)
    assert bits_equal(torch.from_numpy(result.arrays["worst_other_output"]).bfloat16(), off(x))
    assert {row["differing_bits"] for row in result.rows} == {0, 15}
    for seed in range(4):
        result = pair(lambda x: x.clone(), off, draws=["normal"], tries=5, dtype="bfloat16", seed=seed)
        assert (result.arrays["worst_output"] != result.arrays["worst_other_output"]).all()


def test_the_median_is_that_of_the_trials() -> None:
    def constant(value: float) -> Callable[..., np.ndarray]:
        return lambda shape, random: np.full(shape, value)

    def off(x: Tensor) -> Tensor:
        steps = {1.5: 0, 2.5: 4, 3.5: 6}[float(x[0, 0])]
        return nudge(x, steps) if x.dtype == torch.float32 else x * 1

    found = values(pair(lambda x: x.clone(), off, draws=[constant(value) for value in (1.5, 2.5, 3.5)]))
    assert (found["median_ulp"], found["max_ulp"]) == (4, 6)


def test_the_stated_cost_is_what_both_are_called() -> None:
    first, second = Kernel(torch.exp, "bh->bh"), Kernel(torch.sin, "bh->bh")
    question = KernelPair(second, shapes=[(2, 3), (4, 5)], tries=2)
    spent = measure(question, first, progress=False).execution
    assert question.cost(first).calls == spent.calls == 2 * 5 * 2 * 7
    assert second.counter.calls == 20


def test_the_other_kernel_is_part_of_title_parameters_and_subject() -> None:
    question = KernelPair(Kernel(torch.sin, "bh->bh"), shapes=[(2, 3)])
    assert question.title == "KernelPair(other=Kernel(sin, 'bh->bh', float32), shapes=[(2, 3)])"
    assert question.parameters()["other"] == "Kernel(sin, 'bh->bh', float32)"
    result = measure(question, Kernel(torch.exp, "bh->bh"), progress=False)
    assert (result.subject["name"], result.subject["other"]["name"]) == ("exp", "sin")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Kernel(torch.exp, "bk->bk"), "exp has signature bh->bh and exp bk->bk; a pair gets the same inputs"),
        (Kernel(torch.exp, "bh->bh", dtype="bfloat16"), "exp has dtype float32 and exp bfloat16"),
        (Kernel(torch.exp, "bh->bh", batch_axis=None), "exp has batch_axis b and exp None"),
        (Kernel(torch.exp, "bh->bh", sizes={"h": 3}), r"exp has fixed \{\} and exp \{'h': 3\}"),
    ],
)
def test_kernels_that_take_other_inputs_are_refused(other: Kernel, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure(KernelPair(other, shapes=[(2, 3)]), Kernel(torch.exp, "bh->bh"), progress=False)


def test_outputs_of_two_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match="dtype float32 != bfloat16"):
        pair(lambda x: x * 1, lambda x: x.bfloat16())


@pytest.mark.parametrize("other", [None, torch.exp])
def test_a_pair_of_one_is_refused_on_construction(other: Any) -> None:
    with pytest.raises(UsageError, match="is no Kernel; make the second of the pair with Kernel"):
        KernelPair(other, shapes=[(2, 3)])


def test_what_tries_nothing_is_refused_on_construction() -> None:
    with pytest.raises(UsageError, match="shapes is empty"):
        KernelPair(Kernel(torch.exp, "bh->bh"))
