"""What is read from one row of logits: the token that would be said, by how much it leads, and how far a row moved."""

import math

import pytest
import torch

from stabilitykit.measurements.responses import change_of_token, top


def test_the_top_token_leads_the_next_one_and_a_single_one_leads_none():
    """Of equal logits the lower id comes first, by nothing."""
    tied = top(torch.tensor([-1.0, 1.5, 0.25, 1.5]), None)
    assert (tied.id, tied.margin) == (1, 0)
    found = top(torch.tensor([0.0, math.log(3.0)]), None)
    assert (found.id, found.text) == (1, "")
    assert (found.probability, found.logit, found.margin) == pytest.approx((0.75, math.log(3), math.log(3)))
    alone = top(torch.tensor([2.5]), None)
    assert math.isnan(alone.margin)
    assert (alone.id, alone.probability, alone.logit) == (0, 1, 2.5)


def test_two_rows_are_compared_in_the_order_before_and_after():
    before, after = torch.tensor([0.0, math.log(3.0)]), torch.tensor([math.log(3.0), math.log(3.0) - 4])
    row = change_of_token(before, after, None)
    first, last = (top(logits, None) for logits in (before, after))
    for name, one in (("before", first), ("after", last)):
        told = [row[f"{column}_{name}"] for column in ("token_id", "probability", "logit", "margin")]
        assert told == [one.id, one.probability, one.logit, one.margin]
    assert row["token_changed"]
    assert (row["logit_l2"], row["logit_max_abs"]) == pytest.approx((math.hypot(math.log(3), 4), 4))
    p, q = torch.softmax(before.double(), 0), torch.softmax(after.double(), 0)
    assert row["kl"] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)
