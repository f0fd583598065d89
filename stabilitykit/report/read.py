"""Reading a report folder back: results with their rows and arrays, and the frames the csv files were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import UnreadableError
from stabilitykit.report.files import slugs
from stabilitykit.report.rows import SCHEMA_VERSION, check_rows, readings_rows
from stabilitykit.results.archive import read_arrays
from stabilitykit.results.forms import Each, check
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
    path = directory / "run.json"
    data = _json(path)
    if data.get("schema_version") != SCHEMA_VERSION:
        found, version = (ascii(data.get(name))[:60] for name in ("schema_version", "stabilitykit"))
        raise UnreadableError(
            f"{path} has schema {found}, this stabilitykit reads {SCHEMA_VERSION}; read it with stabilitykit {version}"
        )
    try:
        run, records = Run.from_dict(data["run"]), [Record.from_dict(record) for record in data["records"]]
    except UnreadableError as error:
        raise UnreadableError(f"{path}: {error}") from None
    names = slugs(record.check_id for record in records)
    digests = data.get("digests", {})
    check(digests, Each(str), f"{path}: digests")
    filled = (_with_arrays(*pair, directory, digests) for pair in zip(records, names, strict=True))
    return Report(run, tuple(filled))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} cannot be read as a report: {error}; name a folder a run wrote") from error
    if not isinstance(data, dict) or "run" not in data or not isinstance(data.get("records"), list):
        raise UnreadableError(f"{path} is not the run.json of a report; name a folder a run wrote")
    return data


def _with_arrays(record: Record, name: str, directory: Path, digests: Mapping[str, Any]) -> Record:
    """Return the record with its arrays: those of another run, which a run that was killed left, are none of it."""
    path, named = directory / "arrays" / f"{name}.npz", f"arrays/{name}.npz"
    if record.result is None or not path.exists():
        return record
    if named in digests and hashlib.sha256(path.read_bytes()).hexdigest() != digests[named]:
        raise UnreadableError(f"{path} is damaged, or of another run than run.json; measure again")
    arrays = read_arrays(path)
    return replace(record, result=replace(record.result, arrays=arrays))
