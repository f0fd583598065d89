"""`stabilitykit devices`: the atlas of what this machine can be, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.typed import dtypes

if TYPE_CHECKING:
    from stabilitykit.traces.devices import Device

HELP = "say which settings of this machine are different devices, and where they part"
_SHOWN = 6


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--dtype", default="float32,bfloat16", metavar="LIST", help="dtypes to probe in")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for each process")
    parser.add_argument("--json", action="store_true", help="print JSON with every digest and environment")


def run(given: argparse.Namespace, _words: Sequence[str]) -> tuple[int, list[str]]:
    """Probe; return status 0, also where all are one device, which is an answer, and the lines to print."""
    from stabilitykit.measurements.progress import progress_to, terminal
    from stabilitykit.traces.devices import atlas

    chosen = dtypes(given.dtype)
    with progress_to(terminal()):
        found = atlas(dtypes=chosen, timeout=given.timeout)
    if given.json:
        return 0, [json.dumps([device.to_dict() for device in found], indent=2, sort_keys=True, allow_nan=False)]
    return 0, table(found)


def table(found: list[Device]) -> list[str]:
    """Return the lines of the table, and what it says."""
    width = max(len("setting"), *(len(device.setting.name) for device in found))
    lines = [f"{'setting':<{width}}  group  verdict       parts from {found[0].setting.name} at"]
    for device in found:
        lines.append(
            f"{device.setting.name:<{width}}  {device.group or '-':<5}  {device.verdict:<12}  {_where(device)}"
        )
    groups = {device.group for device in found if device.group}
    answered = sum(bool(device.group) for device in found)
    return [*lines, "", f"{answered} settings answered and are {len(groups)} device{'s'[: len(groups) > 1]}."]


def _where(device: Device) -> str:
    if device.reason:
        return device.reason
    if device.same_as:
        return f"the same bits as {device.same_as}"
    return "; ".join(f"{dtype}: {_listed(names)}" for dtype, names in device.parts.items())


def _listed(names: Iterable[Any]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _SHOWN} more" if len(all_names) > _SHOWN else ""
    return ", ".join(all_names[:_SHOWN]) + more
