"""Reading a report folder back: results with their rows and arrays, and the frames the csv files were made from."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UnreadableError
from stabilitykit.report.files import slugs
from stabilitykit.report.rows import SCHEMA_VERSION, check_rows, readings_rows
from stabilitykit.results.record import Record, Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """One run as it was measured: `run` is its provenance, `records` its checks in order, arrays included."""

    run: Run
    records: tuple[Record, ...]

    def readings(self) -> pd.DataFrame:
        """One row a reading, as in results.csv, with numbers as numbers."""
        import pandas as pd

        return pd.DataFrame(readings_rows(self.run, self.records))

    def checks(self) -> pd.DataFrame:
        """One row a check, as in summary.csv."""
        import pandas as pd

        return pd.DataFrame(check_rows(self.run, self.records))

    def __getitem__(self, check_id: str) -> Record:
        """Return the record of one check; KeyError lists the checks there are."""
        found = {record.check_id: record for record in self.records}
        if check_id not in found:
            raise KeyError(f"no check {check_id!r}; there are {', '.join(found)}")
        return found[check_id]


def read(directory: Path | str) -> Report:
    """Return the report in a folder that `--stability-report` wrote.

    UnreadableError, naming file and reason, for a missing or damaged file and for another schema. No pickle is read.
    """
    directory = Path(directory)
    data = _json(directory / "run.json")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise UnreadableError(
            f"{directory / 'run.json'} has schema {data.get('schema_version')!r}, this stabilitykit reads "
            f"{SCHEMA_VERSION}; read it with stabilitykit {data.get('stabilitykit', 'of its time')}"
        )
    records = [Record.from_dict(record) for record in data["records"]]
    names = slugs(record.check_id for record in records)
    filled = (
        _with_arrays(record, directory / "arrays" / f"{name}.npz") for record, name in zip(records, names, strict=True)
    )
    return Report(Run.from_dict(data["run"]), tuple(filled))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read as a report: {error}; name a folder a run wrote") from error
    if not isinstance(data, dict) or not {"run", "records"} <= data.keys():
        raise UnreadableError(f"{path} is not the run.json of a report; name a folder a run wrote")
    return data


def _with_arrays(record: Record, path: Path) -> Record:
    if record.result is None or not path.exists():
        return record
    try:
        # Opened here: numpy leaves a file open when it finds that the archive is damaged.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"{path} is damaged: {error}; measure again") from error
    return replace(record, result=replace(record.result, arrays=arrays))
