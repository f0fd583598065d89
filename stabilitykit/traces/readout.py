"""The final norm and the head of a recorded model, on this machine: what they make of states that were recorded."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import IncomparableError, UnsupportedError
from stabilitykit.numerics.bits import bits_equal, name_of
from stabilitykit.subjects.anatomy import PROBE, Anatomy, find
from stabilitykit.subjects.weights import dtype_named, weight_digest
from stabilitykit.traces.identity import NARROWER
from stabilitykit.traces.recording import Recording
from stabilitykit.traces.stages import Stage

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


@dataclass(frozen=True, eq=False)
class Readout:
    """Final norm and head in the dtype of one recording.

    `last` says whether the model's logits are the head's, bit for bit: a cap or a scale behind it keeps their order,
    but not their bits. `model` is the one they were taken from, for what a stage's module is.
    """

    anatomy: Anatomy
    model: nn.Module
    norm: nn.Module
    head: nn.Module
    last: bool

    def normed(self, states: Tensor) -> Tensor:
        """Return what the final norm makes of states (n, H), each by itself, as in a step of one token."""
        with torch.no_grad():
            rows = [self.norm(state[None, None])[0, 0] for state in states.to(self.device)]
        return torch.stack(rows).cpu()

    def logits(self, state: Tensor) -> Tensor:
        """Return what the head makes of one state (H,): (M,), in the shape of a step of one token."""
        with torch.no_grad():
            found: Tensor = self.head(state.to(self.device)[None, None])[0, 0]
        return found.cpu()

    def rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the head's rows (n, H) of some tokens and their biases (n,), in float64."""
        kept = torch.tensor(list(ids), device=self.device)
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        bias: Any = getattr(self.head, "bias", None)
        offsets = torch.zeros(len(ids), dtype=torch.float64) if bias is None else bias.detach()[kept].double().cpu()
        return weight.detach()[kept].double().cpu(), offsets

    def preference(self, state: Tensor, first: int, second: int) -> tuple[float, bool]:
        """Return logit of `first` minus that of `second` in a state that was normed (H,), and whether they tie.

        The difference is summed exactly and rounded once (products of float64 states are rounded too); a tie is one of
        the two logits, each rounded to the dtype of the state.
        """
        W, c = self.rows((first, second))
        terms = (W * state.double()).tolist()
        ahead = math.fsum([*terms[0], float(c[0]), *(-one for one in terms[1]), -float(c[1])])
        rounded = torch.tensor([math.fsum([*terms[k], float(c[k])]) for k in (0, 1)], dtype=torch.float64)
        left, right = rounded.to(state.dtype).tolist()
        return ahead, left == right

    def residual(self, stage: Stage) -> bool:
        """Whether a stage is the running sum itself: the embedding, a block's output, or what a norm in between reads.

        Such a norm is a child of the block, and its input is nobody's output, or else it would be no stage.
        """
        if stage.name == "embed" or stage.name.startswith("block:") or self.before(stage):
            return True
        inner = stage.before and stage.block is not None and "." not in stage.part
        return inner and "norm" in type(self.model.get_submodule(stage.module)).__name__.lower()

    def before(self, stage: Stage) -> bool:
        """Whether a stage is what the final norm reads, where that is not the last block's output."""
        return stage.before and stage.module == self.anatomy.final_norm_name

    @property
    def device(self) -> torch.device:
        """Where the head computes."""
        found: torch.device = self.head.weight.device  # type: ignore[assignment]
        return found


def readout(loaded: LoadedModel, recording: Recording) -> Readout:
    """Return the norm and head of a loaded model, rounded to the dtype of a recording of the same weights.

    IncomparableError for other weights, UnsupportedError for a head without a matrix. Cost: a forward of 3 tokens, and
    for a narrower dtype one hash of the weights and a copy of both.
    """
    dtype, own = dtype_named(recording.dtype), name_of(loaded.model.dtype)
    found = loaded.digest
    if recording.dtype != own:
        found = weight_digest(loaded.model, dtype) if recording.dtype in NARROWER.get(own, ()) else ""
    if found != recording.model["digests"][recording.dtype]:
        raise IncomparableError(
            f"{loaded.spec} in {own} is not the model of the recording, {recording.model['spec']} in "
            f"{recording.dtype}: its weights are others; load the one that was recorded"
        )
    anatomy = find(loaded.model)
    weight = getattr(anatomy.head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise UnsupportedError(f"the head of {loaded.spec} keeps no matrix of rows, one a token; leave loaded= out")
    norm, head = anatomy.final_norm, anatomy.head
    if recording.dtype != own:
        norm, head = (copy.deepcopy(one).to(dtype) for one in (norm, head))
    return Readout(anatomy, loaded.model, norm, head, _is_last(loaded, anatomy))


def _is_last(loaded: LoadedModel, anatomy: Anatomy) -> bool:
    """Whether the model returns what its head does."""
    heard: list[Tensor] = []
    handle = anatomy.head.register_forward_hook(lambda _head, _inputs, output: heard.append(output))
    try:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([PROBE], device=loaded.model.device)).logits
    finally:
        handle.remove()
    return bool(heard) and bits_equal(heard[-1], logits)
