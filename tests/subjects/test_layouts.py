"""Layouts: the same bits at other addresses, with NaN between them."""

from __future__ import annotations

import pytest
import torch

from stabilitykit.numerics.bits import FORMATS, bits_equal
from stabilitykit.subjects.layouts import LAYOUTS

KINDS = [*FORMATS, torch.int64, torch.bool]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 5), (6,), ()])
def test_the_numbers_stay_and_the_source_is_left_alone(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (torch.arange(torch.Size(shape).numel()).reshape(shape) % 3).to(dtype)
    kept = x.clone()
    placed = LAYOUTS[name](x)
    assert bits_equal(placed, x)
    if placed is not x:
        placed.zero_()
        assert bits_equal(x, kept)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("transposed", (12, 1, 3)), ("padded", (21, 7, 1)), ("stepped", (24, 8, 2)), ("shifted", (12, 4, 1))],
)
def test_the_strides_are_others(name: str, strides: tuple[int, ...]) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert LAYOUTS[name](x).stride() == strides


def test_a_shifted_tensor_begins_one_element_late() -> None:
    placed = LAYOUTS["shifted"](torch.arange(8.0))
    assert placed.storage_offset() == 1
    assert placed.is_contiguous()


@pytest.mark.parametrize("name", ["padded", "stepped", "shifted"])
def test_a_reader_that_ignores_strides_meets_nan(name: str) -> None:
    placed = LAYOUTS[name](torch.arange(12.0).reshape(3, 4))
    memory = placed.as_strided((placed.untyped_storage().nbytes() // 4,), (1,), 0)
    assert memory.isnan().sum() == memory.numel() - 12
