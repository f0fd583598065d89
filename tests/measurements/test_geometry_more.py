"""Lengths and distances of the rows of a matrix that has hardly any."""

import math

import torch

from stabilitykit.measurements.tying import row_lengths


def test_a_single_row_has_a_length_and_no_distance():
    found = row_lengths(torch.tensor([[3.0, 4.0]]))
    assert (found["rows"], found["width"], found["norm_mean"]) == (1, 2, 5.0)
    assert math.isnan(found["rms_distance"])
    assert row_lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))["rms_distance"] == 5.0
