"""A report folder gives back what was written into it, bit for bit, or says what is wrong with it."""

import json

import numpy as np
import pytest

import stabilitykit as sk
from stabilitykit.report import write


@pytest.fixture
def folder(tmp_path, run, records):
    write(run, records, tmp_path)
    return tmp_path


def test_everything_comes_back(folder, run, records):
    """Run, verdicts, readings, rows and arrays are those that were written."""
    report = sk.read(folder)
    assert report.run == run
    assert [record.check_id for record in report.records] == [record.check_id for record in records]
    for ours, theirs in zip(report.records, records, strict=True):
        assert (ours.result is None) == (theirs.result is None)
        if theirs.result is None:
            continue
        assert ours.result.to_json() == theirs.result.to_json()
        for name, array in theirs.result.arrays.items():
            assert ours.result.arrays[name].dtype == np.asarray(array).dtype


def test_frames_have_a_row_a_reading_and_a_row_a_check(folder, records):
    """The frames are those of the csv files."""
    report = sk.read(folder)
    readings = sum(len(record.result.readings) for record in records if record.result is not None)
    assert len(report.readings()) == readings
    assert len(report.checks()) == len(records)


def test_a_check_is_found_by_its_id(folder, records):
    """Indexing names a check; an unknown one lists those there are."""
    report = sk.read(folder)
    assert report[records[0].check_id].check_id == records[0].check_id
    with pytest.raises(KeyError, match="no check 'nothing'"):
        report["nothing"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "run.json").unlink(), "cannot be read as a report"),
        (lambda folder: (folder / "run.json").write_text("{"), "cannot be read as a report"),
        (lambda folder: (folder / "run.json").write_text("[]"), "is not the run.json of a report"),
        (lambda folder: (folder / "run.json").write_text("[" * 100_000), "cannot be read as a report"),
        (lambda folder: edited(folder / "run.json", run=3), r"run\.json: the run is damaged"),
        (lambda folder: edited(folder / "run.json", records=[{}]), r"run\.json: a record is damaged"),
        (lambda folder: newer(folder / "run.json"), "has schema 999"),
        (
            lambda folder: next((folder / "arrays").iterdir()).write_bytes(b"PK\x03\x04 torn"),
            "is damaged, or of another run than run",
        ),
    ],
)
def test_a_damaged_folder_is_refused_by_name(folder, damage, said):
    """Each damage is one sentence that names the file."""
    damage(folder)
    with pytest.raises(sk.UnreadableError, match=said):
        sk.read(folder)


def edited(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def newer(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "schema_version": 999}), encoding="utf-8")
