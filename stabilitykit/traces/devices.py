"""Which settings of one machine are really different devices, and at which operations they part."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stabilitykit.errors import StabilityError, UsageError
from stabilitykit.measurements.operator_probe import OperatorProbe
from stabilitykit.measurements.progress import bar
from stabilitykit.subjects import launch
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.operators import Machine

Digests = Mapping[str, Mapping[str, str]]
"""By dtype, then by operation: the digest of its output, or "" where the dtype lacks it."""


@dataclass(frozen=True)
class Setting:
    """A way to start a process: a name, variables that are read when torch starts, and the device it computes on.

    With `ranks` above 1 it is as many processes, which share out the matrices of a model (tensor parallelism).
    """

    name: str
    environ: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    ranks: int = 1


ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PORTABLE = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41", **ONE_THREAD}
CPU_SETTINGS = (
    Setting("cpu-native"),
    Setting("cpu-threads1", ONE_THREAD),
    Setting("cpu-aten", {"ATEN_CPU_CAPABILITY": "default"}),
    Setting("cpu-aten-avx2", {"ATEN_CPU_CAPABILITY": "avx2"}),
    Setting("cpu-aten-avx512", {"ATEN_CPU_CAPABILITY": "avx512"}),
    Setting("cpu-mkl", {"MKL_CBWR": "COMPATIBLE"}),
    Setting("cpu-mkl-avx2", {"MKL_CBWR": "AVX2"}),
    Setting("cpu-mkl-strict", {"MKL_CBWR": "AUTO,STRICT"}),
    Setting("cpu-ref", PORTABLE),
)
"""The reference first: whatever is set already. `cpu-ref` is what other processors are likeliest to give as well."""


@dataclass(frozen=True)
class Device:
    """What one setting turned out to be.

    `verdict`: `measured` for the reference, `differs` for another device, `not-distinct` for the same bits as an
    earlier one (named in `same_as`), `unsupported` or `timeout` with the reason for one that did not answer. `group` is
    a letter, the same for equal bits. `parts` names the operations, by dtype, whose bits are not the reference's.
    """

    setting: Setting
    verdict: str
    group: str = ""
    same_as: str = ""
    reason: str = ""
    probe: str = ""
    digests: Digests = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("verdict", "group", "same_as", "reason", "probe")
        plain = {name: getattr(self, name) for name in names}
        nested = {"digests": self.digests, "environment": self.environment, "parts": self.parts}
        return {"name": self.setting.name, "environ": dict(self.setting.environ), **plain, **nested}


def settings_here() -> tuple[Setting, ...]:
    """Return the CPU settings, and every CUDA device there is."""
    cards = range(torch.cuda.device_count())
    return (*CPU_SETTINGS, *(Setting(f"cuda:{index}", device=f"cuda:{index}") for index in cards))


def atlas(
    settings: Sequence[Setting] | None = None,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    *,
    repeats: int = 2,
    timeout: float = 300.0,
) -> list[Device]:
    """Start a fresh process for each setting, probe it, and say which are one device; the first is the reference.

    A setting is what its operations give (`OperatorProbe`), not what it is called: two with equal digests are one
    device, and a comparison of them would prove nothing. UsageError for no settings or a name twice; the error of the
    reference, if it does not answer. Cost: a few seconds a setting, most of it to start; no model.
    """
    settings = settings_here() if settings is None else settings
    names = [one.name for one in settings]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"settings {names}: give at least one, each with a name of its own")
    found: list[Device] = []
    with bar(len(settings), "devices", "process") as progress:
        for setting in settings:
            found.append(_placed(setting, found, dtypes, repeats, timeout))
            progress.update()
    return found


def _placed(setting: Setting, known: Sequence[Device], dtypes: Sequence[str], repeats: int, timeout: float) -> Device:
    try:
        answer = _answer(setting, dtypes, repeats, timeout)
    except StabilityError as error:
        if not known:
            raise
        return Device(setting, "timeout" if error.verdict == "timeout" else "unsupported", reason=str(error))
    where = {name: answer[name] for name in ("probe", "digests", "environment")}
    twin = next((one for one in known if one.digests == answer["digests"]), None)
    if twin:
        return Device(setting, "not-distinct", twin.group, twin.setting.name, parts=twin.parts, **where)
    group = chr(ord("A") + len({one.group for one in known if one.group}))
    if not known:
        return Device(setting, "measured", group, **where)
    return Device(setting, "differs", group, parts=dict(_parts(known[0].digests, answer["digests"])), **where)


def _parts(reference: Digests, other: Digests) -> Iterator[tuple[str, list[str]]]:
    for dtype, digests in reference.items():
        if differing := [name for name, value in digests.items() if other[dtype][name] != value]:
            yield dtype, differing


def _answer(setting: Setting, dtypes: Sequence[str], repeats: int, timeout: float) -> dict[str, Any]:
    request = {"device": setting.device, "dtypes": list(dtypes), "repeats": repeats}
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        return launch.ask("stabilitykit.traces.devices", Path(folder), request, setting.environ, timeout)


def probed(device: str, dtypes: Iterable[str], repeats: int) -> dict[str, Any]:
    """Probe this process, and say where it runs."""
    asked, digests, probes = OperatorProbe(repeats=repeats), {}, []
    for dtype in dtypes:
        result = asked.measure(Machine(dtype, device))
        digests[dtype] = {row["operator"]: row.get("digest", "") for row in result.rows}
        probes.append(result.subject["probe"])
    return {"probe": "-".join(probes), "digests": digests, "environment": environment()}


if __name__ == "__main__":
    _place = Path(sys.argv[1])
    launch.answered(_place, probed(**launch.request_of(_place)))
