"""The same subjects in a fresh process, which may be told to use other kernels: a second device on one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.models import IN_MEMORY, LoadedModel, load

REQUEST, ANSWER, OUTPUTS = "request.json", "answer.json", "outputs.safetensors"


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
    model object that came from no file is handed over in one. UnsupportedError if the process cannot load the model,
    dies by a signal, or takes longer than `timeout` seconds; InvalidError if its outputs are not finite.
    """
    first = subjects[0]
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        place = Path(folder)
        request = {
            "model": _named(first.loaded, place),
            "threads": None if "OMP_NUM_THREADS" in (environ or {}) else torch.get_num_threads(),
            "subjects": [_asked(one) for one in subjects],
        }
        (place / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        _run(place, environ or {}, timeout)
        answer = json.loads((place / ANSWER).read_text(encoding="utf-8"))
        tensors = load_file(place / OUTPUTS)
    if answer["digest"] != first.loaded.digest:
        raise UnsupportedError(
            f"{first.name}: a fresh process loads other weights under the name {first.loaded.spec!r}; hand the model "
            "over as an object, with adopt(...)"
        )
    for one in subjects:
        one.counter.forwards += 1
    outputs = [tensors[str(index)] for index in range(len(subjects))]
    return Replica(
        [one.finite(row[None])[0] for one, row in zip(subjects, outputs, strict=True)], answer["environment"]
    )


def _named(loaded: LoadedModel, place: Path) -> dict[str, Any]:
    """Return how to load the model again: by its name, or from a copy of an object that has none."""
    spec = loaded.spec
    if loaded.source == IN_MEMORY:
        spec = str(place / "model")
        loaded.model.save_pretrained(spec)
    config = loaded.model.config
    return {
        "spec": spec,
        "dtype": name_of(loaded.model.dtype),
        "device": str(loaded.model.device),
        "attention": getattr(config, "_attn_implementation", None),
        "experts": getattr(config, "_experts_implementation", None),
    }


def _asked(subject: CausalLMSubject) -> dict[str, Any]:
    return {"prompt": list(subject.ids), "site": subject.site, "path": subject.path, "batch": 1, "rows": subject.rows}


def _run(place: Path, environ: Mapping[str, str], timeout: float) -> None:
    """Run this module on the folder. The package that runs here is the one that runs there."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "stabilitykit.subjects.replica", str(place)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a list of words
            command,
            env={**os.environ, "PYTHONPATH": path, **environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"a fresh process did not answer within {timeout:g} s; give it more time") from None
    if done.returncode < 0:
        raise UnsupportedError(f"a fresh process died by {signal.Signals(-done.returncode).name}{_with(environ)}")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        kind = InvalidError if reason.startswith("stabilitykit.errors.InvalidError") else UnsupportedError
        raise kind(f"a fresh process could not answer{_with(environ)}: {reason.split(': ', 1)[-1]}")


def _with(environ: Mapping[str, str]) -> str:
    settings = " ".join(f"{name}={value}" for name, value in environ.items())
    return f" under {settings}" if settings else ""


def main(folder: str) -> None:
    """Answer the request in a folder: the other side of `in_fresh_process`."""
    place = Path(folder)
    request = json.loads((place / REQUEST).read_text(encoding="utf-8"))
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    loaded = load(**request["model"])
    outputs = {}
    for index, asked in enumerate(request["subjects"]):
        subject = CausalLMSubject(loaded, asked.pop("prompt"), **asked)
        outputs[str(index)] = subject.evaluate(subject.copies(1))[0].cpu().contiguous()
    save_file(outputs, place / OUTPUTS)
    answer = {"digest": loaded.digest, "environment": environment(loaded)}
    (place / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
