"""How far apart mathematically equal evaluations lie: the scale next to which every jump of an output is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stabilitykit.subjects.subject import Subject

BATCHES = (1, 2, 3, 8)
"""Batch shapes tried besides the subject's own: 1 to 3 rows have kernels of their own in common libraries."""


@dataclass(frozen=True)
class NoiseFloor:
    """The largest distance between evaluations of x0 that exact arithmetic could not tell apart.

    `l2` and `max_abs` in output units; `pair` names the two evaluations farthest apart in L2; `evaluations` counts
    the outputs compared, each with each; `distinct` of them differ in some bit.
    """

    l2: float
    max_abs: float
    pair: str
    evaluations: int
    distinct: int

    @property
    def sentence(self) -> str:
        """The floor in words, for reports and messages."""
        if not self.l2:
            return f"0: all {self.evaluations} equal evaluations of the input gave the same output"
        found = f"{self.evaluations} equal evaluations of the input gave {self.distinct} outputs"
        return f"{self.l2:.3g} (L2), between {self.pair}; {found}"


def floor(subject: Subject) -> NoiseFloor:
    """Return the floor over all of the subject's `equivalents`, every slot of each. O(n^2 M) for n outputs."""
    outputs: dict[bytes, tuple[str, Tensor]] = {}
    count = 0
    for name, Y in subject.equivalents():
        for row in subject.finite(Y).double().cpu():
            outputs.setdefault(row.numpy().tobytes(), (name, row))
            count += 1
    l2, largest, pair = 0.0, 0.0, ""
    for (a, left), (b, right) in itertools.combinations(outputs.values(), 2):
        gap = (left - right).abs()
        largest = max(largest, float(gap.max()))
        if float(gap.norm()) > l2:
            l2, pair = float(gap.norm()), f"{a} and {b}"
    return NoiseFloor(l2, largest, pair, count, len(outputs))


def batches(subject: Subject, run: Callable[[int], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield x0 in its own batch shape, in others as `run` evaluates them, and with one thread where several run.

    More threads than the user asked for are not tried: where every core is busy they wait for each other, 60 times as
    long as one alone would take.
    """
    yield f"batch {subject.batch}", subject.evaluate(subject.copies(subject.batch))
    for batch in BATCHES:
        if batch != subject.batch:
            yield f"batch {batch}", run(batch)
    if subject.x0.device.type == "cpu" and torch.get_num_threads() > 1:
        with threads(1):
            yield f"batch {subject.batch} with 1 thread", run(subject.batch)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with so many threads, and put the ambient number back."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(ambient)
