"""Angles before and after a norm, against the arc cosine and against gains that are planted."""

import math

import numpy as np
import pytest
import torch

from stabilitykit.numerics.alignment import alignment


def drawn(seed=0, n=4, d=9):
    random = np.random.Generator(np.random.PCG64(seed))
    return (torch.from_numpy(random.standard_normal(shape)) for shape in ((n, d), (n,), (d,), (d,)))


def degrees(a, b):
    return math.degrees(math.acos(float(a @ b / (a.norm() * b.norm()))))


def test_angles_cosines_and_products():
    W, bias, before, after = drawn()
    for k, row in enumerate(alignment(W, bias, before, after)):
        for name, state in (("before", before), ("after", after)):
            assert row[f"angle_{name}"] == pytest.approx(degrees(W[k], state), abs=1e-6)
            assert row[f"cosine_{name}"] == pytest.approx(math.cos(math.radians(row[f"angle_{name}"])), abs=1e-12)
            assert row[f"logit_{name}"] == pytest.approx(float(W[k] @ state + bias[k]), rel=1e-12)
        assert row["angle_change"] == row["angle_after"] - row["angle_before"]


def test_ranks_are_those_of_the_cosines_and_ties_go_to_the_first():
    W, bias, before, after = drawn(n=6)
    W[5] = W[2]
    rows = alignment(W, bias, before, after)
    for name in ("before", "after"):
        order = sorted(range(6), key=lambda k: (-rows[k][f"cosine_{name}"], k))
        assert [rows[k][f"rank_{name}"] for k in order] == [1, 2, 3, 4, 5, 6]
        assert rows[5][f"rank_{name}"] == rows[2][f"rank_{name}"] + 1


def test_a_scale_turns_nothing():
    W, bias, before, _ = drawn()
    for row in alignment(W, bias, before, before * 8):
        assert row["angle_change"] == 0
        assert row["rank_before"] == row["rank_after"]
