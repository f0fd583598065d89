"""Measured units on disk: a file each, whole or as good as absent, named by the unit's id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabilitykit.errors import IncomparableError
from stabilitykit.report.journal import checked, lines
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.record import Record
from stabilitykit.subjects.environment import identity_fields
from stabilitykit.sweeps.plan import Unit, Weights

FOLDER = "units"
_SUFFIX = ".json"


def path_of(folder: Path, unit: Unit) -> Path:
    """Return the file of a unit."""
    return folder / FOLDER / f"{unit.id}{_SUFFIX}"


def write(folder: Path, record: Record) -> None:
    """Keep what a unit gave: one line with its checksum, as in a run's journal, put there at once."""
    path = folder / FOLDER / f"{record.nodeid}{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, checked("record", json.dumps(record.to_dict(), allow_nan=False)))


def read(folder: Path, unit: Unit) -> Record | None:
    """Return what a unit gave; None where its file is missing, torn, damaged, or another unit's by another name."""
    path = path_of(folder, unit)
    if not path.exists():
        return None
    whole, damaged = lines(path)
    if damaged or [line.kind for line in whole] != ["record"]:
        return None
    record = Record.from_dict(json.loads(whole[0].text))
    return record if record.nodeid == unit.id else None


def strangers(folder: Path, units: Iterable[Unit]) -> list[Path]:
    """Return the files that are of no unit of the plan, in order."""
    known = {path_of(folder, unit) for unit in units}
    return sorted(path for path in (folder / FOLDER).glob(f"*{_SUFFIX}") if path not in known)


@dataclass
class Setting:
    """The numeric environment of a sweep: the first one that is met, which all others must have too.

    What belongs to a model must be alike for all units of the model in one dtype, what belongs to the machine for all.
    With `mixed` nothing is refused.
    """

    mixed: bool = False
    _machine: tuple[Unit, Mapping[str, Any]] | None = None
    _models: dict[Weights, tuple[Unit, Mapping[str, Any]]] = field(default_factory=dict)

    def admit(self, unit: Unit, environment: Mapping[str, Any], *, now: bool = False) -> None:
        """Raise IncomparableError for the first field in which a unit's environment is not the others'.

        `now`: the unit is about to be measured.
        """
        self._machine = self._machine or (unit, environment)
        same = self._models.setdefault(unit.weights, (unit, environment))
        for (other, then), names in ((same, identity_fields()), (self._machine, identity_fields(of_models=False))):
            for name in names:
                if then.get(name) != environment.get(name) and not self.mixed:
                    is_of = "would be" if now else "was"
                    raise IncomparableError(
                        f"unit {unit.id} {is_of} measured with {name} {environment.get(name)}, and {other.id} was with "
                        f"{then.get(name)}: their bits are of different numeric environments; measure all in one, or "
                        "allow both with mixed"
                    )


def measured(folder: Path, units: Iterable[Unit]) -> Iterator[tuple[Unit, Record]]:
    """Yield the units whose files are whole, with what they gave, one at a time."""
    for unit in units:
        if (record := read(folder, unit)) is not None:
            yield unit, record
