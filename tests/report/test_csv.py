"""Numbers come back bit for bit, text exactly, and no cell is a formula."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stabilitykit.report import write
from stabilitykit.report.csv import cell
from stabilitykit.report.rows import CHECK_COLUMNS, NUMBER_COLUMNS, READING_COLUMNS, check_rows, readings_rows
from stabilitykit.report.text import guarded, unguarded
from stabilitykit.results.record import Record, Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: Run, records: list[Record]) -> Path:
    return write(run, records, tmp_path_factory.mktemp("reports")).parent


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_one_row_a_reading_with_exact_values(folder: Path, run: Run, records: list[Record]) -> None:
    rows = read(folder / "results.csv")
    expected = readings_rows(run, records)
    assert tuple(rows[0]) == READING_COLUMNS
    assert len(rows) == len(expected) == sum(len(r.result.readings) for r in records if r.result)
    for row, given in zip(rows, expected, strict=True):
        assert unguarded(row["check_id"]) == given["check_id"]
        assert unguarded(row["token"]) == (given["token"] or "")
        assert float.fromhex(row["value_hex"]) == given["value"]
        assert float(row["value"]) == given["value"]


def test_every_check_has_its_row(folder: Path, run: Run, records: list[Record]) -> None:
    rows = read(folder / "summary.csv")
    assert tuple(rows[0]) == CHECK_COLUMNS
    assert [unguarded(row["check_id"]) for row in rows] == [record.check_id for record in records]
    assert [row["status"] for row in rows] == [record.verdict for record in records]
    assert [unguarded(row["message"]) for row in rows] == [record.message for record in records]
    assert len(check_rows(run, records)) == len(records)


def test_no_text_cell_starts_as_a_formula_and_every_row_is_one_line(folder: Path) -> None:
    for path in [folder / "results.csv", folder / "summary.csv", *sorted((folder / "tables").iterdir())]:
        rows = read(path)
        assert path.read_bytes().count(b"\n") == len(rows) + 1
        for row in rows:
            for name, value in row.items():
                assert name.isprintable()
                assert value.isprintable()
                assert not name.startswith(tuple("=+-@"))
                numeric = name in NUMBER_COLUMNS or path.parent.name == "tables"
                assert not value.startswith(tuple("=+-@")) or (numeric and float_of(value) is not None)


def float_of(value: str) -> float | None:
    try:
        return float.fromhex(value) if "0x" in value else float(value)
    except ValueError:
        return None


def test_tidy_rows_come_back(folder: Path, records: list[Record]) -> None:
    known = {record.check_id: record.result for record in records}
    fan = known["stability_fan[smollm2-float32]"]
    assert fan is not None
    rows = read(folder / "tables" / "stability_fan-smollm2-float32.csv")
    assert [float(row["radius"]) for row in rows] == [row["radius"] for row in fan.rows]
    assert [row["exact"] for row in rows] == ["true" if row["exact"] else "false" for row in fan.rows]
    (path,) = (folder / "tables").glob("hostile-*.csv")
    tokens = known[records[-1].check_id]
    assert tokens is not None
    assert [unguarded(row["token"]) for row in read(path)] == [row["token"] for row in tokens.rows]


def test_pandas_reads_the_same(folder: Path, records: list[Record]) -> None:
    (path,) = (folder / "tables").glob("hostile-*.csv")
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    assert records[-1].result is not None
    assert [unguarded(token) for token in frame["token"]] == [row["token"] for row in records[-1].result.rows]
    results = pd.read_csv(folder / "results.csv", keep_default_na=False, dtype={"value_hex": str, "limit": str})
    assert [float.fromhex(text) for text in results["value_hex"]] == list(results["value"])


def test_arrays_come_back_without_pickle(folder: Path) -> None:
    with np.load(folder / "arrays" / "stability_fan-smollm2-float32.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["plane"], np.eye(2, 576))
        assert np.array_equal(arrays["file"], np.arange(3))


def test_run_json_is_strict_and_rebuilds_the_records(folder: Path, run: Run, records: list[Record]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data = json.loads((folder / "run.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert Run.from_dict(data["run"]) == run
    again = [Record.from_dict(record) for record in data["records"]]
    assert [record.check_id for record in again] == [record.check_id for record in records]
    assert sorted(data["files"]) == sorted(
        f"{path.parent.name}/{path.name}" for name in ("tables", "arrays") for path in (folder / name).iterdir()
    )
    assert data["verdicts"]["measured"] == 4
    assert data["work"]["forwards"] == sum(r.result.execution.forwards for r in records if r.result)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (np.float64(0.1), "0.1"),
        (5e-324, "5e-324"),
        (-0.0, "-0.0"),
        (-1.5, "-1.5"),
        (math.inf, "inf"),
        (math.nan, ""),
        (None, ""),
        (True, "true"),
        (2**70, str(2**70)),
        ("-1", r"\x2d1"),
        ([1, "=x", math.inf], '[1, "\\x3dx", {"float": "inf"}]'),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_a_place_that_is_a_number_stays_one_only_in_a_number_column() -> None:
    assert cell("-12.5", number=True) == "-12.5"
    assert cell("-12.5+1", number=True) == guarded("-12.5+1") != "-12.5+1"


def test_files_of_a_former_run_go_and_others_stay(tmp_path: Path, run: Run, records: list[Record]) -> None:
    write(run, records, tmp_path)
    mine = tmp_path / "tables" / "mine.csv"
    mine.write_text("a\n1\n")
    write(run, records[:1], tmp_path)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"mine.csv", "run_to_run-smollm2-float32.csv"}
    assert list((tmp_path / "arrays").iterdir()) == []
