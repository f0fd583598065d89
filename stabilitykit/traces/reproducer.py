"""A folder that shows one operation giving other bits: one file to run, one file of tensors, nothing of the kit."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from stabilitykit.errors import IncomparableError
from stabilitykit.results.atomic import atomic_write
from stabilitykit.traces import operation_reproducer
from stabilitykit.traces.live import Taken
from stabilitykit.traces.operation_log import Operation

SCRIPT, TENSORS = "reproduce.py", "operands.safetensors"


@dataclass(frozen=True)
class Side:
    """One operation as one side ran it: its entry in the log, the threads there, and the variables that are set."""

    entry: Operation
    threads: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Return what the script reads of it."""
        layouts = [{"stride": list(one.stride), "address": one.address} for one in self.entry.inputs]
        digests = [one.digest for one in self.entry.outputs]
        return {"threads": self.threads, "environ": dict(self.environ), "layouts": layouts, "digests": digests}


def write_reproducer(
    folder: str | os.PathLike[str], taken: Taken, a: Side, b: Side, about: Mapping[str, Any] | None = None
) -> Path:
    """Write `reproduce.py` and `operands.safetensors` into a folder and return the former.

    The script runs the operation alone, on the operands that both sides read, laid out in memory as they were on a
    side, and compares what it gives with the digests of both. It needs torch and safetensors. The two commands stand at
    its top. `about` is kept beside them. IncomparableError for tensors that are not what both sides read and A gave.
    """
    for side, ours, theirs in (
        ("A", taken.entry.inputs, a.entry.inputs),
        ("B", taken.entry.inputs, b.entry.inputs),
        ("A", taken.entry.outputs, a.entry.outputs),
    ):
        if [one.bits for one in ours] != [one.bits for one in theirs]:
            raise IncomparableError(
                f"the tensors of {taken.entry.place} that were taken are not those of side {side}; "
                "take them under the setting that A was recorded under"
            )
    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    found = {
        "operation": taken.entry.operation,
        "module": taken.entry.module,
        "occurrence": taken.entry.occurrence,
        "arguments": json.loads(taken.entry.arguments),
        "changed": list(taken.changed),
        "devices": list(taken.devices),
        "sides": {"a": a.told(), "b": b.told()},
        "environment": operation_reproducer.environment(),
        **(about or {}),
    }
    atomic_write(into / TENSORS, save(dict(taken.tensors), metadata={"found": json.dumps(found, sort_keys=True)}))
    script = Path(str(operation_reproducer.__file__)).read_text(encoding="utf-8")
    atomic_write(into / SCRIPT, f"# Passes:  {command(a, 'a')}\n# Exits 1: {command(b, 'b')}\n{script}")
    return into / SCRIPT


def command(side: Side, letter: str) -> str:
    """Return how the script is run as a side ran."""
    told = {"OMP_NUM_THREADS": str(side.threads), **side.environ}
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in told.items()), f"python {SCRIPT} {letter}"])
