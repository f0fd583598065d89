"""A lattice entered in the middle lists what it lists from the beginning, less what lies before."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES
from stabilitykit.numerics.start import Start

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
RULED = [(rule, dtype) for rule in RULES for dtype in DTYPES if (rule, dtype) != ("p32", torch.float64)]


def drawn(dtype: torch.dtype, seed: int, *, zeros: int = 0) -> Lattice:
    random = np.random.default_rng(seed)
    x0 = torch.from_numpy(random.normal(size=6)).to(dtype)
    x0[:zeros] = 0
    return Lattice(x0, torch.from_numpy(random.normal(size=6)))


@pytest.mark.parametrize(("rule", "dtype"), RULED)
@pytest.mark.parametrize("seed", range(2))
def test_entering_anywhere_leaves_out_what_lies_before(rule: str, dtype: torch.dtype, seed: int) -> None:
    whole = drawn(dtype, seed)
    lattice = Lattice(whole.x0, whole.direction, rule)
    s_max = 4 * torch.finfo(dtype).eps
    every = list(lattice.cells(s_max))
    assert len(every) > 20
    for number in (0, 1, 7, len(every) - 1):
        edge = every[number]
        assert list(lattice.cells(s_max, edge.last_same)) == every[number:]
        assert list(lattice.cells(s_max, edge.first_changed)) == every[number + 1 :]
        assert list(lattice.cells(s_max, math.nextafter(edge.first_changed, math.inf))) == [
            cell for cell in every if cell.first_changed > math.nextafter(edge.first_changed, math.inf)
        ]


def test_nothing_lies_behind_the_end() -> None:
    lattice = drawn(torch.float16, 0)
    assert list(lattice.cells(1e-3, 1e-3)) == []
    assert list(lattice.cells(math.inf, 1e30)) == []


@pytest.mark.parametrize("zeros", [0, 2])
def test_samples_are_left_out_with_the_cells(zeros: int) -> None:
    lattice = drawn(torch.float32, 5, zeros=zeros)
    every = list(lattice.samples(1e-5))
    assert len(lattice.dense) == zeros
    start = every[len(every) // 2].first_changed
    kept = list(lattice.samples(1e-5, start))
    assert [cell.first_changed for cell in kept] == [cell.first_changed for cell in every if cell.first_changed > start]
    assert kept[0].last_same >= start


@pytest.mark.parametrize(
    ("x0", "middle"),
    [
        ([0.0, 0.0, 0.0, 4.0, 0.0], 4.0),
        ([-1.0, -1.0, -1.0, 8.0, 16.0], 1.0),
        ([-0.0, 0.0], 0.0),
        ([16.0, -64.0, 0.0, 0.0, 32.0], 32.0),
    ],
)
def test_the_typical_spacing_is_that_of_the_median_of_what_is_not_zero(x0: list[float], middle: float) -> None:
    assert Start(torch.tensor(x0)).typical == np.spacing(np.float32(middle))
