"""Any function as a subject: fixed batches, counted rows, products against closed forms, refusals in a sentence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.subject import Subject, rows_differ

X0 = torch.tensor([1.0, -2.0, 0.5])
J = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])


def linear(X: Tensor) -> Tensor:
    return X @ J.T


class Recorder:
    """A function that keeps every batch it was given, and whose bits depend on batch size and slot."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def __call__(self, X: Tensor) -> Tensor:
        self.batches.append(X.clone())
        slots = torch.arange(len(X), dtype=X.dtype)[:, None]
        return X[:, :2] + 100 * len(X) + 10 * slots


def test_calls_come_in_batches_of_one_shape_padded_with_x0() -> None:
    record = Recorder()
    subject = FunctionSubject(record, X0, batch=2)
    rows = torch.arange(15.0).reshape(5, 3)
    Y = subject(rows)
    assert [batch.shape for batch in record.batches] == [(2, 3)] * 3
    assert torch.equal(torch.cat(record.batches)[:5], rows)
    assert torch.equal(record.batches[-1][1], X0)
    slots = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    assert torch.equal(Y, rows[:, :2] + 200 + 10 * slots[:, None])


def test_a_full_batch_is_not_padded() -> None:
    record = Recorder()
    FunctionSubject(record, X0, batch=3)(torch.ones(6, 3))
    assert len(record.batches) == 2


def test_every_slot_has_its_own_baseline_which_is_run_once() -> None:
    record = Recorder()
    subject = FunctionSubject(record, X0, batch=3)
    expected = X0[:2] + 300 + 10 * torch.arange(3.0)[:, None]
    assert torch.equal(subject.baseline, expected)
    assert torch.equal(subject.baseline, expected)
    assert len(record.batches) == 1
    assert torch.equal(record.batches[0], X0.expand(3, 3))
    assert torch.equal(subject.with_batch(1).baseline, X0[None, :2] + 100)


def test_rows_are_counted_with_their_padding_by_kind() -> None:
    subject = FunctionSubject(linear, X0, batch=4, first=torch.sign)
    subject(torch.ones(5, 3))
    subject.first_blocks(torch.ones(4, 3))
    subject.jvp(torch.ones(2, 3))
    subject.vjp(torch.ones(3, 2))
    assert vars(subject.counter) == {"forwards": 8, "screened": 4, "tangents": 2, "backwards": 3, "calls": 3}


def test_another_batch_shape_shares_function_name_stage_and_counter() -> None:
    subject = FunctionSubject(linear, X0, batch=4, name="toy", first=torch.sign)
    other = subject.with_batch(2)
    other(torch.ones(2, 3))
    assert (other.batch, other.name, other.fn, other.first) == (2, "toy", linear, torch.sign)
    assert subject.counter is other.counter
    assert subject.counter.forwards == 2
    assert subject.batch == 4


def test_the_products_of_a_linear_function_are_its_matrix() -> None:
    subject = FunctionSubject(linear, X0)
    assert torch.equal(subject.jvp(torch.eye(3)), J.T)
    assert torch.equal(subject.vjp(torch.eye(2)), J)


def test_the_products_of_a_curved_function_are_taken_at_x0() -> None:
    subject = FunctionSubject(lambda X: torch.stack([X[:, 0] * X[:, 1], X[:, 2].exp()], dim=1), X0, batch=5)
    expected = torch.tensor([[X0[1], X0[0], 0.0], [0.0, 0.0, math.exp(0.5)]])
    torch.testing.assert_close(subject.jvp(torch.eye(3)), expected.T)
    torch.testing.assert_close(subject.vjp(torch.eye(2)), expected)
    assert not subject.jvp(torch.eye(3)).requires_grad
    assert not subject.vjp(torch.eye(2)).requires_grad


def test_rows_run_without_gradients_and_x0_is_detached() -> None:
    x0 = X0.clone().requires_grad_()
    subject = FunctionSubject(linear, x0 * 1)
    assert not subject.x0.requires_grad
    assert not subject(torch.ones(1, 3, requires_grad=True)).requires_grad


def test_products_take_vectors_of_another_precision() -> None:
    subject = FunctionSubject(linear, X0)
    assert torch.equal(subject.jvp(torch.eye(3, dtype=torch.float64)), J.T)
    assert torch.equal(subject.vjp(torch.eye(2, dtype=torch.float64)), J)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_named_by_place(bad: float) -> None:
    def broken(X: Tensor) -> Tensor:
        Y = linear(X)
        Y[:, 1] = torch.where(X[:, 0] == 7, bad, Y[:, 1])
        return Y

    rows = torch.ones(5, 3)
    rows[3, 0] = 7
    with pytest.raises(InvalidError, match=rf"broken: output 1 of row 3 is {bad}; nothing is measured"):
        FunctionSubject(broken, X0, batch=2)(rows)
    with pytest.raises(InvalidError, match=f"output 1 of row 0 is {bad}"):
        _ = FunctionSubject(broken, torch.tensor([7.0, 0.0, 0.0])).baseline


def test_without_a_first_stage_there_is_nothing_to_screen_with() -> None:
    subject = FunctionSubject(linear, X0)
    assert (subject.depth, subject.screens) == (0, False)
    with pytest.raises(UnsupportedError, match="linear has no blocks"):
        subject.first_blocks(X0[None])


def test_a_first_stage_is_run_alone_and_has_its_own_baseline() -> None:
    record = Recorder()
    subject = FunctionSubject(linear, X0, batch=3, first=record)
    assert (subject.depth, subject.screens) == (1, True)
    assert torch.equal(subject.baseline_state, X0[:2] + 300 + 10 * torch.arange(3.0)[:, None])
    assert subject.counter.forwards == 0


def test_a_subject_without_derivatives_or_blocks_says_so() -> None:
    class Bare(Subject):
        def evaluate(self, X: Tensor) -> Tensor:
            return X

        def with_batch(self, batch: int) -> Subject:
            return self

    bare = Bare(X0, name="bare")
    for product, missing in ((bare.jvp, "forward derivative"), (bare.vjp, "reverse derivative")):
        with pytest.raises(UnsupportedError, match=f"bare has no {missing}"):
            product(X0[None])
    with pytest.raises(UnsupportedError, match="bare has no blocks"):
        bare.first_blocks(X0[None])
    assert (bare.depth, bare.screens, bare.linearisation()) == (0, False, {})
    assert list(bare.relatives([1, 2])) == [bare]


def test_a_function_that_autograd_refuses_says_so() -> None:
    subject = FunctionSubject(lambda X: X.detach(), X0, name="cut off")
    with pytest.raises(UnsupportedError, match="cut off has no reverse derivative: element 0 of tensors does not"):
        subject.vjp(torch.ones(1, 3))


def test_neighbours_are_permutations_fixed_by_the_seed() -> None:
    x0 = torch.arange(50.0)
    subject = FunctionSubject(linear, x0)
    neighbours = subject.neighbours(4, seed=1)
    assert neighbours.shape == (4, 50)
    assert torch.equal(neighbours.sort(dim=1).values, x0.expand(4, 50))
    assert len({tuple(row.tolist()) for row in neighbours} | {tuple(x0.tolist())}) == 5
    assert torch.equal(neighbours, subject.neighbours(4, seed=1))
    assert not torch.equal(neighbours, subject.neighbours(4, seed=2))


def test_the_description_tells_subjects_apart_by_every_bit_of_x0() -> None:
    first = FunctionSubject(linear, X0, batch=2).describe()
    assert {key: first[key] for key in first if key != "x0_digest"} == {
        "name": "linear",
        "hidden_size": 3,
        "dtype": "float32",
        "device": "cpu",
        "batch": 2,
    }
    moved = X0.clone()
    moved[1] = torch.nextafter(moved[1], torch.tensor(0.0))
    assert FunctionSubject(linear, moved, batch=2).describe()["x0_digest"] != first["x0_digest"]
    assert FunctionSubject(linear, X0.clone(), batch=2).describe() == first


def test_a_function_without_a_name_is_called_by_its_class() -> None:
    assert FunctionSubject(Recorder(), X0).name == "Recorder"
    assert FunctionSubject(linear, X0, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("x0", "batch", "fragment"),
    [
        (torch.ones(2, 2), 1, r"x0 is \(2, 2\) float32; give one floating-point vector"),
        (torch.ones(()), 1, r"x0 is \(\) float32"),
        (torch.ones(2, dtype=torch.int64), 1, r"x0 is \(2,\) int64"),
        (torch.ones(2), 0, "batch=0 runs nothing; give at least 1"),
        (torch.ones(2), -3, "batch=-3 runs nothing"),
    ],
)
def test_what_is_no_subject_is_refused(x0: Tensor, batch: int, fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        FunctionSubject(linear, x0, batch=batch)


def test_rows_differ_by_bits_not_by_value() -> None:
    one = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [0.0, 1.0], [2.0, 3.0]])
    other = torch.tensor([[-0.0, 1.0], [math.nan, 1.0], [0.0, 1.0], [2.0, 3.0]])
    other[3, 1] = torch.nextafter(other[3, 1], torch.tensor(4.0))
    assert rows_differ(one, other).tolist() == [True, False, False, True]
    assert rows_differ(one[:, :, None].expand(-1, -1, 2), other[:, :, None].expand(-1, -1, 2)).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_finite_outputs_are_finite_though_their_sum_overflows() -> None:
    subject, largest = FunctionSubject(linear, X0), torch.finfo(torch.float32).max
    Y = torch.full((2, 2), largest)
    assert subject.finite(Y) is Y
    Y[1, 0] = -math.inf
    with pytest.raises(InvalidError, match="output 0 of row 1 is -inf"):
        subject.finite(Y)
    with pytest.raises(InvalidError, match="output 1 of row 0 is inf"):
        subject.finite(torch.tensor([[1.0, math.inf], [-math.inf, 1.0]]))
