"""The final norm and the head of a recorded model, on this machine: what they make of states that were recorded."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from stabilitykit.errors import IncomparableError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.readout import NormAndHead, is_last, refuse_without_matrix
from stabilitykit.subjects.weights import dtype_named, weight_digest
from stabilitykit.traces.identity import NARROWER
from stabilitykit.traces.recording import Recording
from stabilitykit.traces.stages import Stage

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


class Readout(NormAndHead):
    """Final norm and head in the dtype of one recording; `model` is for what a stage's module is."""

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
    refuse_without_matrix(loaded, anatomy.head)
    norm, head = anatomy.final_norm, anatomy.head
    if recording.dtype != own:
        norm, head = (copy.deepcopy(one).to(dtype) for one in (norm, head))
    return Readout(anatomy, loaded.model, norm, head, is_last(loaded, anatomy))
