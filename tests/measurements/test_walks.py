"""Inputs evaluated in one slot: a function that shows the slot, and every split of paths over a batch."""

import pytest
import torch

from stabilitykit.measurements.walks import walks
from stabilitykit.subjects.function_subject import FunctionSubject

X0 = torch.tensor([1.0, 2.0])


def by_slot(X):
    """The slot, the input, and the number of rows that are x0."""
    slots = torch.arange(len(X), dtype=X.dtype)[:, None]
    copies = (X == X0).all(dim=1).sum().expand(len(X), 1)
    return torch.cat([slots, X, copies], dim=1)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 2], [2, 2, 2, 2, 2], [5, 1, 1, 1, 1]])
def test_a_path_stays_in_its_slot_and_in_order(batch, lengths):
    paths = [10 * k + torch.arange(2.0 * length).view(length, 2) for k, length in enumerate(lengths, 1)]
    subject = FunctionSubject(by_slot, X0, batch=batch)
    found = walks(subject, paths)
    for path, walk in zip(paths, found, strict=True):
        assert set(walk.outputs[:, 0].tolist()) == {walk.slot}
        assert torch.equal(walk.outputs[:, 1:3], path)
    rounds = subject.counter.calls
    assert subject.counter.forwards == rounds * batch
    assert max(lengths) <= rounds <= max(max(lengths), -(-sum(lengths) // batch) + max(lengths) - 1)
    assert sum(walk.slot == 0 for walk in found) >= 1
    assert torch.equal(subject.x0, torch.tensor([1.0, 2.0]))


def test_paths_go_where_it_is_free_first():
    found = walks(FunctionSubject(by_slot, X0, batch=2), [torch.zeros(k, 2) for k in (3, 1, 1, 1, 1)])
    assert [walk.slot for walk in found] == [0, 1, 1, 1, 0]


def test_empty_places_hold_copies_of_x0():
    (walk,) = walks(FunctionSubject(by_slot, X0, batch=4), [torch.zeros(2, 2)])
    assert walk.outputs[:, 3].tolist() == [3, 3]


def test_any_call_may_be_made():
    (walk,) = walks(FunctionSubject(by_slot, X0, batch=2), [torch.ones(2, 2)], lambda X: X.sum(dim=1))
    assert walk.outputs.tolist() == [2, 2]
    assert walks(FunctionSubject(by_slot, X0), []) == []
