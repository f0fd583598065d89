"""Finding the first 16 breakpoints of a ray at H = 576, by dtype."""

import itertools

import pytest
import torch

from stabilitykit import strategies
from stabilitykit.numerics.lattice import Lattice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_first_sixteen_breakpoints(benchmark, dtype):
    """Build the lattice and take 16 cells, as every search begins."""
    x0, d = (direction.expand() for direction in strategies.gaussians(2, 576))
    start = x0.to(dtype)
    cells = benchmark(lambda: list(itertools.islice(Lattice(start, d).cells(), 16)))
    assert len(cells) == 16
