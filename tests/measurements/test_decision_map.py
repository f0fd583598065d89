"""The map cell by cell: what is run, how often, in which slot, and that each cell gets its own answer."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stabilitykit.errors import InvalidError
from stabilitykit.measurements import decision_map
from stabilitykit.measurements.decision_map import evaluated, inputs, runs
from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.measurements.pair_logits import whole
from stabilitykit.numerics.bits import raw_bytes
from stabilitykit.numerics.plane import Plane, axis
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.noise import threads

X0 = torch.tensor([0.75, -0.3, 1.5])
H1, H2 = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, -1.0, 2.0])
W = torch.tensor([[2.0, -1.0, 0.5], [1.0, 1.0, -0.25], [0.5, 0.0, 0.1]])


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def logits(X):
    return (X[:, None, :] * W.to(X)).sum(dim=2)


def grid(span=1e-6, n=9, x0=X0):
    e = axis(-span, span, n)
    return inputs(Plane(x0, H1, H2), e, e)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_each_cell_has_the_answer_to_its_own_input(batch):
    subject = FunctionSubject(logits, X0, batch=batch)
    cells = grid()
    found = evaluated(LogitGap(subject, (0, 1)), cells, 0)
    for i, a in enumerate(cells.e1):
        for j, b in enumerate(cells.e2):
            z = logits(cells.plane.at(np.array([a]), np.array([b])))[0].double()
            assert found.D[i, j] == float(z[0] - z[1])
    assert (found.repeated, found.unrepeated) == (0, 0)


def test_progress_counts_every_input_of_both_runs(monkeypatch):
    told = []

    @contextlib.contextmanager
    def bar(total, *_words):
        told.append(total)
        yield SimpleNamespace(update=told.append)

    monkeypatch.setattr(decision_map, "bar", bar)
    evaluated(LogitGap(FunctionSubject(logits, X0, batch=4), (0, 1)), grid(), 8)
    assert told[0] == sum(told[1:]) > 81


def test_equal_inputs_are_run_once():
    """Steps of a tenth of a float: most cells share their input with others."""
    cells = grid(span=5e-8, n=21)
    every = [raw_bytes(x).numpy().tobytes() for a in cells.e1 for x in cells.plane.at(0 * cells.e2 + a, cells.e2)]
    assert len(cells) == len(set(every)) < 441 / 4
    numbers = cells.number.ravel().tolist()
    assert sorted(set(numbers)) == list(range(len(cells)))
    assert len(set(zip(every, numbers, strict=True))) == len(cells), "a number is an input and an input a number"
    subject = FunctionSubject(logits, X0, batch=4)
    before = subject.counter.forwards
    evaluated(LogitGap(subject, (0, 1)), cells, None)
    assert subject.counter.forwards - before == runs(len(cells), None, 4) + 4  # and the baseline
    assert runs(len(cells), None, 4) == 2 * 4 * -(-len(cells) // 4)


def test_batches_are_full_and_each_input_keeps_its_slot_among_other_rows():
    seen = []

    def watched(X):
        seen.append(X.clone())
        return logits(X)

    subject = FunctionSubject(watched, X0, batch=4)
    cells = grid()
    evaluated(LogitGap(subject, (0, 1)), cells, None)
    batches = [X for X in seen if not bool((X == X0).all())]
    assert {len(X) for X in batches} == {4}
    assert len(batches) == 2 * -(-len(cells) // 4)
    slots, neighbours = {}, {}
    for X in batches:
        keys = [tuple(x.tolist()) for x in X]
        for slot, key in enumerate(keys):
            if key != tuple(X0.tolist()):
                slots.setdefault(key, set()).add(slot)
                neighbours.setdefault(key, []).append(frozenset(keys) - {key})
    assert all(len(where) == 1 for where in slots.values())
    assert all(len(others) == 2 and others[0] != others[1] for others in neighbours.values())


def test_the_baseline_is_that_of_the_slot_a_cell_was_run_in():
    def slotted(X):
        return logits(X) + torch.arange(len(X))[:, None] * torch.tensor([0.125, 0.0, 0.0])

    subject = FunctionSubject(slotted, X0, batch=4)
    cells = grid()
    found = evaluated(LogitGap(subject, (0, 1)), cells, 0)
    plain = float((logits(X0[None])[0, 0] - logits(X0[None])[0, 1]).double())
    assert np.abs(found.base - (plain + 0.125 * (cells.number % 4))).max() < 1e-6
    assert np.abs(found.D - found.base).max() < 1e-5
    assert np.ptp(found.D) > 0.3


def test_a_third_token_is_seen_where_it_leads_alone():
    def steps(X):
        third = torch.where(X[:, 0] > X0[0], 5.0, 1.0)
        return torch.stack([torch.ones(len(X)), torch.zeros(len(X)), third], dim=1)

    cells = grid()
    found = evaluated(LogitGap(FunctionSubject(steps, X0), (0, 1)), cells, None)
    moved = (cells.plane.at(cells.e1, 0 * cells.e1)[:, 0] > X0[0]).numpy()
    assert (found.third == moved[:, None]).all()
    assert 0 < moved.sum() < 9


def test_an_answer_that_changes_is_counted():
    calls = []

    def restless(X):
        calls.append(1)
        return logits(X) + (torch.arange(3) * 1e-3 if len(calls) == 23 else 0)

    subject = FunctionSubject(restless, X0, batch=4)
    gap = LogitGap(subject, (0, 1))
    assert gap.baseline.shape == (4,)
    cells = grid()
    assert 22 > len(cells) / 4 > 20
    found = evaluated(gap, cells, None)
    assert found.repeated == len(cells)
    assert 0 < found.unrepeated <= 4


def test_rows_that_see_their_neighbours_do_not_repeat():
    def mixing(X):
        return logits(X) + X.sum() * torch.tensor([1.0, 0.0, 0.0])

    found = evaluated(LogitGap(FunctionSubject(mixing, X0, batch=4), (0, 1)), grid(), None)
    assert found.unrepeated > found.repeated / 4


def test_some_of_the_inputs_can_be_repeated():
    cells = grid()
    found = evaluated(LogitGap(FunctionSubject(logits, X0, batch=4), (0, 1)), cells, 10)
    assert found.repeated == 4 + 4 + 1, "the last batch holds one"
    assert runs(len(cells), 10, 4) == 4 * -(-len(cells) // 4) + 12


def test_a_number_that_is_not_finite_is_no_map():
    def hole(X):
        return torch.where(X[:, :1] > X0[0], torch.inf, logits(X))

    with pytest.raises(InvalidError, match="inf"):
        evaluated(LogitGap(FunctionSubject(hole, X0), (0, 1)), grid(), 0)


def test_the_gradient_is_that_of_the_difference():
    gap = LogitGap(FunctionSubject(logits, X0), (0, 2))
    assert gap.gradient.tolist() == pytest.approx((W[0] - W[2]).tolist())


def test_the_noise_is_the_spread_of_the_difference_over_equal_evaluations():
    def sized(X):
        return logits(X) + len(X) * torch.tensor([0.25, 0.0, 9.0])

    gap = LogitGap(FunctionSubject(sized, X0, batch=4), (0, 1))
    assert gap.noise == pytest.approx(0.25 * 7, abs=1e-5)  # batches of 1, 2, 3, 4 and 8
    assert LogitGap(FunctionSubject(logits, X0, batch=4), (0, 1)).noise == 0


def test_the_second_run_reads_the_whole_head_and_so_holds_a_narrowed_reading_against_it(monkeypatch):
    """A narrowed reading is planted that swaps the two logits of every batch but the first."""
    real = decision_map.narrowed

    def swapping(gap, X):
        told, _ = real(gap, X)
        return told, lambda rows: whole(gap, rows)._replace(pairs=whole(gap, rows).pairs.flip(1))

    subject = FunctionSubject(logits, X0, batch=4)
    clean = evaluated(LogitGap(subject, (0, 1)), grid(n=5), None)
    assert clean.unrepeated == 0
    monkeypatch.setattr(decision_map, "narrowed", swapping)
    found = evaluated(LogitGap(subject, (0, 1)), grid(n=5), None)
    assert found.unrepeated == found.repeated - 4
    assert sorted((found.D / clean.D).ravel().tolist()) == [-1.0] * (found.repeated - 4) + [1.0] * 4  # the first run
