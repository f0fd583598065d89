"""T6: settings of this machine that are other devices, that are the same one, and that are none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import torch
from torture.campaign import Campaign, scratch
from torture.suite_session import tiny

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements import process_invariance
from stabilitykit.measurements.process_invariance import ProcessInvariance
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.replica import Replica
from stabilitykit.traces.devices import CPU_SETTINGS, Setting, atlas

ATEN, MKL = {"ATEN_CPU_CAPABILITY": "default"}, {"MKL_CBWR": "COMPATIBLE"}
PROCESSES = 20
LENGTHS = (1, 3, 8)


class Row(NamedTuple):
    """A process under `environ` that must, or must not, give other bits of a model."""

    model: str
    dtype: str
    environ: dict[str, str]
    differs: bool
    lengths: tuple[int, ...] = LENGTHS


MODELS = (("tiny", "float32"), ("tiny", "bfloat16"), ("smollm2", "float32"))
ROWS = [
    *(Row(*MODELS[0], environ, True) for environ in (ATEN, MKL)),
    # Softmax and rsqrt alone differ in bfloat16, and a rounding to eight bits hides it in all six outputs of LENGTHS.
    Row(*MODELS[1], ATEN, True, lengths=(2, 4, 5, 6, 7, 16)),
    *(Row(*MODELS[2], environ, True) for environ in (ATEN, MKL)),
    *(Row(*model, {}, False) for model in MODELS for _ in range(PROCESSES)),
]


@functools.cache
def loaded(model: str, dtype: str) -> LoadedModel:
    return tiny("llama", dtype) if model == "tiny" else sk.load(model, dtype=dtype)


def run(number: int) -> str | None:
    """Ask one fresh process, or probe one pair of settings."""
    return compared(ROWS[number]) if number < len(ROWS) else PROBES[number - len(ROWS)]()


def compared(row: Row) -> str | None:
    """Compare this process with a fresh one under the row's variables."""
    subject = sk.CausalLMSubject(loaded(row.model, row.dtype), [5, 7, 11, 13, 17, 19, 23, 29])
    result = ProcessInvariance(processes=1, lengths=row.lengths, environ=row.environ).measure(subject)
    if (result.verdict == "differs") is not row.differs:
        wanted = "other bits" if row.differs else "the same bits"
        return f"{row.model} {row.dtype} under {row.environ or 'nothing'} should give {wanted}: {result.sentence}"
    return None


def _twins(first: Setting, second: Setting) -> str | None:
    _, found = atlas([first, second], ("float32", "bfloat16"), repeats=1)
    if (found.verdict, found.same_as) != ("not-distinct", first.name):
        return f"{second.name} is one device with {first.name} and was called {found.verdict}: {dict(found.parts)}"
    return None


def ignored() -> str | None:
    """MKL takes its own branch on processors of others, whatever instruction set it is asked for."""
    if "GenuineIntel" in str(environment()["cpu"]):
        return None
    return _twins(Setting("avx2", {"MKL_CBWR": "AVX2"}), Setting("avx512", {"MKL_CBWR": "AVX512"}))


def dead() -> str | None:
    """A setting whose process dies by an illegal instruction is no device, and the others are measured."""
    folder = scratch("dead")
    text = "import os, signal\nif os.environ.get('PLANTED') == 'dies':\n    os.kill(os.getpid(), signal.SIGILL)\n"
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    with patch.dict("os.environ", {"PYTHONPATH": str(folder)}):
        _, found, other = atlas(
            [Setting("plain"), Setting("dead", {"PLANTED": "dies"}), Setting("again", {"PLANTED": "not"})],
            ("float32",),
            repeats=1,
        )
    if found.verdict != "unsupported" or "SIGILL" not in found.reason or other.verdict != "not-distinct":
        return f"a process that dies by SIGILL is {found.verdict} ({found.reason}), the next one {other.verdict}"
    return None


def again(setting: Setting) -> Callable[[], str | None]:
    """Return the probe of one setting in two processes, which are one device."""

    def probe() -> str | None:
        try:
            return _twins(setting, replace(setting, name=f"{setting.name} again"))
        except UnsupportedError as error:
            return None if "SIGILL" in str(error) else str(error)  # no such instructions here

    return probe


PROBES = [ignored, dead, *map(again, CPU_SETTINGS)]


def _answering(move: float) -> Callable[[int], str | None]:
    """Return the first row with a process that gives our own bits, moved by so much: no process is started."""

    def answer(subjects: list[sk.CausalLMSubject], *_: object) -> Replica:
        outputs = [one.evaluate(one.copies(1))[0] for one in subjects]
        return Replica([torch.nextafter(row, row + move) for row in outputs], environment(subjects[0].loaded))

    def trial(number: int) -> str | None:
        with patch.object(process_invariance, "in_fresh_process", answer):
            return compared(ROWS[0]._replace(differs=not move))

    return trial


CAMPAIGNS = [
    Campaign(
        "T6", "other kernels are other devices, equal processes are one, ignored settings are told, dead ones are none",
        "processes", full=len(ROWS) + len(PROBES), ci=1, trial=run,
        planted={"a setting that is called another device and is none": _answering(0.0),
                 "an equal process in which one bit of each number differs": _answering(1.0)},
        note=f"{PROCESSES} processes without a setting for each of 3 models; cpu-mkl changes float32 only",
    ),
]  # fmt: skip
