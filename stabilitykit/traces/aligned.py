"""Two recordings of the same prompts side by side, for as long as both were given the same input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import FORMATS, bits_equal
from stabilitykit.numerics.differences import Difference, difference
from stabilitykit.traces.agreement import first_other
from stabilitykit.traces.comparable import check_comparable
from stabilitykit.traces.recording import Generation, Recording
from stabilitykit.traces.stages import Stage

NORM = "post_norm"
"""The stage that the head reads."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """One prompt in two recordings: `a` is the reference's, `b` the other's.

    `compared` steps have the same tokens before them in both, from the first step on. In the last of them, if the runs
    part there, they have said different tokens: that step's states are what made them differ, not those of the step
    before. `stages` are those whose states both kept, in the order of the reference; `words` the texts of tokens.
    """

    number: int
    a: Generation
    b: Generation
    stages: tuple[Stage, ...]
    words: Mapping[int, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The text of the prompt, or its number."""
        return self.a.text or f"prompt {self.number}"

    @cached_property
    def compared(self) -> int:
        """How many steps had the same input in both."""
        differing = first_other(self.a.tokens, self.b.tokens)
        return min(self.a.steps, self.b.steps) if differing is None else differing + 1

    @cached_property
    def divergence(self) -> int | None:
        """The first of these steps in which both would go on with different tokens; None if there is none."""
        return first_other(self.a.predicted[: self.compared], self.b.predicted[: self.compared])

    @cached_property
    def step(self) -> int:
        """The step that is looked into: that of the divergence, without one that whose last state drifted farthest."""
        if self.divergence is not None:
            return self.divergence
        sizes = [self.difference(NORM, step).relative_l2 for step in range(self.compared)]
        return int(np.argmax(sizes))

    def pair(self, stage: str, step: int) -> tuple[Tensor, Tensor]:
        """Return the states (M,) of both: in their own dtype if it is the same, else widened to float64."""
        a, b = self.a.states[stage][step], self.b.states[stage][step]
        return (a, b) if a.dtype == b.dtype else (a.double(), b.double())

    def difference(self, stage: str, step: int) -> Difference:
        """Return how far the state of b is from that of a."""
        return difference(*self.pair(stage, step))

    def same_dtype(self, stage: str) -> bool:
        """Whether bits and ULP mean anything here."""
        return self.a.states[stage].dtype == self.b.states[stage].dtype

    def equal(self, stage: str, step: int) -> bool:
        """Whether a state is the same: in every bit, or of two dtypes in every value."""
        a, b = self.pair(stage, step)
        return bits_equal(a, b) if self.same_dtype(stage) else torch.equal(a, b)

    def place(self, step: int) -> dict[str, Any]:
        """Return the columns that say where a row belongs."""
        return {"prompt": self.label, "number": self.number, "position": step}


def aligned(reference: Recording, recording: Recording) -> list[Aligned]:
    """Return the prompts of two recordings of one model, side by side.

    IncomparableError as of `check_comparable`, UsageError for a recording without states.
    """
    check_comparable(reference, recording)
    for one in (reference, recording):
        _require_states(one)
    pairs = zip(reference.generations, recording.generations, strict=True)
    words = {**recording.words, **reference.words}
    return [Aligned(number, a, b, _stages(reference.stages, a, b), words) for number, (a, b) in enumerate(pairs)]


def _require_states(recording: Recording) -> None:
    for one in recording.generations:
        if NORM not in one.states or not any(name.startswith("block:") for name in one.states):
            where = f" in {recording.folder}" if recording.folder else ""
            raise UsageError(
                f"the recording{where} keeps digests but not the states of the blocks; make it with "
                "record(..., states='blocks'), or 'all' for every submodule"
            )


def _stages(stages: Sequence[Stage], a: Generation, b: Generation) -> tuple[Stage, ...]:
    return tuple(
        stage
        for stage in stages
        if stage.name in a.states
        and stage.name in b.states
        and a.states[stage.name].shape[1] == b.states[stage.name].shape[1]
        and {a.states[stage.name].dtype, b.states[stage.name].dtype} <= set(FORMATS)
    )
