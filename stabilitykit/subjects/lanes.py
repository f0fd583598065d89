"""Many searches at once: each keeps one slot of the batch, and one that ends or waits hands it to the next.

A search is a generator: it yields an input x (H,), or a Probe, and is sent an Answer; it never sees the batch. As a
search keeps its slot, all its answers come from one path, one shape and one slot, and the baseline of that slot is the
only thing they are compared with.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from stabilitykit.subjects.answers import Answers, Told
from stabilitykit.subjects.subject import Subject, rows_differ

T = TypeVar("T")

# Screening with fewer busy slots than this share of the batch, while searches wait, raises every slot's share of them.
_IDLE = 0.25


class Answer(NamedTuple):
    """Whether any output bit differs from the slot's baseline; `output` (M,) where the whole model ran, else None."""

    changed: bool
    output: Tensor | None
    slot: int


class Probe(NamedTuple):
    """An input to be asked about by its first-block state alone, where the subject screens.

    "Unchanged" is then as certain as ever; "changed" only says that the state differs, and has no output.
    """

    x: Tensor


Search = Generator[Tensor | Probe, Answer, T]


@dataclass
class _Lane(Generic[T]):
    index: int
    search: Search[T]
    ask: Tensor | Probe

    @property
    def x(self) -> Tensor:
        return self.ask.x if isinstance(self.ask, Probe) else self.ask


@dataclass
class _Slot(Generic[T]):
    """The searches of one slot: those with a new question and those whose candidate waits, the next one first."""

    asking: deque[_Lane[T]] = field(default_factory=deque)
    waiting: deque[_Lane[T]] = field(default_factory=deque)
    given: int = 0


def run(
    subject: Subject,
    searches: Iterable[Search[T]],
    *,
    screen: bool = True,
    done: Callable[[int], object] = lambda _: None,
) -> list[T]:
    """Drive the searches to their ends and return what they return, in their order.

    With `screen`, and if the subject has proved that it may, an input first runs through the first block only; if the
    state is bit-equal to the baseline's, so is the output, and the answer is "unchanged". A changed answer always
    comes from a whole forward. `done(n)` is called when n more searches have ended.
    """
    return _Scheduler(subject, list(searches), screen and subject.screens, done).run()


class _Scheduler(Generic[T]):
    """The batch as a row of slots, each with searches of its own.

    A whole forward costs many screenings. So a candidate waits, and its slot goes on with another search, until every
    slot has a candidate or nothing is left to screen. The slot with the most candidates decides how many whole
    forwards there are, so none is given more than its share of the searches while the others keep busy.
    """

    def __init__(
        self, subject: Subject, searches: list[Search[T]], screen: bool, done: Callable[[int], object]
    ) -> None:
        self.subject = subject
        self.answers = Answers(subject)
        self.coming = deque(enumerate(searches))
        self.screen = screen
        self.done = done
        self.slots: list[_Slot[T]] = [_Slot() for _ in range(subject.batch)]
        self.share = math.ceil(len(searches) / subject.batch) if screen else len(searches)
        self.results: dict[int, T] = {}

    def run(self) -> list[T]:
        while True:
            self._hand_out()
            asking = {number: slot.asking[0] for number, slot in enumerate(self.slots) if slot.asking}
            waiting = {number: slot.waiting[0] for number, slot in enumerate(self.slots) if slot.waiting}
            if self.screen and asking and len(waiting) < len(self.slots):
                self._screen(asking)
            elif asking or waiting:
                self._confirm(waiting or asking)
            else:
                return [self.results[index] for index in sorted(self.results)]

    def _hand_out(self) -> None:
        """Give every slot without a question its next search, up to its share."""
        for slot in self.slots:
            while self.coming and not slot.asking and slot.given < self.share:
                self._start(slot)
        busy = sum(bool(slot.asking) for slot in self.slots)
        if self.coming and busy < _IDLE * len(self.slots):
            self.share += 1
            self._hand_out()

    def _start(self, slot: _Slot[T]) -> None:
        index, search = self.coming.popleft()
        try:
            slot.asking.append(_Lane(index, search, next(search)))
            slot.given += 1
        except StopIteration as end:
            self._finish(index, end.value)

    def _screen(self, lanes: dict[int, _Lane[T]]) -> None:
        X = self._batch(lanes)
        changed, _ = self.answers.to("screen", X, lambda: self._screened(X))
        for number, lane in lanes.items():
            if changed[number] and not isinstance(lane.ask, Probe):
                self.slots[number].waiting.append(self.slots[number].asking.popleft())
            else:
                self._advance(number, self.slots[number].asking, Answer(changed[number], None, number))

    def _screened(self, X: Tensor) -> Told:
        return Told(rows_differ(self.subject.first_blocks(X), self.subject.baseline_state).tolist(), None)

    def _confirm(self, lanes: dict[int, _Lane[T]]) -> None:
        X = self._batch(lanes)
        changed, output = self.answers.to("whole", X, lambda: self._confirmed(X))
        assert output is not None, "a whole forward has outputs"
        for number in lanes:
            slot = self.slots[number]
            self._advance(number, slot.waiting or slot.asking, Answer(changed[number], output[number], number))

    def _confirmed(self, X: Tensor) -> Told:
        output = self.subject.finite(self.subject.evaluate(X))
        return Told(rows_differ(output, self.subject.baseline).tolist(), output)

    def _batch(self, lanes: dict[int, _Lane[T]]) -> Tensor:
        batch = self.subject.copies(len(self.slots))
        slots = torch.tensor(list(lanes), device=batch.device)
        batch[slots] = torch.stack([lane.x for lane in lanes.values()]).to(batch.device)
        return batch

    def _advance(self, number: int, lanes: deque[_Lane[T]], answer: Answer) -> None:
        """Answer the first of these lanes; its next question goes ahead of the searches that came after it."""
        lane = lanes.popleft()
        try:
            lane.ask = lane.search.send(answer)
            self.slots[number].asking.appendleft(lane)
        except StopIteration as end:
            self._finish(lane.index, end.value)

    def _finish(self, index: int, value: T) -> None:
        self.results[index] = value
        self.done(1)
