"""Record in another setting of this machine: a fresh process with other kernels, or on another of its devices."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stabilitykit.errors import UsageError
from stabilitykit.prompts import Prompt
from stabilitykit.subjects import launch
from stabilitykit.subjects.replica import check_weights, named, opened, threads_there
from stabilitykit.traces.devices import CPU_SETTINGS, Setting
from stabilitykit.traces.record import record
from stabilitykit.traces.recording import Recording
from stabilitykit.traces.store import read_recording, write_recording

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

_FORCED, _RECORDING = "forced", "recording"


@dataclass(frozen=True, slots=True)
class Ask:
    """What to record: see `record`."""

    prompts: Sequence[Prompt | str | Sequence[int]]
    tokens: int = 96
    level: str = "module"
    states: str = "none"
    steps: tuple[int, ...] = (0,)


def setting_named(name: str) -> Setting:
    """Return a setting of `CPU_SETTINGS`, or a device such as `cuda:0`; UsageError lists the names."""
    known = {setting.name: setting for setting in CPU_SETTINGS}
    if name.startswith("cuda"):
        return Setting(name, device=name)
    if name not in known:
        raise UsageError(f"setting {name!r} is none of {', '.join(known)}, or a device such as cuda:0")
    return known[name]


def record_elsewhere(
    loaded: LoadedModel, setting: Setting, ask: Ask, forced: Recording | None = None, timeout: float = 1800.0
) -> Recording:
    """Record in a fresh process under a setting's variables, on its device; with `forced`, on that recording's tokens.

    Threads are the ambient number here, unless the setting says otherwise. UnsupportedError if the process dies (an
    instruction this processor lacks) or finds other weights, TimedOutError if it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        place = Path(folder)
        if forced is not None:
            write_recording(forced, place / _FORCED)
        request = {
            "model": {**named(loaded, place), "device": setting.device, "load_args": None},
            "threads": threads_there(setting.environ, torch.get_num_threads()),
            "ask": asdict(ask),
            "forced": forced is not None,
        }
        answer = launch.ask("stabilitykit.traces.elsewhere", place, request, setting.environ, timeout)
        check_weights(loaded, answer["digest"])
        loaded.counter.forwards += answer["forwards"]
        return replace(read_recording(place / _RECORDING), folder="")


def _prompts(given: Sequence[Any]) -> list[Prompt | str | list[int]]:
    return [Prompt(**one) if isinstance(one, dict) else one for one in given]


def main(folder: str) -> None:
    """Answer the request in a folder: the other side of `record_elsewhere`."""
    place = Path(folder)
    request = launch.request_of(place)
    loaded = opened(request)
    ask = request["ask"]
    prompts: Any = read_recording(place / _FORCED) if request["forced"] else _prompts(ask.pop("prompts"))
    ask.pop("prompts", None)
    write_recording(record(loaded, prompts, **ask, forced=request["forced"]), place / _RECORDING)
    launch.answered(place, {"digest": loaded.digest, "forwards": loaded.counter.forwards})


if __name__ == "__main__":
    main(sys.argv[1])
