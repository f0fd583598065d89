"""Inputs that are compared with each other, evaluated in one slot: there nothing but the input differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stabilitykit.measurements.progress import bar
from stabilitykit.subjects.subject import Subject

Call = Callable[[Tensor], Tensor]


class Walk(NamedTuple):
    """The outputs (k, ...) of one path of inputs, in its order, and the slot that they all come from."""

    slot: int
    outputs: Tensor


def walks(subject: Subject, paths: Sequence[Tensor], call: Call | None = None, label: str = "walk") -> list[Walk]:
    """Evaluate each path of inputs (k, H), k >= 1, in a slot of its own choice and return the outputs of each.

    Two outputs of one path may be compared bit for bit; those of two paths may not, since another slot may round in
    another way. A path goes to the slot that is free first, and no path leaves its slot; empty places hold x0. `call`
    maps one batch (B, H) to (B, ...), by default the whole forward. Cost: B rows for each row of the fullest slot.
    """
    if not paths:
        return []
    call = call or (lambda X: subject.finite(subject.evaluate(X)))
    seats = _dealt([len(path) for path in paths], subject.batch)
    rounds = max(first + len(path) for (first, _), path in zip(seats, paths, strict=True))
    table = subject.copies(rounds * subject.batch).view(rounds, subject.batch, -1)
    for (first, slot), path in zip(seats, paths, strict=True):
        table[first : first + len(path), slot] = path.to(table)
    with bar(rounds, label, "batch") as progress:
        outputs = []
        for batch in table:
            outputs.append(call(batch))
            progress.update()
    Y = torch.stack(outputs)
    return [Walk(slot, Y[first : first + len(path), slot]) for (first, slot), path in zip(seats, paths, strict=True)]


def _dealt(lengths: Sequence[int], batch: int) -> list[tuple[int, int]]:
    """Return (first round, slot) of each path: in order, to the slot that is free first, the lowest of equals."""
    free = [0] * batch
    seats = []
    for length in lengths:
        slot = free.index(min(free))
        seats.append((free[slot], slot))
        free[slot] += length
    return seats
