"""Files are whole or absent, names fit every file system, and only our own litter is removed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from stabilitykit.report import files
from stabilitykit.results import atomic


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.csv"
    atomic.atomic_write(target, "old\n")

    def refuse(source: object, destination: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        atomic.atomic_write(target, "new\n")
    assert target.read_bytes() == b"old\n"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_text_is_utf8_with_newlines_as_given(tmp_path: Path) -> None:
    atomic.atomic_write(tmp_path / "a", "é\r\n\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n\n"


def test_plain_ids_give_readable_names() -> None:
    ids = ["run_to_run", "batch_invariance[smollm2-float32]", "fan[a.b]"]
    assert files.slugs(ids) == ["run_to_run", "batch_invariance-smollm2-float32", "fan-a.b"]


def test_names_are_safe_and_unique() -> None:
    ids = [
        "a",
        "A",
        "a",
        "a",
        "../../etc/passwd",
        "con",
        "nul[x]",
        "x" * 400,
        "",
        "\ud800",
        "日本",
        "a[b]",
        "a-b",
        "a[b.]",
    ]
    names = files.slugs(ids)
    assert len({name.casefold() for name in names}) == len(ids)
    for name in names:
        assert name.isascii()
        assert len(name) <= 110
        assert not set(name) & set('/\\:*?"<>| [](){}$&;\n')
        assert not name.startswith((".", "-"))
        assert not name.endswith(".")
        assert name.split(".")[0] not in {"con", "nul"}


def test_only_files_that_a_former_run_lists_are_known(tmp_path: Path) -> None:
    assert files.listed(tmp_path) == set()
    names = ["tables/a.csv", "../secret", "tables/../../secret", "/etc/passwd", 7, "index.html"]
    (tmp_path / "run.json").write_text(json.dumps({"files": names}))
    assert files.listed(tmp_path) == {"tables/a.csv"}
    (tmp_path / "run.json").write_text("{")
    assert files.listed(tmp_path) == set()


def test_parts_of_a_killed_process_go_when_they_are_old(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    old, young = tmp_path / "tables" / ".1.stability-part", tmp_path / ".2.stability-part"
    for part in (old, young):
        part.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    files.clean(tmp_path, ["tables/gone.csv"])
    assert not old.exists()
    assert young.exists()
