"""Record under tensor parallelism: processes that hold a share of each matrix each, and add up what they computed.

A product whose rows are shared out is a sum of parts, added in another order than one kernel adds: other bits, from
the first such sum on. The processes run on the CPU of this machine, and talk over its loopback (gloo).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects import launch
from stabilitykit.subjects.checkpoint import quiet
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.replica import opened
from stabilitykit.traces.elsewhere import RECORDING, recorded_as_asked
from stabilitykit.traces.recording import Generation, Recording
from stabilitykit.traces.stages import LOGITS
from stabilitykit.traces.store import write_recording


def sharded(whole: LoadedModel, folder: str, ranks: int) -> LoadedModel:
    """Return this rank's share of a model that lies in a folder; each rank of the group calls it.

    UnsupportedError unless the shares together are the model's weights, bit for bit. Memory: the whole model once more.
    """
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=whole.model.dtype,
            attn_implementation=whole.model.config._attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            distributed_config=DistributedConfig(tp_size=ranks),
        )
    model.eval().requires_grad_(False)
    for name, share in model.named_parameters():
        if not bits_equal(_gathered(share), whole.model.get_parameter(name)):
            raise UnsupportedError(
                f"the shares of weight {name!r} of {whole.spec} are not the whole; nothing is recorded"
            )
    return replace(whole, model=model)


def _gathered(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def shared_stages(recording: Recording) -> Recording:
    """Return a recording with those stages only that have the same bits on every rank; each rank calls it.

    Between two sums each rank sees its own share, which no other device has. UnsupportedError where the ranks do not
    agree on the logits.
    """
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, [one.digests for one in recording.generations])
    kept = equal_stages(every)
    if not kept[recording.stage(LOGITS.name)]:
        raise UnsupportedError("the ranks do not agree on the bits of the logits; there is no one recording of them")
    names = [stage.name for stage, whole in zip(recording.stages, kept, strict=True) if whole]
    generations = [_only(one, kept, names) for one in recording.generations]
    stages = tuple(stage for stage in recording.stages if stage.name in names)
    return replace(recording, stages=stages, generations=tuple(generations))


def equal_stages(every: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.bool_]:
    """Return which stages (S,) have equal digests on all ranks; `every` has, of each rank, (n, S, 16) a prompt."""
    first = every[0]
    alike = [(a == b).all(axis=(0, 2)) for other in every[1:] for a, b in zip(first, other, strict=True)]
    return np.logical_and.reduce(alike) if alike else np.ones(first[0].shape[1], dtype=bool)


def _only(one: Generation, kept: NDArray[np.bool_], names: Sequence[str]) -> Generation:
    states = {name: state for name, state in one.states.items() if name in names}
    return replace(one, digests=one.digests[:, kept], states=states)


def main(folder: str) -> None:
    """Answer the request in a folder, as one rank of several: the other side of `record_elsewhere`."""
    place = Path(folder)
    request = launch.request_of(place)
    whole = opened(request)
    ranks = request["ranks"]
    share = sharded(whole, request["whole"], ranks)
    recording = shared_stages(recorded_as_asked(share, request, place, whole))
    if dist.get_rank() == 0:
        write_recording(replace(recording, probe=f"{recording.probe}-tp{ranks}"), place / RECORDING)
        launch.answered(place, {"digest": whole.digest, "forwards": share.counter.forwards})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
