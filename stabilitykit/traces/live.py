"""One forward again in a fresh process, under other variables: its operations, or the tensors of one of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stabilitykit.errors import IncomparableError, UnsupportedError
from stabilitykit.subjects import launch
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.environment import VARIABLES_THAT_DECIDE, VARIABLES_WITH_EFFECT
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.replica import named, opened, threads_there
from stabilitykit.traces.fields import Field
from stabilitykit.traces.operation_log import Operation, OperationLog, operation_from
from stabilitykit.traces.operations import caught_at, operations_at
from stabilitykit.traces.watch import Caught

if TYPE_CHECKING:
    from stabilitykit.traces.recording import Recording

_TENSORS = "caught.safetensors"

Model = LoadedModel | Mapping[str, Any]
"""A model, or what `load` is told to load it again, and the `digest` of its weights."""


@dataclass(frozen=True)
class Taken:
    """One operation, and its tensors: `input.0`, ... as it read them, `output.0`, ... as it gave them.

    `changed` are the numbers of inputs that stand among the outputs, `devices` where each input lay.
    """

    entry: Operation
    tensors: Mapping[str, Tensor]
    changed: tuple[int, ...]
    devices: tuple[str, ...]


def model_of(recording: Recording) -> dict[str, Any]:
    """Return how the model of a recording is loaded again."""
    told = {name: recording.environment.get(name) for name in ("attention", "experts")}
    model = recording.model
    own = {"spec": model["spec"], "dtype": recording.dtype, "digest": model["digests"][recording.dtype]}
    return {**own, **told, "device": recording.device}


def live(
    logs: Sequence[OperationLog], model: Model, environ: Mapping[str, str] | None = None, timeout: float = 600.0
) -> list[OperationLog]:
    """Return the logs of the same steps of the same texts, from one new Python process under additional variables.

    Threads are as in the first log, unless `environ` has OMP_NUM_THREADS. IncomparableError where other weights are
    loaded there; UnsupportedError if the process dies or cannot load the model, TimedOutError after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        answer = _asked(Path(folder), logs, model, environ or {}, timeout, None)
    return [OperationLog.from_plain(one, "the log of a fresh process") for one in answer["logs"]]


def variables(recording: Recording) -> dict[str, str]:
    """Return the variables that decide bits and were set where a recording was made."""
    told = recording.environment
    names = (*VARIABLES_THAT_DECIDE, *VARIABLES_WITH_EFFECT)
    return {name: str(told[f"env.{name}"]) for name in names if told.get(f"env.{name}") is not None}


def operands(
    log: OperationLog, place: Place, model: Model, environ: Mapping[str, str] | None = None, timeout: float = 600.0
) -> Taken:
    """Return the tensors of exactly one operation of the log's forward, from a new process as of `live`.

    UnsupportedError where the operation is not asked for there. Errors as of `live`. Memory: that operation's tensors.
    """
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        answer = _asked(Path(folder), [log], model, environ or {}, timeout, place)
        if answer["entry"] is None:
            raise UnsupportedError(f"{place} is not asked for in a fresh process; nothing can be replayed")
        entry = operation_from(Field(answer["entry"], "the answer of a fresh process"), len(log.entries))
        tensors = load_file(Path(folder) / _TENSORS)
        return Taken(entry, tensors, tuple(answer["changed"]), tuple(answer["devices"]))


def _asked(
    folder: Path,
    logs: Sequence[OperationLog],
    model: Model,
    environ: Mapping[str, str],
    timeout: float,
    place: Place | None,
) -> dict[str, Any]:
    told = dict(named(model, folder), digest=model.digest) if isinstance(model, LoadedModel) else dict(model)
    digest = told.pop("digest")
    request = {
        "model": told,
        "threads": threads_there(environ, logs[0].threads),
        "texts": [[one.ids, one.generated, len(one.generated), one.level] for one in logs],
        "place": place,
    }
    answer = launch.ask("stabilitykit.traces.live", folder, request, environ, timeout)
    if answer["digest"] != digest:
        raise IncomparableError(
            f"a fresh process loads other weights under the name {told['spec']!r} ({answer['digest'][:12]}, not "
            f"{digest[:12]}); nothing that differs there says anything about a device"
        )
    return answer


def main(folder: Path) -> None:
    """Answer the request in a folder: the other side of `live` and `operands`."""
    request = launch.request_of(folder)
    loaded = opened(request)
    if request["place"] is None:
        logs = [operations_at(loaded, *text) for text in request["texts"]]
        launch.answered(folder, {"digest": loaded.digest, "logs": [log.to_plain() for log in logs]})
        return
    ((ids, said, step, _),) = request["texts"]
    caught = caught_at(loaded, ids, said, step, Place(*request["place"]))
    answer: dict[str, Any] = {"digest": loaded.digest, "entry": None}
    if caught:
        save_file(dict(_tensors(caught)), folder / _TENSORS)
        devices = [str(one.device) for one in caught.inputs]
        answer |= {"entry": caught.entry.to_plain(), "changed": caught.changed, "devices": devices}
    launch.answered(folder, answer)


def _tensors(caught: Caught) -> Iterator[tuple[str, Tensor]]:
    """Name the tensors; what is not read is zeros, for memory that nobody wrote is other garbage every time."""
    for index, (tensor, operand) in enumerate(zip(caught.inputs, caught.entry.inputs, strict=True)):
        yield f"input.{index}", (tensor if operand.digest else torch.zeros_like(tensor)).cpu().contiguous()
    tensors = iter(caught.outputs)
    for index, operand in enumerate(caught.entry.outputs):
        if operand.dtype != "python":
            yield f"output.{index}", next(tensors).cpu().contiguous()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
