"""One run of a kernel, judged: how far from the truth, how far from the whole run, and where it is worst."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.trials import Run, Trial, runs
from stabilitykit.numerics.accuracy import Accuracy, accuracy
from stabilitykit.numerics.bits import pattern, spacing
from stabilitykit.numerics.differences import Difference, difference
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.rounding import round_once
from stabilitykit.results.result import Worst
from stabilitykit.subjects.kernel import Kernel

Place = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Judged:
    """A run beside its truth; `change` is its difference from the same rows of the whole run, if it is another run."""

    trial: Trial
    run: Run
    output: Tensor
    accuracy: Accuracy
    change: Difference | None = None

    @property
    def badness(self) -> tuple[bool, float]:
        """Order of runs, the worst last: elements that are not finite, then the excess."""
        return self.accuracy.not_finite > 0, self.accuracy.excess

    @property
    def place(self) -> dict[str, str]:
        """Where this is, as the readings name it."""
        variant = {"run": self.run.variant} if self.run.variant else {}
        return {**{name: str(value) for name, value in self.trial.place.items()}, **variant}

    @cached_property
    def noise(self) -> float:
        """How far one float64 ULP of the inputs moves the truth, in ULP of the largest element of its row."""
        truth = self.trial.truth
        largest = torch.where(truth.values.isfinite(), truth.values.abs(), 0.0).amax(dim=1)
        return float((truth.noise / spacing(round_once(largest, self.output.dtype))).nan_to_num(math.inf).max())

    def row(self, kernel: Kernel) -> Place:
        """Return the tidy row of this run."""
        sizes = {name: value for name, value in asdict(self.accuracy).items() if name != "worst"}
        change = {} if self.change is None else changes(self.change)
        named = {"run": self.run.kind, "variant": self.run.variant}
        trial = {"truth_noise": self.noise, "inputs": digest(*self.trial.inputs)[:16]}
        return {**self.trial.place, **named, **sizes, **change, **self.worst_columns(kernel), **trial}

    def worst_columns(self, kernel: Kernel) -> Place:
        """Return the worst element in decimal and in bits, with the inputs that have an element of that place."""
        if self.accuracy.worst is None:
            return {}
        row, column = self.accuracy.worst
        found, truth = self.output[row, column], self.trial.truth.values[self.run.start + row, column]
        index = index_of(kernel, self.trial, self.run.start + row, column)
        return {
            "index": ", ".join(map(str, index)),
            "output": float(found),
            "output_bits": pattern(found),
            "truth": float(truth),
            "truth_bits": pattern(round_once(truth, found.dtype)),
            "at": ", ".join(_inputs_at(kernel, self.trial.inputs, index)),
        }

    def worst(self, kernel: Kernel) -> Worst | None:
        """Return the worst element as messages show it."""
        if not (seen := self.worst_columns(kernel)):
            return None
        where = ", ".join(f"{name} {value}" for name, value in self.place.items())
        at = f" at {seen['at']}" if seen["at"] else ""
        true, got = (f"{seen[side]:.9g} ({seen[f'{side}_bits']})" for side in ("truth", "output"))
        return Worst(f"y[{seen['index']}]{at} ({where})", "float64", true, kernel.name, got)


def judge(kernel: Kernel, trial: Trial) -> Iterator[Judged | None]:
    """Yield every run of a trial, judged; None for a layout that the kernel refused. Later tries run whole only."""
    whole: Tensor | None = None
    for run in runs(kernel, trial):
        if run.output is None:
            yield None
            continue
        found = beside_truth(trial, run, run.output)
        if whole is None:
            whole = run.output
            yield found
            if trial.attempt:
                return
            continue
        change = difference(whole[run.start : run.stop], run.output)
        yield Judged(trial, run, run.output, found.accuracy, change)


def beside_truth(trial: Trial, run: Run, output: Tensor) -> Judged:
    """Return a run with its accuracy; UnsupportedError for a float64 output beside its own formula in float64."""
    if output.dtype == torch.float64 and not trial.truth.given:
        raise UnsupportedError("the kernel returns float64 and so does its own formula; give reference=, a better one")
    rows = slice(run.start, run.stop)
    return Judged(trial, run, output, accuracy(output, trial.truth.values[rows], trial.truth.moved[rows]))


def changes(change: Difference) -> Place:
    """Return the columns of a difference between two runs; its sizes are nan where a NaN faces a number."""
    lost = change.nan_mismatch > 0
    return {
        "differing_bits": change.differing_bits,
        "changed_max_ulp": math.nan if lost else float(change.max_ulp),
        "changed_max_scaled_ulp": math.nan if lost else change.max_scaled_ulp,
    }


def index_of(kernel: Kernel, trial: Trial, row: int, column: int) -> tuple[int, ...]:
    """Return the index of an element in the kernel's own output, from its batch row and its place there."""
    shape, axis = list(trial.truth.shape), kernel.batch_axis
    if axis is None:
        return tuple(int(i) for i in np.unravel_index(column, shape)) if shape else ()
    place = kernel.signature.output.index(axis)
    rest = [int(i) for i in np.unravel_index(column, shape[:place] + shape[place + 1 :])] if len(shape) > 1 else []
    return (*rest[:place], row, *rest[place:])


def saved(judged: Judged) -> dict[str, NDArray[Any]]:
    """Return the inputs, the output and the truth of a trial as arrays that hold every bit."""
    inputs = {f"worst_input_{n}": array(x) for n, x in enumerate(judged.trial.inputs)}
    rows = judged.trial.truth.values[judged.run.start : judged.run.stop]
    return {**inputs, "worst_output": array(judged.output), "worst_truth": rows.numpy()}


def array(x: Tensor) -> NDArray[Any]:
    """Return a tensor as a numpy array; what is narrower than float32 fits into it exactly."""
    wide = x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x
    return np.asarray(wide.contiguous().numpy())


def _inputs_at(kernel: Kernel, inputs: Sequence[Tensor], index: tuple[int, ...]) -> Iterator[str]:
    place = dict(zip(kernel.signature.output, index, strict=True))
    for n, (axes, x) in enumerate(zip(kernel.signature.inputs, inputs, strict=True)):
        if x.is_floating_point() and axes and set(axes) <= set(place):
            number = x[tuple(place[axis] for axis in axes)]
            yield f"x{n} = {float(number):.9g} ({pattern(number)})"
