"""Where two tensors are compared: where they are, if that is one place, and on the CPU otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stabilitykit.numerics import bits


@dataclass(frozen=True)
class Placed:
    """A tensor as it looks from outside on any device; `cpu()` brings its numbers."""

    numbers: Tensor
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    def cpu(self) -> Tensor:
        return self.numbers


CPU, FIRST, SECOND = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))


@pytest.mark.parametrize("places", [(FIRST, CPU), (CPU, FIRST), (FIRST, SECOND)])
def test_tensors_of_two_devices_are_compared_on_the_cpu(places: tuple[torch.device, torch.device]) -> None:
    a, b = (Placed(torch.tensor(numbers), place) for numbers, place in zip(([1.0], [2.0]), places, strict=True))
    left, right = bits.paired(a, b)
    assert left is a.numbers
    assert right is b.numbers


def test_tensors_of_one_device_stay_there() -> None:
    a, b = Placed(torch.ones(2), FIRST), Placed(torch.zeros(2), FIRST)
    assert bits.paired(a, b) == (a, b)
