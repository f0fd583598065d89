"""What a kernel is tried with and how it is run: drawn inputs, their true result, and runs that should agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import StabilityError, UsageError
from stabilitykit.numerics.accuracy import gap
from stabilitykit.numerics.bits import format_of, nudge, ordered
from stabilitykit.subjects.draws import Draw, name_of_draw, named
from stabilitykit.subjects.kernel import Function, Kernel
from stabilitykit.subjects.layouts import LAYOUTS
from stabilitykit.subjects.signature import Size

PATTERNS = 3
"""Random patterns of one-ULP moves of the inputs, whose largest effect is what their rounding excuses."""
TRUTHS = PATTERNS + 2
"""Reference runs a trial takes: on the inputs, on each pattern, and on inputs one float64 ULP away."""
ALONE = 4
"""Rows of a batch that are run alone: the first, the last, and those between at equal distances."""


@dataclass(frozen=True)
class Plan:
    """Which inputs: each size, with each draw, `tries` times; nested in this order."""

    shapes: Sequence[Size]
    draws: Sequence[str | Draw]
    tries: int
    seed: int
    reference: Function | None

    def check(self) -> None:
        """Refuse what tries nothing."""
        if isinstance(self.shapes, str | int | Mapping):
            raise UsageError(f"shapes={self.shapes!r} is no list; write shapes=[{self.shapes!r}]")
        if not self.shapes:
            raise UsageError("shapes is empty; give at least one, such as shapes=[(8, 256)]")
        if isinstance(self.draws, str) or not self.draws:
            raise UsageError(f"draws={self.draws!r} draws nothing; give a list such as ['normal', 'wide']")
        for draw in self.draws:
            named(draw, torch.float32)
        if self.tries < 1:
            raise UsageError(f"tries={self.tries} tries nothing; give at least 1")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed} is negative; give 0 or more")

    @property
    def count(self) -> int:
        """How many trials there are."""
        return len(self.shapes) * len(self.draws) * self.tries

    def trials(self, kernel: Kernel) -> Iterator[Trial]:
        """Yield every trial, its truth computed."""
        for size in self.shapes:
            for draw in self.draws:
                for attempt in range(self.tries):
                    yield self._trial(kernel, size, draw, attempt)

    def _trial(self, kernel: Kernel, size: Size, draw: str | Draw, attempt: int) -> Trial:
        lengths = kernel.lengths(size)
        inputs = kernel.draw(size, draw, (self.seed, attempt))
        truth = true_result(kernel, inputs, self.reference, (self.seed, attempt, 1))
        label = "x".join(str(length) for axis, length in lengths.items() if axis not in kernel.fixed) or "()"
        place = {"shape": label, "draw": name_of_draw(draw), "try": attempt}
        return Trial(place, lengths.get(kernel.batch_axis or "", 1), attempt, inputs, truth)


@dataclass(frozen=True, eq=False)
class Truth:
    """The true result t (B, M) float64, and how far each row moves with its inputs.

    `moved` (B,): by one ULP of their dtype; `noise` (B,): by one ULP of float64. `shape` is the result's own; `given`
    says that it comes from a reference and not from the kernel's own formula.
    """

    values: Tensor
    moved: Tensor
    noise: Tensor
    shape: tuple[int, ...]
    given: bool


@dataclass(frozen=True, eq=False)
class Trial:
    """One set of inputs on the CPU, with its true result."""

    place: dict[str, Any]
    batch: int
    attempt: int
    inputs: tuple[Tensor, ...]
    truth: Truth


class Run(NamedTuple):
    """One run of the kernel: its rows `start` to `stop` on the CPU (B', M), or None where it refused the inputs."""

    kind: str
    variant: str
    output: Tensor | None
    start: int
    stop: int


def true_result(kernel: Kernel, inputs: Sequence[Tensor], reference: Function | None, seed: Sequence[int]) -> Truth:
    """Return the truth about some inputs; cost: `TRUTHS` runs of the reference."""
    random = np.random.Generator(np.random.PCG64(seed))
    result = kernel.true(inputs, reference)
    true = kernel.by_row(result)

    def change(moved: Sequence[Tensor]) -> Tensor:
        return _row_max(gap(kernel.by_row(kernel.true(moved, reference)), true))

    patterns = [change([_nudged(x, random) for x in inputs]) for _ in range(PATTERNS)]
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    noise = change([_nudged(x, random) for x in wide])
    return Truth(true, torch.stack(patterns).amax(dim=0), noise, tuple(result.shape), reference is not None)


def runs(kernel: Kernel, trial: Trial) -> Iterator[Run]:
    """Yield runs that exact arithmetic could not tell apart: whole, again, rows alone, two halves, other layouts."""
    B = trial.batch
    yield Run("whole", "", whole(kernel, trial), 0, B)
    yield Run("repeat", "again", _run(kernel, trial.inputs), 0, B)
    if B > 1:
        for row in alone(B):
            output = _run(kernel, kernel.rows(trial.inputs, row, row + 1))
            yield Run("batch", f"row {row} alone", output, row, row + 1)
        halves = [kernel.rows(trial.inputs, *span) for span in ((0, B // 2), (B // 2, B))]
        yield Run("split", "two halves", torch.cat([_run(kernel, half) for half in halves]), 0, B)
    for name in layouts(kernel):
        yield Run("stride", name, _laid_out(kernel, trial.inputs, name), 0, B)


def whole(kernel: Kernel, trial: Trial) -> Tensor:
    """Run the kernel on all inputs as they were drawn, and return its rows on the CPU."""
    return _run(kernel, trial.inputs)


def calls(kernel: Kernel, batch: int) -> int:
    """Return how many calls `runs` makes."""
    return 2 + (len(alone(batch)) + 2 if batch > 1 else 0) + len(layouts(kernel))


def alone(batch: int) -> list[int]:
    """Return the rows that are run alone."""
    return sorted({round(k * (batch - 1) / (ALONE - 1)) for k in range(ALONE)})


def layouts(kernel: Kernel) -> list[str]:
    """Return the names of the layouts that some input can have."""
    widest = max(len(axes) for axes in kernel.signature.inputs)
    return [name for name in LAYOUTS if widest > (1 if name in ("transposed", "padded") else 0)]


def _run(kernel: Kernel, inputs: Sequence[Tensor]) -> Tensor:
    return kernel.by_row(kernel.run(kernel.on_device(inputs))).cpu()


def _laid_out(kernel: Kernel, inputs: Sequence[Tensor], name: str) -> Tensor | None:
    placed = [LAYOUTS[name](x) for x in kernel.on_device(inputs)]
    try:
        return kernel.by_row(kernel.run(placed)).cpu()
    except StabilityError:
        raise
    except Exception:  # whatever a kernel raises about a layout, refusing is right and guessing would be wrong
        return None


def _nudged(x: Tensor, random: np.random.Generator) -> Tensor:
    """Move every element by one ULP, up or down at random; the largest numbers toward zero."""
    if not x.is_floating_point():
        return x
    steps = torch.from_numpy(1 - 2 * random.integers(0, 2, size=tuple(x.shape))).reshape(x.shape)
    key = ordered(x)
    last = key.abs() >= format_of(x.dtype).largest
    return nudge(x, torch.where(last, -key.sign(), steps))


def _row_max(x: Tensor) -> Tensor:
    return x.amax(dim=1) if x.shape[1] else x.new_zeros(len(x))
