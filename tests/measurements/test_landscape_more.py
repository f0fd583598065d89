"""What the middle of a map costs, and the difference of the logits that is told for it."""

import torch
from oracles.planted_maps import PLANE, SPAN, X0, line

from stabilitykit.measurements.landscape import Landscape
from stabilitykit.measurements.measure import measure
from stabilitykit.subjects.function_subject import FunctionSubject


def test_walking_to_the_tie_costs_40_batches_of_the_search_and_a_baseline():
    for batch, rows in ((1, 1), (4, 4), (16, 8)):
        subject = FunctionSubject(line, X0, batch=batch)
        tie, prompt = (Landscape(PLANE, at=at).ground_cost(subject) for at in ("tie", "prompt"))
        assert tie.forwards - prompt.forwards == 41 * rows


def test_the_gap_that_is_told_is_that_of_the_first_slot():
    """Slots that differ by an eighth of a logit each: the map is read in all of them, the gap in slot 0."""

    def fn(X):
        return line(X) + torch.arange(len(X), dtype=X.dtype)[:, None] / 8 * torch.tensor([1.0, 0.0, 0.0]).to(X)

    subject = FunctionSubject(fn, X0.double(), batch=4)
    asked = Landscape(PLANE, span=SPAN, n=5, unit="abs", at="prompt", again=0)
    found = measure(asked, subject).readings["gap"].value
    assert found == float(subject.baseline[0, 0] - subject.baseline[0, 1])
