"""Record in another setting of this machine: a fresh process with other kernels, or on another of its devices."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.prompts import Prompt
from stabilitykit.subjects import launch
from stabilitykit.subjects.checkpoint import quiet
from stabilitykit.subjects.replica import check_weights, named, opened, threads_there
from stabilitykit.traces.devices import CPU_SETTINGS, Setting
from stabilitykit.traces.record import record
from stabilitykit.traces.recording import Recording
from stabilitykit.traces.store import read_recording, write_recording

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

_FORCED, RECORDING = "forced", "recording"
_RANKS = re.compile(r"cpu-tp([2-9]|[1-9]\d+)")


@dataclass(frozen=True, slots=True)
class Ask:
    """What to record: see `record`."""

    prompts: Sequence[Prompt | str | Sequence[int]]
    tokens: int = 96
    level: str = "module"
    states: str = "none"
    steps: tuple[int, ...] = (0,)


def setting_named(name: str) -> Setting:
    """Return a setting of `CPU_SETTINGS`, a device such as `cuda:0`, or `cpu-tpN`: N processes that share the matrices.

    UsageError lists the names.
    """
    known = {setting.name: setting for setting in CPU_SETTINGS}
    if name.startswith("cuda"):
        return Setting(name, device=name)
    if shared := _RANKS.fullmatch(name):
        # Loaded in shares a model goes to whatever accelerator is seen; this setting is one of the CPU.
        return Setting(name, {"CUDA_VISIBLE_DEVICES": ""}, ranks=int(shared[1]))
    if name not in known:
        raise UsageError(f"setting {name!r} is none of {', '.join(known)}, cpu-tp2 (or more), a device such as cuda:0")
    return known[name]


def record_elsewhere(
    loaded: LoadedModel, setting: Setting, ask: Ask, forced: Recording | None = None, timeout: float = 1800.0
) -> Recording:
    """Record in another process under a setting's variables, on its device; with `forced`, on that recording's tokens.

    Threads are the ambient number here, unless the setting says otherwise; of several ranks each has as many. Of ranks
    only those stages are recorded that all of them have alike. UnsupportedError for a model that cannot be shared out,
    if the process dies (an instruction this processor lacks) or finds other weights, TimedOutError if it takes too
    long.
    """
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
        place = Path(folder)
        if forced is not None:
            write_recording(forced, place / _FORCED)
        request: dict[str, Any] = {
            "model": {**named(loaded, place), "device": setting.device, "load_args": None},
            "threads": threads_there(setting.environ, torch.get_num_threads()),
            "ask": asdict(ask),
            "forced": forced is not None,
        }
        module = "elsewhere"
        if setting.ranks > 1:
            _refuse_unshared(loaded, setting, ask)
            module, request["whole"], request["ranks"] = "sharded", _whole(loaded, request, place), setting.ranks
        answer = launch.ask(
            f"stabilitykit.traces.{module}", place, request, setting.environ, timeout, ranks=setting.ranks, fresh=False
        )
        check_weights(loaded, answer["digest"])
        loaded.counter.forwards += answer["forwards"]
        return replace(read_recording(place / RECORDING), folder="")


def _refuse_unshared(loaded: LoadedModel, setting: Setting, ask: Ask) -> None:
    """UnsupportedError for a model whose matrices or heads cannot be shared out evenly, or for single operations."""
    config = loaded.model.config.get_text_config()
    heads = [getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")]
    if not getattr(loaded.model, "tp_plan", None):
        raise UnsupportedError(f"{type(loaded.model).__name__} has no plan of how to share it out among processes")
    if any(count is not None and count % setting.ranks for count in heads):
        raise UnsupportedError(
            f"{setting.name}: {heads[0]} heads and {heads[1]} key-value heads of {loaded.spec} are not shared out "
            f"evenly among {setting.ranks} processes; take a number that divides both"
        )
    if ask.level == "op":
        raise UnsupportedError(f"{setting.name}: single operations of a share are not comparable; record modules")


def _whole(loaded: LoadedModel, request: Mapping[str, Any], place: Path) -> str:
    """Return a folder with the files of the model, from which each rank reads its share."""
    for known in (loaded.source, request["model"]["spec"]):
        if Path(known).is_dir():
            return str(known)
    with quiet():
        loaded.model.save_pretrained(place / "whole")
    return str(place / "whole")


def _prompts(given: Sequence[Any]) -> list[Prompt | str | list[int]]:
    return [Prompt(**one) if isinstance(one, dict) else one for one in given]


def recorded_as_asked(
    loaded: LoadedModel, request: Mapping[str, Any], place: Path, whole: LoadedModel | None = None
) -> Recording:
    """Record what a request asks for."""
    ask = dict(request["ask"])
    asked = _prompts(ask.pop("prompts"))
    prompts: Any = read_recording(place / _FORCED) if request["forced"] else asked
    return record(loaded, prompts, **ask, forced=request["forced"], whole=whole)


def main(folder: str) -> None:
    """Answer the request in a folder: the other side of `record_elsewhere`."""
    place = Path(folder)
    request = launch.request_of(place)
    loaded = opened(request)
    write_recording(recorded_as_asked(loaded, request, place), place / RECORDING)
    launch.answered(place, {"digest": loaded.digest, "forwards": loaded.counter.forwards})


if __name__ == "__main__":
    main(sys.argv[1])
