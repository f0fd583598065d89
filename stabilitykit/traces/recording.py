"""A recording: what a model generated for a set of prompts, with a digest of every tensor on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.subjects.measurable import Measurable
from stabilitykit.traces.stages import Stage

if TYPE_CHECKING:
    from stabilitykit.traces.operations import OperationLog


@dataclass(frozen=True, eq=False)
class Generation:
    """One prompt of a recording: n tokens that the model read or wrote, one a step, and S stages in each.

    `ids` are those of the prompt, `tokens` (n,) int64 those that follow, and `predicted` (n,) what the model itself
    would say there: the same unless it was forced. `top_ids` (n, k) int64 and `top_logits` (n, k), in the logits' own
    dtype, are the largest logits, of equal ones the lowest id first; `normaliser` (n,) float64 is the log of the sum
    of exp over all logits. `digests` (n, S, 16) uint8 has the first 128 bits of SHA-256 over dtype, shape and bytes of
    each stage, zeros where it did not run. `states` has the vector (n, M) of the last position at each stage that was
    asked for, in its own dtype, and `operations` the operations of the steps that were, by step.
    """

    kind: str
    text: str | None
    ids: tuple[int, ...]
    tokens: NDArray[np.int64]
    predicted: NDArray[np.int64]
    top_ids: NDArray[np.int64]
    top_logits: Tensor
    normaliser: NDArray[np.float64]
    digests: NDArray[np.uint8]
    states: Mapping[str, Tensor] = field(default_factory=dict)
    operations: Mapping[int, OperationLog] = field(default_factory=dict)

    @property
    def margins(self) -> NDArray[np.float64]:
        """By how much each step's largest logit leads the next one, (n,), exact."""
        logits = self.top_logits.double().numpy()
        margins: NDArray[np.float64] = logits[:, 0] - logits[:, 1]
        return margins

    @property
    def steps(self) -> int:
        """How many tokens follow the prompt."""
        return len(self.tokens)


@dataclass(frozen=True, eq=False, repr=False)
class Recording(Measurable):
    """What one configuration generated; made by `record(...)`, or read from a folder by `read_recording(DIR)`.

    `model` names the model whatever it runs on (`traces.identity`), `environment` and `probe` what it ran on. `mode`
    is `free` (each token is the model's own) or `forced` (the tokens are another recording's). `level` is how closely
    it looks, `stages` where, in the order in which they run. `observer` counts the steps whose logits a plain
    generation has given bit for bit; `seconds` what both took. `words` is the text of every token id that it names,
    decoration only: two ids may share one. `folder` is where it was read from, if it was.
    """

    model: Mapping[str, Any]
    device: str
    environment: Mapping[str, Any]
    probe: str
    mode: str
    level: str
    stages: tuple[Stage, ...]
    generations: tuple[Generation, ...]
    observer: Mapping[str, int]
    seconds: Mapping[str, float]
    words: Mapping[int, str] = field(default_factory=dict)
    folder: str = ""

    made_by: ClassVar[str] = "record(...) or read_recording(DIR)"

    def __repr__(self) -> str:
        """Return what it is of, without what is in it."""
        return f"Recording({self.model['spec']}, {self.dtype}, {self.device}, {len(self.generations)} prompts)"

    @property
    def dtype(self) -> str:
        """The dtype of the weights."""
        return str(self.model["dtype"])

    def stage(self, name: str) -> int:
        """Return the index of a stage; ValueError if there is none of this name."""
        return [stage.name for stage in self.stages].index(name)

    def operations(self, prompt: int, step: int) -> OperationLog | None:
        """Return the operations of a step, None where they were not recorded."""
        return self.generations[prompt].operations.get(step)

    def word(self, token: int) -> str:
        """Return the text of a token, "" where there was no tokenizer."""
        return self.words.get(token, "")

    def describe(self) -> dict[str, Any]:
        """Return what identifies it."""
        return {
            "name": str(self.model["spec"]),
            "model": str(self.model["spec"]),
            "model_digest": self.model["digests"][self.dtype],
            "architecture": str(self.model["architecture"]),
            "dtype": self.dtype,
            "device": self.device,
            "mode": self.mode,
            "level": self.level,
            "probe": self.probe,
            "prompts": len(self.generations),
        }


def stage_rows(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return stages JSON-plain."""
    return [
        {"name": one.name, "module": one.module, "before": one.before, "block": one.block, "part": one.part}
        for one in stages
    ]
