"""What the sentence about the angles of the last state says, asked directly with made-up angles."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.last_states import largest, matching


def test_the_sentence_tells_the_first_and_the_last_rank():
    asked = sk.ReadoutAngles(("a",), ranks=(1, 2, 7))
    positions = [
        {"nearest_distance": 3.0, "relative_distance": 0.5},
        {"nearest_distance": 2.0, "relative_distance": 0.25},
    ]
    after, before = np.array([[10.0, 20.0, 30.0]]), np.array([[40.0, 50.0, 60.0]])
    assert asked._sentence(positions, before, after) == (
        "The state that the head reads stands at 10 degrees to the row of rank 1 and at 30 to that of rank 7 (medians; "
        "before the norm 40 and 60); the nearest tie is 2 away, 0.25 of the state's length."
    )


def test_a_state_of_length_zero_lies_on_every_line(toys):
    """All logits are equal there: no margin, no distance, and no share of a length that is zero."""
    model = toys.model([toys.Times(0.0)])
    result = sk.measure(sk.ReadoutAngles(((3, 1, 2),), ranks=(1, 2)), sk.adopt(model), progress=False)
    positions = [row for row in result.rows if row["part"] == "position"]
    assert {(row["length"], row["margin"], row["relative_distance"]) for row in positions} == {(0.0, 0.0, 0.0)}


def test_of_equal_logits_the_lower_ids_come_first():
    """Of so many that a sort which is not stable would mix them."""
    logits = torch.arange(5000) % 7 / 8
    wanted = sorted(range(5000), key=lambda token: (-float(logits[token]), token))
    assert largest(logits, 1000) == wanted[:1000]


def test_states_of_another_width_than_the_head_are_told_with_their_widths():
    tool, before, after = SimpleNamespace(weight=torch.ones(5, 3)), torch.ones(2, 3), torch.ones(2, 4)
    with pytest.raises(sk.UnsupportedError, match="have 3 components, the states around the final norm 3 and 4: no"):
        matching(tool, before, after)
