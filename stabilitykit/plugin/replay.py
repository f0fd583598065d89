"""`--stability-replay`: the worst directions of a former run, tried again, and how their readings compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.errors import IncomparableError, StabilityError, UsageError

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Measurement
    from stabilitykit.report.read import Report
    from stabilitykit.results.record import Record
    from stabilitykit.results.result import Result
    from stabilitykit.strategies.recorded import Recorded

_SUBJECT = ("model_digest", "x0_digest", "dtype", "device", "batch", "path", "site")
"""What must be equal, beside the numeric environment, for equal bits to be promised."""


class Replay:
    """The recorded directions of one report folder, by check."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder = folder
        self.report = report
        self._sources: dict[Recorded, tuple[Record, Mapping[str, Any]]] = {}

    @classmethod
    def read(cls, folder: Path) -> Replay:
        """Return what a folder holds; UnreadableError for a damaged one, UsageError for one without a direction."""
        from stabilitykit.report.read import read

        report = read(folder)
        if not any(record.recipes for record in report.records):
            raise UsageError(f"no check of {folder} recorded a direction; name the report of a run with a search in it")
        return cls(folder, report)

    def directions(self, check_id: str, dim: int) -> list[Recorded]:
        """Return the recorded directions of a check, the worst first; of its namesakes if there is no such check.

        IncomparableError where they have another dimension, UnreadableError where their bits are damaged.
        """
        from stabilitykit.plugin.recipes import recorded

        named = [record for record in self.report.records if record.check_id == check_id] or [
            record for record in self.report.records if _name(record.check_id) == _name(check_id)
        ]
        found = []
        for record in named:
            for index, entry in enumerate(record.recipes):
                direction = recorded(record, index)
                if direction.dim != dim:
                    raise IncomparableError(
                        f"{direction} of {record.check_id} in {self.folder} has {direction.dim} coordinates and the "
                        f"input of {check_id} has {dim}; replay it on the model it was found on"
                    )
                self._sources[direction] = (record, entry)
                found.append(direction)
        return found

    def compared(self, measurement: Measurement[Any], result: Result) -> tuple[Mapping[str, Any], ...]:
        """Return how the result compares with the record of each replayed direction that it was measured along."""
        given = [getattr(measurement, item.name) for item in fields(measurement)]
        return tuple(self._compared(one, result) for one in given if _known(one, self._sources))

    def _compared(self, direction: Recorded, result: Result) -> Mapping[str, Any]:
        record, entry = self._sources[direction]
        now = {name: reading.value for name, reading in result.readings.items()}
        readings = {
            name: {"then": then, "now": value, "same": float(then).hex() == float(value).hex()}
            for name, value in now.items()
            if (then := entry["readings"].get(name)) is not None
        }
        return {
            "direction": entry["direction"],
            "run_id": self.report.run.run_id,
            "check_id": record.check_id,
            "promised": _promised(record.result, result),
            "same": all(one["same"] for one in readings.values()),
            "readings": readings,
        }


def opened(folder: Path) -> Replay:
    """Return what a folder recorded, or raise pytest.UsageError before anything is loaded."""
    try:
        return Replay.read(folder)
    except StabilityError as error:
        raise pytest.UsageError(f"--stability-replay: {error}") from None


def _known(value: Any, sources: Mapping[Any, object]) -> bool:
    from stabilitykit.strategies.recorded import Recorded

    return isinstance(value, Recorded) and value in sources


def _promised(then: Result | None, now: Result) -> bool:
    """Return whether both results are of one model and input in one numeric environment: then bits are promised."""
    from stabilitykit.subjects.environment import numeric_key

    if then is None or not now.subject.get("model_digest"):
        return False
    same = all(then.subject.get(name) == now.subject.get(name) for name in _SUBJECT)
    return same and numeric_key(then.environment) == numeric_key(now.environment)


def _name(check_id: str) -> str:
    return check_id.split("[", 1)[0].split("@", 1)[0]


REPLAY = pytest.StashKey[Replay]()
