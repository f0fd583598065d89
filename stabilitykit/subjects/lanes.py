"""Many searches at once: each keeps one slot of the batch, and a finished one hands it to the next.

A search is a generator: it yields an input x (H,), or a Probe, and is sent an Answer; it never sees the batch. As a
search keeps its slot, all its answers come from one path, one shape and one slot, and the baseline of that slot is the
only thing they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from stabilitykit.subjects.subject import Subject, rows_differ

T = TypeVar("T")

# A full forward costs many screenings, so it waits until this share of the lanes has a candidate to confirm.
_FILL = 0.75


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
    candidate: bool = False

    @property
    def x(self) -> Tensor:
        return self.ask.x if isinstance(self.ask, Probe) else self.ask


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
    return _Scheduler(subject, iter(searches), screen and subject.screens, done).run()


class _Scheduler(Generic[T]):
    """The batch as a row of lanes, each with a search of its own."""

    def __init__(
        self, subject: Subject, searches: Iterator[Search[T]], screen: bool, done: Callable[[int], object]
    ) -> None:
        self.subject = subject
        self.waiting = enumerate(searches)
        self.screen = screen
        self.done = done
        self.lanes: list[_Lane[T] | None] = [None] * subject.batch
        self.results: dict[int, T] = {}

    def run(self) -> list[T]:
        for slot in range(len(self.lanes)):
            self._refill(slot)
        while active := {slot: lane for slot, lane in enumerate(self.lanes) if lane is not None}:
            candidates = {slot: lane for slot, lane in active.items() if lane.candidate}
            if self.screen and len(candidates) < _FILL * len(active):
                self._screen({slot: lane for slot, lane in active.items() if not lane.candidate})
            else:
                self._confirm(candidates if self.screen else active)
        return [self.results[index] for index in sorted(self.results)]

    def _screen(self, lanes: dict[int, _Lane[T]]) -> None:
        state = self.subject.first_blocks(self._batch(lanes))
        changed = rows_differ(state, self.subject.baseline_state).tolist()
        for slot, lane in lanes.items():
            lane.candidate = changed[slot] and not isinstance(lane.ask, Probe)
            if not lane.candidate:
                self._advance(slot, lane, Answer(changed[slot], None, slot))

    def _confirm(self, lanes: dict[int, _Lane[T]]) -> None:
        output = self.subject.finite(self.subject.evaluate(self._batch(lanes)))
        changed = rows_differ(output, self.subject.baseline).tolist()
        for slot, lane in lanes.items():
            lane.candidate = False
            self._advance(slot, lane, Answer(changed[slot], output[slot], slot))

    def _batch(self, lanes: dict[int, _Lane[T]]) -> Tensor:
        batch = self.subject.copies(len(self.lanes)).clone()
        slots = torch.tensor(list(lanes), device=batch.device)
        batch[slots] = torch.stack([lane.x for lane in lanes.values()]).to(batch.device)
        return batch

    def _advance(self, slot: int, lane: _Lane[T], answer: Answer) -> None:
        try:
            lane.ask = lane.search.send(answer)
        except StopIteration as end:
            self._finish(lane.index, end.value)
            self._refill(slot)

    def _refill(self, slot: int) -> None:
        self.lanes[slot] = None
        for index, search in self.waiting:
            try:
                self.lanes[slot] = _Lane(index, search, next(search))
                return
            except StopIteration as end:
                self._finish(index, end.value)

    def _finish(self, index: int, value: T) -> None:
        self.results[index] = value
        self.done(1)
