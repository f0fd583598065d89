"""A part of a sweep: what is not measured yet is measured and kept, unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from stabilitykit.measurements.progress import bar
from stabilitykit.sweeps import unit_files
from stabilitykit.sweeps.bench import Bench
from stabilitykit.sweeps.plan import Plan, Unit, write_plan
from stabilitykit.sweeps.setting import Setting

_LOCKS = "locks"


@dataclass(frozen=True)
class Done:
    """What became of the units of a part: found as they were measured before, or measured now, or `lost`, and why."""

    units: int
    found: int
    measured: int
    damaged: int = 0
    lost: int = 0
    why: str = ""


@dataclass(frozen=True)
class Left:
    """What a part still has to do: the units without a whole file, of which so many have a damaged one."""

    units: tuple[Unit, ...]
    damaged: int
    setting: Setting


def run_shard(plan: Plan, folder: str | Path, shard: str = "1/1", *, device: str = "cpu", mixed: bool = False) -> Done:
    """Measure the units of part `i/N` that the folder lacks; those that it has are never measured again.

    Each is on the disk before the next one begins. Processes that share a folder share the work: a unit that another
    one is measuring is left to it. UsageError where the folder is another sweep's, IncomparableError where its units
    were measured in another numeric environment, unless `mixed`.
    """
    folder, units = Path(folder), plan.shard(shard)
    write_plan(plan, folder)
    left = remaining(folder, plan, units, mixed=mixed)
    work = _Work(folder, Bench(plan, device), left.setting)
    with bar(len(left.units), "sweep", "unit") as progress:
        busy = []
        for unit in left.units:
            if work.done(unit):
                progress.update()
            else:
                busy.append(unit)
        for unit in busy:  # whoever had it may have been killed
            work.done(unit, wait=True)
            progress.update()
    return Done(len(units), len(units) - work.measured, work.measured, left.damaged)


def remaining(folder: Path, plan: Plan, units: Sequence[Unit], *, mixed: bool) -> Left:
    """Return which of these units are to be measured, and the numeric environment that the others have."""
    setting, whole = Setting(mixed), set()
    for unit, record in unit_files.measured(folder, units):
        whole.add(unit.id)
        if record.result:
            setting.admit(unit, record.result.environment)
    if not whole:
        _glance(folder, plan, setting)
    left = tuple(unit for unit in units if unit.id not in whole)
    return Left(left, sum(unit_files.path_of(folder, unit).exists() for unit in left), setting)


def _glance(folder: Path, plan: Plan, setting: Setting) -> None:
    """Take note of the environment of one unit of another part: a machine that cannot take part hears so at once."""
    others = ((unit, record.result) for unit, record in unit_files.measured(folder, plan.units) if record.result)
    for unit, result in others:
        setting.admit(unit, result.environment)
        return


@dataclass
class _Work:
    folder: Path
    bench: Bench
    setting: Setting
    measured: int = 0

    def done(self, unit: Unit, *, wait: bool = False) -> bool:
        """Measure a unit unless it is there by now; False where another process is at it and nobody waits.

        A lock spares work and no more: two that measure one unit at once write the same, and each the whole file.
        """
        path = self.folder / _LOCKS / f"{unit.id}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=-1 if wait else 0):
                if unit_files.read(self.folder, unit) is None:
                    self.setting.admit(unit, self.bench.environment(unit), now=True)
                    unit_files.write(self.folder, self.bench.measure(unit))
                    self.measured += 1
        except Timeout:
            return False
        return True
