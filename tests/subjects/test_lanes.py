"""Many searches in one batch: each keeps its slot, none waits longer than it must, and screening changes no answer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.lanes import Answer, Probe, Search, run

H = 24
BLOCK = 4
X0 = torch.zeros(H)
CHANGES = [12, 4, 40, 8, 4, 20, 16, 28, 8, 12, 32, 4]


def blocks(X: Tensor) -> Tensor:
    """The first stage: it changes with every fourth step."""
    return torch.div(X, BLOCK, rounding_mode="floor")


def planted(X: Tensor) -> Tensor:
    """Coordinate i changes output i at step CHANGES[i] and later; it reads its input through `blocks` alone."""
    at = torch.tensor([CHANGES[i % len(CHANGES)] for i in range(H)]) / BLOCK
    return (blocks(X) >= at).float()


class Toy(FunctionSubject):
    """A subject that keeps every batch: whole forwards in `wholes`, first stages in `stages`."""

    def __init__(self, fn=planted, batch: int = 1, first=blocks, x0: Tensor = X0) -> None:
        super().__init__(fn, x0, batch=batch, name="toy", first=first)
        self.wholes: list[Tensor] = []
        self.stages: list[Tensor] = []

    def evaluate(self, X: Tensor) -> Tensor:
        self.wholes.append(X.clone())
        return super().evaluate(X)

    def first_blocks(self, X: Tensor, blocks: int = 1) -> Tensor:
        self.stages.append(X.clone())
        return super().first_blocks(X, blocks)


def walk(i: int, seen: list[Answer] | None = None, limit: int = 100) -> Search[int]:
    """Step along coordinate i until the output changes; return the step, or -1."""
    for step in range(1, limit):
        x = X0.clone()
        x[i] = step
        answer = yield x
        if seen is not None:
            seen.append(answer)
        if answer.changed:
            return step
    return -1


def nothing(value: int) -> Search[int]:
    """A search that ends before its first question."""
    return value
    yield


def owners(batch: Tensor) -> list[int]:
    """Which search's row sits in each slot; -1 for x0."""
    return [int(row.nonzero()[0]) if row.any() else -1 for row in batch]


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("searches", [0, 1, 5, 12])
def test_results_are_the_planted_changes_in_order(batch: int, searches: int, screen: bool) -> None:
    found = run(Toy(batch=batch), (walk(i) for i in range(searches)), screen=screen)
    assert found == CHANGES[:searches]


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_search_keeps_its_slot_in_every_batch(batch: int, screen: bool) -> None:
    subject, seen = Toy(batch=batch), [[] for _ in range(12)]
    run(subject, (walk(i, seen[i]) for i in range(12)), screen=screen)
    slots: dict[int, set[int]] = {i: set() for i in range(12)}
    for X in [*subject.wholes, *subject.stages]:
        assert len(X) == batch
        for slot, owner in enumerate(owners(X)):
            if owner >= 0:
                slots[owner].add(slot)
    for i, answers in enumerate(seen):
        assert slots[i] == {answer.slot for answer in answers}
        assert len(slots[i]) == 1


@pytest.mark.parametrize("screen", [True, False])
def test_no_question_is_lost_and_each_is_answered_from_its_own_row(screen: bool) -> None:
    seen: list[list[Answer]] = [[] for _ in range(12)]
    run(Toy(batch=5), (walk(i, seen[i]) for i in range(12)), screen=screen)
    for i, answers in enumerate(seen):
        assert [answer.changed for answer in answers] == [False] * (CHANGES[i] - 1) + [True]
        last = answers[-1].output
        assert last is not None
        assert last.nonzero().flatten().tolist() == [i]


@pytest.mark.parametrize("screen", [True, False])
def test_slots_without_a_search_hold_x0(screen: bool) -> None:
    x0 = torch.full((H,), 0.5)
    subject = Toy(batch=4, x0=x0)

    def steps(i: int) -> Search[int]:
        x = x0.clone()
        x[i] = CHANGES[i]
        answer = yield x
        return int(answer.changed)

    assert run(subject, (steps(i) for i in range(2)), screen=screen) == [1, 1]
    assert all(torch.equal(row, x0) for X in subject.wholes for row in X[2:])
    assert not torch.equal(subject.wholes[0][0], subject.wholes[-1][0])


def test_searches_that_end_at_once_take_no_slot() -> None:
    subject = Toy(batch=2)
    searches = [nothing(70), walk(1), nothing(71), nothing(72), walk(3), nothing(73), walk(0), nothing(74)]
    assert run(subject, searches) == [70, 4, 71, 72, 8, 73, 12, 74]


def test_without_questions_nothing_runs() -> None:
    subject = Toy(batch=2)
    assert run(subject, []) == []
    assert run(subject, [nothing(1), nothing(2), nothing(3)]) == [1, 2, 3]
    assert subject.counter.calls == 0


def test_a_finished_search_hands_its_slot_to_the_next() -> None:
    subject = Toy(batch=2, first=None)
    run(subject, (walk(i) for i in range(3)))
    tenants = [owners(X) for X in subject.wholes if X.any()]
    # Search 1 ends after four steps; search 2 takes its slot at once.
    assert tenants[:4] == [[0, 1]] * 4
    assert tenants[4:12] == [[0, 2]] * 8
    assert tenants[12:] == [[-1, 2]] * 32


def test_the_end_of_each_search_is_announced() -> None:
    counts: list[int] = []
    run(Toy(batch=3), [walk(0), nothing(1), walk(1)], done=counts.append)
    assert counts == [1, 1, 1]


# ---- screening ----


def test_screening_one_lane_runs_the_model_only_where_the_state_changed() -> None:
    subject, seen = Toy(), []
    assert run(subject, [walk(0, seen)]) == [12]
    # From step 4 on the state differs from the baseline's, so only three of twelve questions need no whole forward.
    assert subject.counter.screened == 12 + 1
    assert subject.counter.forwards == 9 + 1
    assert [answer.output is None for answer in seen] == [step < BLOCK for step in range(1, 13)]


def test_without_screening_every_question_runs_the_model() -> None:
    subject, seen = Toy(), []
    run(subject, [walk(0, seen)], screen=False)
    assert (subject.counter.forwards, subject.counter.screened) == (12 + 1, 0)
    assert all(answer.output is not None for answer in seen)


def test_a_subject_that_cannot_screen_is_not_screened() -> None:
    subject = Toy(first=None)
    assert run(subject, [walk(0)], screen=True) == [12]
    assert (subject.counter.forwards, subject.counter.screened) == (12 + 1, 0)


def threshold(X: Tensor) -> Tensor:
    """State and output of coordinate i change together, at step CHANGES[i]."""
    at = torch.tensor([CHANGES[i % len(CHANGES)] for i in range(H)])
    return X.ge(at).float()


def test_a_whole_forward_waits_until_every_slot_needs_it() -> None:
    subject = Toy(fn=threshold, first=threshold, batch=4)
    # Steps 12, 4, 40, 8: the first candidate waits 36 rounds.
    assert run(subject, (walk(i) for i in range(4))) == [12, 4, 40, 8]
    assert [owners(X) for X in subject.wholes] == [[0, 1, 2, 3], [-1] * 4]
    # A waiting candidate is not screened again: its slot holds x0 meanwhile.
    assert [owners(X)[1] for X in subject.stages[:12] if X.any()][:6] == [1, 1, 1, 1, -1, -1]
    assert subject.counter.screened == 4 * (40 + 1)


def test_a_slot_goes_on_with_its_next_search_while_a_candidate_waits() -> None:
    subject = Toy(fn=threshold, first=threshold, batch=4)
    assert run(subject, (walk(i) for i in range(12))) == CHANGES
    screened = [owners(X)[1] for X in subject.stages if X.any()]
    assert screened[:8] == [1] * 4 + [4] * 4, "search 1 has its candidate, nobody ran it yet, and search 4 goes on"
    assert len(subject.wholes) == 3 + 1, "twelve candidates fill three batches; the fourth is the baseline"
    assert all(-1 not in owners(X) for X in subject.wholes if X.any())


def test_no_slot_is_given_more_than_its_share() -> None:
    """Else the slot of the quick searches had the most candidates, and each of them costs a batch."""
    subject, seen = Toy(fn=threshold, first=threshold, batch=4), [[] for _ in range(12)]
    run(subject, (walk(i, seen[i]) for i in range(12)))
    slots = [answers[-1].slot for answers in seen]
    assert [slots.count(slot) for slot in range(4)] == [3, 3, 3, 3]


def test_idle_slots_take_over_the_share_of_a_slow_one() -> None:
    subject, seen = Toy(fn=threshold, first=threshold, batch=8), []
    slow, quick, last = 2, 1, walk(4, seen)  # 40 steps; 4 steps; 4 steps
    searches = [walk(slow), *(walk(quick) for _ in range(14)), last]
    assert run(subject, searches) == [40, *[4] * 14, 4]
    assert seen[0].slot != 0, "slot 0 has a share of two, but it is busy with its first"
    assert subject.counter.screened == 8 * (40 + 1)


def test_a_first_stage_that_breaks_its_promise_hides_changes_which_is_why_it_must_be_proved() -> None:
    blind = Toy(fn=threshold, first=torch.zeros_like)
    assert run(blind, [walk(0, limit=30)], screen=True) == [-1]
    assert run(blind, [walk(0, limit=30)], screen=False) == [12]
    assert blind.counter.forwards == 12 + 1


def probe(i: int, seen: list[Answer]) -> Search[int]:
    """Ask about the states alone until one changes, then about the output there."""
    for step in range(1, 100):
        x = X0.clone()
        x[i] = step
        seen.append((yield Probe(x)))
        if seen[-1].changed:
            seen.append((yield x))
            return step
    return -1


def test_a_probe_is_answered_by_the_first_stage_alone() -> None:
    subject, seen = Toy(), []
    assert run(subject, [probe(0, seen)]) == [BLOCK]
    assert [(answer.changed, answer.output is None) for answer in seen] == [
        *[(False, True)] * 3,
        (True, True),
        (False, False),
    ]
    assert subject.counter.forwards == 1 + 1
    assert subject.counter.screened == 5 + 1


@pytest.mark.parametrize("screen", [True, False])
def test_a_probe_where_nothing_screens_is_a_whole_forward(screen: bool) -> None:
    subject, seen = Toy(first=None if screen else blocks), []
    assert run(subject, [probe(0, seen)], screen=screen) == [12]
    assert all(answer.output is not None for answer in seen)
    assert subject.counter.forwards == 13 + 1


def test_probes_and_questions_keep_their_slots_side_by_side() -> None:
    subject, asked, probed = Toy(batch=3), [[], [], []], [[], []]
    searches = [walk(0, asked[0]), probe(1, probed[0]), walk(2, asked[1]), probe(3, probed[1]), walk(4, asked[2])]
    assert run(subject, searches) == [12, BLOCK, 40, BLOCK, 4]
    assert all(len({answer.slot for answer in answers}) == 1 for answers in (*asked, *probed))
    assert [answers[0].slot for answers in (*asked, *probed)] == [0, 2, 2, 1, 0]


# ---- slots and bits ----


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_bits_that_depend_on_the_slot_are_no_change(batch: int, screen: bool) -> None:
    def slotted(X: Tensor) -> Tensor:
        return planted(X) + torch.arange(len(X))[:, None] * 2.0**-20

    def stage(X: Tensor) -> Tensor:
        return blocks(X) + torch.arange(len(X))[:, None] * 2.0**-20

    subject, clean = Toy(fn=slotted, first=stage, batch=batch), Toy(batch=batch)
    assert run(subject, (walk(i) for i in range(12)), screen=screen) == CHANGES
    # Nor is the state of another slot: as many whole forwards as without the slots' bits.
    run(clean, (walk(i) for i in range(12)), screen=screen)
    assert subject.counter == clean.counter


@pytest.mark.parametrize("screen", [True, False])
def test_the_sign_of_a_zero_is_a_change(screen: bool) -> None:
    def signed(X: Tensor) -> Tensor:
        return torch.where(X[:, :1] >= 3, -0.0, 0.0)

    assert run(Toy(fn=signed, first=signed), [walk(0)], screen=screen) == [3]


@pytest.mark.parametrize(("dtype", "places"), [(torch.float32, 24), (torch.bfloat16, 8)])
def test_the_first_change_along_a_ray_is_the_planted_float(dtype: torch.dtype, places: int) -> None:
    ulp = 2.0 ** (1 - places)

    def search(lattice: Lattice) -> Search[int]:
        for count, cell in enumerate(itertools.islice(lattice.cells(), 50), start=1):
            if (yield lattice.at(cell.first_changed)).changed:
                return count
        return -1

    def beyond(X: Tensor) -> Tensor:
        return (X.double() >= 1 + 5 * ulp).float()

    up, down = (Lattice(torch.ones(2, dtype=dtype), torch.tensor([sign, 0.0])) for sign in (1.0, -1.0))
    subject = FunctionSubject(beyond, torch.ones(2, dtype=dtype), batch=2)
    assert run(subject, [search(up), search(down)]) == [5, -1]


# ---- what goes wrong ----


@pytest.mark.parametrize("screen", [True, False])
def test_an_output_that_is_not_finite_ends_the_run_and_names_its_place(screen: bool) -> None:
    def broken(X: Tensor) -> Tensor:
        Y = planted(X)
        Y[:, 3] = torch.where(X[:, 2] == 8, math.nan, Y[:, 3])
        return Y

    with pytest.raises(InvalidError, match="toy: output 3 of row 2 is nan; nothing is measured"):
        run(Toy(fn=broken, batch=3), (walk(i) for i in range(3)), screen=screen)


def test_a_baseline_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidError, match="toy: output 0 of row 0 is inf"):
        run(Toy(fn=lambda X: torch.where(X.any(), 0.0, math.inf) + X, first=None), [walk(0)])


def test_a_state_that_is_not_finite_proves_nothing_and_is_confirmed() -> None:
    subject = Toy(fn=planted, first=lambda X: torch.where(X >= 2, math.nan, X), batch=2)
    assert run(subject, [walk(0), walk(1)]) == [12, 4]


def test_an_error_inside_a_search_is_not_swallowed() -> None:
    def failing() -> Search[int]:
        yield X0
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        run(Toy(batch=2), [walk(0), failing()])
