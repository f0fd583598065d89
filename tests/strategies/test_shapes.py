"""Shapes: within their bounds, often beside a power of two, and shrinking to the smallest that fails."""

import pytest
import torch
from hypothesis import find, given, settings

import stabilitykit as sk
from stabilitykit import strategies
from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import nudge

QUIET = settings(database=None, max_examples=2000, derandomize=True, deadline=None)
MATMUL = sk.Kernel(lambda a, b: a @ b, "mk,kn->mn", name="matmul")


def test_every_draw_lies_within_its_bounds():
    seen = []

    @settings(database=None, max_examples=300, derandomize=True, deadline=None)
    @given(shape=strategies.shapes(MATMUL, {"k": 5, "n": 1}))
    def drawn(shape):
        seen.append(shape)
        m, k, n = shape
        assert 1 <= m <= 64
        assert 1 <= k <= 5
        assert n == 1

    drawn()
    assert {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64} <= {m for m, _, _ in seen}
    assert {k for _, k, _ in seen} == {1, 2, 3, 4, 5}


def test_a_fixed_axis_is_not_drawn():
    kernel = sk.Kernel(torch.exp, "bh->bh", sizes={"h": 7})
    assert find(strategies.shapes(kernel, 8), lambda shape: True, settings=QUIET) == (1,)


@pytest.mark.parametrize(
    ("fails", "smallest"),
    [
        (lambda m, k, n: True, (1, 1, 1)),
        (lambda m, k, n: k > 32 and n % 2 == 0, (1, 33, 2)),
        (lambda m, k, n: m * k > 100, None),
    ],
)
def test_a_failure_shrinks_to_the_smallest_shape(fails, smallest):
    found = find(strategies.shapes(MATMUL), lambda shape: fails(*shape), settings=QUIET)
    assert found == smallest or (smallest is None and found[0] * found[1] <= 128 and found[2] == 1)


def test_a_planted_defect_is_found_at_its_smallest_shape():
    """A kernel that errs in the last column of a tile of 16 that is not full, from 3 rows on."""

    def tiled(x):
        y = x.clone()
        if x.dtype == torch.float32 and len(x) >= 3 and x.shape[1] % 16 == 5:
            y[0, -1] = nudge(y[0, -1], 100)
        return y

    kernel = sk.Kernel(tiled, "bh->bh")

    def broken(shape):
        asked = sk.KernelAccuracy(shapes=[shape], draws=["normal"], tries=1)
        return sk.measure(asked, kernel, progress=False).readings["max_ulp"].value > 4

    assert find(strategies.shapes(kernel, 40), broken, settings=QUIET) == (3, 5)


@pytest.mark.parametrize("largest", [0, {"k": 0}, {"z": 3}])
def test_a_bound_that_bounds_nothing_is_refused(largest):
    with pytest.raises(UsageError, match="the axes are m, k, n, from 1 on"):
        strategies.shapes(MATMUL, largest)
