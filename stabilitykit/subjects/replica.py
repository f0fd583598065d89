"""The same subjects in a fresh process, which may be told to use other kernels: a second device on one machine."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects import launch
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.hardware import device_map_of
from stabilitykit.subjects.models import IN_MEMORY, LoadedModel, load

OUTPUTS = "outputs.safetensors"


@dataclass(frozen=True)
class Replica:
    """What a fresh process answered: each subject's output (M,) at x0, alone in its batch, and where it ran."""

    outputs: list[Tensor]
    environment: Mapping[str, Any]


def in_fresh_process(
    subjects: Sequence[CausalLMSubject], environ: Mapping[str, str] | None = None, timeout: float = 600.0
) -> Replica:
    """Load the subjects' model again in a new Python process and return their outputs there.

    `environ` is added to the process's variables, such as `ATEN_CPU_CAPABILITY=default`. Threads are the ambient number
    here, unless it sets OMP_NUM_THREADS. The process must find the weights that are measured here, by their digest; a
    model object that came from no file is handed over in one. UnsupportedError if the process cannot load the model or
    dies by a signal, TimedOutError if it takes longer than `timeout` seconds, InvalidError for outputs that are not
    finite.
    """
    first = subjects[0]
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        place = Path(folder)
        request = {
            "model": named(first.loaded, place),
            "threads": threads_there(environ or {}, torch.get_num_threads()),
            "subjects": [_asked(one) for one in subjects],
        }
        answer = launch.ask("stabilitykit.subjects.replica", place, request, environ or {}, timeout)
        tensors = load_file(place / OUTPUTS)
    check_weights(first.loaded, answer["digest"], f"{first.name}: ")
    for one in subjects:
        one.counter.forwards += 1
    outputs = [tensors[str(index)] for index in range(len(subjects))]
    return Replica(
        [one.finite(row[None])[0] for one, row in zip(subjects, outputs, strict=True)], answer["environment"]
    )


def named(loaded: LoadedModel, place: Path) -> dict[str, Any]:
    """Return how to load the model again, in the same places: by its name, or from a copy of an object without one."""
    spec = loaded.spec
    if loaded.source == IN_MEMORY:
        spec = str(place / "model")
        with warnings.catch_warnings():
            # Said of every map with a CPU in it; what is offloaded was refused when the model was adopted.
            warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
            loaded.model.save_pretrained(spec)
    config, spread = loaded.model.config, device_map_of(loaded.model)
    return {
        "spec": spec,
        "dtype": name_of(loaded.model.dtype),
        **({"load_args": {"device_map": spread}} if spread else {"device": str(loaded.model.device)}),
        "attention": getattr(config, "_attn_implementation", None),
        "experts": getattr(config, "_experts_implementation", None),
    }


def threads_there(environ: Mapping[str, str], threads: int) -> int | None:
    """Return the number of threads to ask a process for; None where its variables say it."""
    return None if "OMP_NUM_THREADS" in environ else threads


def opened(request: Mapping[str, Any]) -> LoadedModel:
    """Return the model of a request, loaded with its number of threads: what each of these processes begins with."""
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    return load(**request["model"])


def check_weights(loaded: LoadedModel, digest: str, who: str = "") -> None:
    """UnsupportedError where a process has found other weights than these under the model's name."""
    if digest != loaded.digest:
        raise UnsupportedError(
            f"{who}a fresh process loads other weights under the name {loaded.spec!r}; hand the model over as an "
            "object, with adopt(...)"
        )


def _asked(subject: CausalLMSubject) -> dict[str, Any]:
    return {"prompt": list(subject.ids), "site": subject.site, "path": subject.path, "batch": 1, "rows": subject.rows}


def main(folder: str) -> None:
    """Answer the request in a folder: the other side of `in_fresh_process`."""
    place = Path(folder)
    request = launch.request_of(place)
    loaded = opened(request)
    outputs, anatomy = {}, find(loaded.model)
    for index, asked in enumerate(request["subjects"]):
        subject = CausalLMSubject(loaded, asked.pop("prompt"), anatomy=anatomy, **asked)
        outputs[str(index)] = subject.evaluate(subject.copies(1))[0].cpu().contiguous()
    save_file(outputs, place / OUTPUTS)
    launch.answered(place, {"digest": loaded.digest, "environment": environment(loaded)})


if __name__ == "__main__":
    main(sys.argv[1])
