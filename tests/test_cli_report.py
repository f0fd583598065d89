"""`stabilitykit report`: the same table, page and Markdown from a folder's data, and one sentence for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stabilitykit.cli import main
from stabilitykit.measurements.determinism import RunToRun
from stabilitykit.report import write_one
from stabilitykit.subjects.function_subject import FunctionSubject


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = RunToRun(runs=2).measure(FunctionSubject(lambda X: X * 2, torch.ones(3), name="twice"))
    write_one(result, tmp_path / "run", "run_to_run[twice]", "stabilitykit ...", {"seed": 0})
    return tmp_path / "run"


def test_the_table_is_shown_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  run_to_run[twice]")
    assert lines[-1] == "1 check: 1 pass"


def test_page_and_markdown_are_made_anew(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(folder), "--page", str(tmp_path / "again"), "--markdown", str(tmp_path / "run.md")]
    assert main(words) == 0
    made = {path.relative_to(tmp_path / "again"): path for path in (tmp_path / "again").rglob("*") if path.is_file()}
    kept = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert made.keys() == kept.keys()
    assert all(made[name].read_bytes() == kept[name].read_bytes() for name in made)
    assert "run_to_run[twice]" in (tmp_path / "run.md").read_text(encoding="utf-8")
    assert f"written: {tmp_path / 'run.md'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nowhere"], 3, "name a folder a run wrote"),
        (["run", "--format", "gif"], 2, "format 'gif' is none of svg, pdf, png"),
        (["run", "--markdown", "."], 2, "is no file in a folder that exists"),
        (["run", "--page", "run/run.json"], 2, "is a file; name a folder"),
        (["run", "--figures", "run/run.json"], 2, "is a file; name a folder"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    says: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["report", *words]) == status
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
