"""Many searches at once: each keeps one slot of the batch, and one that ends or waits hands it to the next.

A search is a generator: it yields an input x (H,), a Probe or a Step, and is sent an Answer; it never sees the batch.
As a search keeps its slot, all its answers come from one path, one shape and one slot, and the baseline of that slot is
the only thing they are compared with.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from stabilitykit.numerics.fan import on_rays
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.answers import Answers, Told
from stabilitykit.subjects.subject import Screening, Subject, rows_differ

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


class Step(NamedTuple):
    """The input x(s) of a ray, to be computed together with those of the other slots; as a `probe` if asked."""

    lattice: Lattice
    s: float
    probe: bool = False


Ask = Tensor | Probe | Step
Search = Generator[Ask, Answer, T]


@dataclass
class _Lane(Generic[T]):
    index: int
    search: Search[T]
    ask: Ask

    @property
    def probes(self) -> bool:
        return isinstance(self.ask, Probe) or (isinstance(self.ask, Step) and self.ask.probe)


@dataclass
class _Slot(Generic[T]):
    """The searches of one slot, by how much is to be run for their question, the next one of each first.

    Level 0 is asked of the cheapest screening, the last level of the whole model.
    """

    levels: list[deque[_Lane[T]]]
    given: int = 0


def run(
    subject: Subject,
    searches: Iterable[Search[T]],
    *,
    screen: bool = True,
    done: Callable[[int], object] = lambda _: None,
) -> list[T]:
    """Drive the searches to their ends and return what they return, in their order.

    With `screen`, and as far as the subject has proved that it may, an input first runs through a part of the model: if
    what is seen there is bit-equal to the baseline's, so is the output, and the answer is "unchanged". A changed
    answer always comes from a whole forward. `done(n)` is called when n more searches have ended.
    """
    return _Scheduler(subject, list(searches), subject.screenings if screen else (), done).run()


class _Scheduler(Generic[T]):
    """The batch as a row of slots, each with searches of its own.

    A whole forward costs many screenings, and a screening by block 0 many of its entry. So a candidate for the next
    level waits, and its slot goes on with another search, until every slot has a candidate or nothing cheaper is left
    to ask. The slot with the most candidates decides how many whole forwards there are, so none is given more than its
    share of the searches while the others keep busy.
    """

    def __init__(
        self,
        subject: Subject,
        searches: list[Search[T]],
        screenings: Sequence[Screening],
        done: Callable[[int], object],
    ) -> None:
        self.subject = subject
        self.answers = Answers(subject)
        self.coming = deque(enumerate(searches))
        self.screenings = screenings
        self.done = done
        levels = range(len(screenings) + 1)
        self.slots: list[_Slot[T]] = [_Slot([deque() for _ in levels]) for _ in range(subject.batch)]
        self.share = math.ceil(len(searches) / subject.batch) if screenings else len(searches)
        self.results: dict[int, T] = {}

    def run(self) -> list[T]:
        while True:
            self._hand_out()
            level = self._next_level()
            if level is None:
                return [self.results[index] for index in sorted(self.results)]
            lanes = {number: slot.levels[level][0] for number, slot in enumerate(self.slots) if slot.levels[level]}
            if level < len(self.screenings):
                self._screen(level, lanes)
            else:
                self._confirm(lanes)

    def _next_level(self) -> int | None:
        """Return the dearest level that every slot has a search for, or else the cheapest that any has one for."""
        waiting = [sum(map(bool, queues)) for queues in zip(*(slot.levels for slot in self.slots), strict=True)]
        full = [level for level, count in enumerate(waiting) if count == len(self.slots)]
        return max(full) if full else next((level for level, count in enumerate(waiting) if count), None)

    def _hand_out(self) -> None:
        """Give every slot without a question its next search, up to its share."""
        if not self.coming:
            return
        for slot in self.slots:
            while self.coming and not slot.levels[0] and slot.given < self.share:
                self._start(slot)
        busy = sum(bool(slot.levels[0]) for slot in self.slots)
        if self.coming and busy < _IDLE * len(self.slots):
            self.share += 1
            self._hand_out()

    def _start(self, slot: _Slot[T]) -> None:
        index, search = self.coming.popleft()
        try:
            slot.levels[0].append(_Lane(index, search, next(search)))
            slot.given += 1
        except StopIteration as end:
            self._finish(index, end.value)

    def _screen(self, level: int, lanes: dict[int, _Lane[T]]) -> None:
        X = _batch(self.subject, lanes)
        screening = self.screenings[level]
        changed, _ = self.answers.to(f"screen {level}", X, lambda: Told(screening(X).tolist(), None))
        last = level + 1 == len(self.screenings)
        for number, lane in lanes.items():
            if changed[number] and not (last and lane.probes):
                self.slots[number].levels[level + 1].append(self.slots[number].levels[level].popleft())
            else:
                self._advance(number, level, Answer(changed[number], None, number))

    def _confirm(self, lanes: dict[int, _Lane[T]]) -> None:
        X = _batch(self.subject, lanes)
        changed, output = self.answers.to("whole", X, lambda: self._confirmed(X))
        assert output is not None, "a whole forward has outputs"
        for number in lanes:
            self._advance(number, len(self.screenings), Answer(changed[number], output[number], number))

    def _confirmed(self, X: Tensor) -> Told:
        output = self.subject.finite(self.subject.evaluate(X))
        return Told(rows_differ(output, self.subject.baseline).tolist(), output)

    def _advance(self, number: int, level: int, answer: Answer) -> None:
        """Answer the first of these searches; its next question goes ahead of those that came after it."""
        lane = self.slots[number].levels[level].popleft()
        try:
            lane.ask = lane.search.send(answer)
            self.slots[number].levels[0].appendleft(lane)
        except StopIteration as end:
            self._finish(lane.index, end.value)

    def _finish(self, index: int, value: T) -> None:
        self.results[index] = value
        self.done(1)


def _batch(subject: Subject, lanes: Mapping[int, _Lane[Any]]) -> Tensor:
    """Return the batch (B, H) that asks these slots' questions, x0 in all others; steps on rays are taken at once."""
    steps = {number: lane.ask for number, lane in lanes.items() if isinstance(lane.ask, Step)}
    given = {number: lane.ask for number, lane in lanes.items() if not isinstance(lane.ask, Step)}
    moved = on_rays([ask.lattice for ask in steps.values()], [ask.s for ask in steps.values()]) if steps else None
    if moved is not None and len(steps) == subject.batch:
        return moved.to(subject.x0.device)
    batch = subject.copies(subject.batch)
    if moved is not None:
        batch[list(steps)] = moved.to(batch.device)
    if given:
        rows = [ask.x if isinstance(ask, Probe) else ask for ask in given.values()]
        batch[list(given)] = torch.stack(rows).to(batch.device)
    return batch
