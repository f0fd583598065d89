"""All parts of a sweep as one: tables in the order of the plan, with the bytes that a single run would have written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stabilitykit.errors import IncomparableError, UnreadableError
from stabilitykit.report.csv import pack, table
from stabilitykit.report.text import unguarded
from stabilitykit.results.atomic import atomic_file, atomic_write
from stabilitykit.results.metric import Reading
from stabilitykit.results.record import Record
from stabilitykit.results.result import Execution
from stabilitykit.subjects.environment import identity_fields, numeric_key
from stabilitykit.sweeps import unit_files
from stabilitykit.sweeps.plan import Plan, Unit, read_plan
from stabilitykit.sweeps.setting import Setting

if TYPE_CHECKING:
    import pandas as pd

TABLE, READINGS, ARRAYS = "table.csv", "readings.csv", "arrays.npz"
TIMINGS, ENVIRONMENTS = "timings.csv", "environments.json"
PLACE = ("sweep_unit", "model", "model_digest", "dtype", "prompt", "directions", "measurement", "environment", "status")
_READING = ("reading", "value", "value_hex", "unit", "low", "high", "place")
_MACHINE = ("device", "gpu_uuid", "time_utc")
_TIMING = ("sweep_unit", "id", "environment", *_MACHINE, *Execution.__dataclass_fields__)
# What a subject is at rest: the same in every slice of its directions.
_AT_REST = ("x0", "y0")


@dataclass(frozen=True)
class Merged:
    """A whole sweep on disk: how many units and rows it has, and how many units ended with each verdict."""

    folder: Path
    units: int
    rows: int
    verdicts: Mapping[str, int]

    def frame(self) -> pd.DataFrame:
        """Return table.csv as a pandas frame, its texts as they were before they were made safe for spreadsheets."""
        import pandas as pd

        # A prompt may be spelled NaN: only an empty cell is none.
        table = pd.read_csv(self.folder / TABLE, keep_default_na=False, na_values=[""])
        for name in table.select_dtypes(exclude=["number", "bool"]):
            table[name] = table[name].map(lambda one: unguarded(one) if isinstance(one, str) else one)
        return table


def merge(folder: str | Path, *, mixed: bool = False) -> Merged:
    """Write the tables of a sweep whose units are all measured, and return what they hold.

    `table.csv` has the rows of all units, `readings.csv` a row a reading, `arrays.npz` their arrays under
    `unit/name`, `environments.json` the numeric environments by their keys; their bytes do not depend on how the sweep
    was shared out. `timings.csv` has what does. Units are read one at a time.

    UnreadableError where a unit is missing, damaged, or of another plan. IncomparableError where numeric environments
    differ, which `mixed` allows, or where one subject had other bits at rest in one unit than in another.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    if strangers := unit_files.strangers(folder, plan.units):
        raise UnreadableError(
            f"{folder} holds {len(strangers)} of another sweep or another version, the first {strangers[0].name}; a "
            "merge is of one plan, so move them to a folder of theirs"
        )
    found = _Survey(folder, plan, Setting(mixed)).made()
    atomic_write(folder / TABLE, table((*PLACE, *found.columns), _rows(folder, plan)))
    atomic_write(folder / READINGS, table((*PLACE, *_READING), found.readings, ("value_hex",)))
    atomic_write(folder / TIMINGS, table(_TIMING, found.timings))
    atomic_write(folder / ENVIRONMENTS, json.dumps(found.environments, indent=1, sort_keys=True) + "\n")
    with atomic_file(folder / ARRAYS) as file:
        pack(file, _arrays(folder, plan))
    return Merged(folder, len(plan.units), found.rows, dict(found.verdicts))


def is_whole(folder: Path, plan: Plan) -> bool:
    """Return whether each unit has a file, whatever is in it."""
    return all(unit_files.path_of(folder, unit).exists() for unit in plan.units)


@dataclass
class _Survey:
    """What is known of a sweep before its tables are written: that it is whole, and all but its rows and arrays."""

    folder: Path
    plan: Plan
    setting: Setting
    rows: int = 0
    readings: list[Mapping[str, Any]] = field(default_factory=list)
    timings: list[Mapping[str, Any]] = field(default_factory=list)
    environments: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    _at_rest: dict[tuple[Any, ...], tuple[Unit, bytes]] = field(default_factory=dict)

    def made(self) -> _Survey:
        """Take all units in; UnreadableError where one is missing."""
        for unit in self.plan.units:
            record = unit_files.read(self.folder, unit)
            if record is None:
                raise self._missing()
            self._take(unit, record)
        return self

    def _take(self, unit: Unit, record: Record) -> None:
        self.verdicts[record.verdict] += 1
        rows = _rows_of(unit, record)
        self.rows += len(rows)
        self.columns |= dict.fromkeys(name for row in rows for name in row if name not in PLACE)
        if (result := record.result) is None:
            return
        key = numeric_key(result.environment)
        self.setting.admit(unit, result.environment)
        self.environments[key] = {name: result.environment.get(name) for name in identity_fields()}
        self._check_at_rest(unit, key, result.arrays)
        self.readings += [{**_place(unit, record), **_reading(one)} for one in result.readings.values()]
        machine = {name: result.environment.get(name) for name in _MACHINE}
        spent = asdict(result.execution)
        self.timings.append({"sweep_unit": unit.number, "id": unit.id, "environment": key, **machine, **spent})

    def _check_at_rest(self, unit: Unit, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        bits = b"".join(arrays[name].tobytes() for name in _AT_REST if name in arrays)
        other, then = self._at_rest.setdefault((unit.weights, unit.prompt, key), (unit, bits))
        if then != bits:
            raise IncomparableError(
                f"units {other.id} and {unit.id} are of one prompt and one numeric environment, and the model's output "
                "at rest has other bits; the two machines differ in what is not recorded, so measure all on one of them"
            )

    def _missing(self) -> UnreadableError:
        """Return the error that counts what is not there."""
        units = [unit for unit in self.plan.units if unit_files.read(self.folder, unit) is None]
        damaged = sum(unit_files.path_of(self.folder, unit).exists() for unit in units)
        return UnreadableError(
            f"{self.folder} is not whole: {len(units)} of {len(self.plan.units)} units are not measured, {damaged} of "
            f"them damaged, the first is unit {units[0].number}; the command of the sweep measures what is missing"
        )


def _rows(folder: Path, plan: Plan) -> Iterator[Mapping[str, Any]]:
    for unit, record in unit_files.measured(folder, plan.units):
        yield from _rows_of(unit, record)


def _rows_of(unit: Unit, record: Record) -> list[Mapping[str, Any]]:
    """Return a unit's rows, a name that says where they are from set apart; without an answer, one that says why."""
    rows = record.result.rows if record.result else ({"message": record.message},)
    place = _place(unit, record)
    return [place | {f"row_{name}" if name in PLACE else name: row[name] for name in row} for row in rows]


def _place(unit: Unit, record: Record) -> dict[str, Any]:
    weights, key = unit.weights, numeric_key(record.result.environment) if record.result else ""
    named = (unit.number, weights.model, weights.digest, weights.dtype, unit.prompt, unit.directions)
    return dict(zip(PLACE, (*named, record.check_id, key, record.verdict), strict=True))


def _reading(reading: Reading) -> dict[str, Any]:
    known = (reading.metric.name, reading.value, float(reading.value).hex(), reading.unit, reading.low, reading.high)
    return dict(zip(_READING, (*known, reading.place), strict=True))


def _arrays(folder: Path, plan: Plan) -> Iterator[tuple[str, NDArray[Any]]]:
    for unit, record in unit_files.measured(folder, plan.units):
        for name, array in (record.result.arrays if record.result else {}).items():
            yield f"{unit.number:06d}/{name}", array
