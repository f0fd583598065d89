"""Within a workflow: summary and annotations; elsewhere nothing; and the outcome of the run is never theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stabilitykit.plugin.github import commands
from stabilitykit.results.record import Record

SOURCE = """
def test_drift(stability):
    stability.measure(ToyDrift(drift=3.0), TOY)

def test_gate(stability):
    stability.measure(ToyGate(drift=2.0), TOY)

def test_calm(stability):
    stability.measure(ToyDrift(drift=0.0), TOY)
"""
Inner = Callable[..., object]


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


@pytest.mark.parametrize(
    "workers",
    [pytest.param((), id="one process"), pytest.param(("-n", "2"), id="two workers", marks=pytest.mark.long)],
)
def test_the_step_gets_one_summary_and_an_annotation_a_finding(
    inner: Inner, workflow: Path, workers: tuple[str, ...]
) -> None:
    workflow.write_text("before\n")
    done = inner(SOURCE, *workers, apart=bool(workers))
    text = workflow.read_text(encoding="utf-8")
    assert text.startswith("before\n### Floating-point stability: 3 checks:")
    assert text.count("### ") == 1
    lines = [line for line in done.text.splitlines() if line.startswith("::")]
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert lines[0].startswith("::error file=test_inner.py,title=fail%3A toy_gate")
    assert int(done.result.ret) == 1


def test_outside_a_workflow_nothing_is_said(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert not [line for line in inner(SOURCE).text.splitlines() if line.startswith("::")]


def test_a_summary_that_cannot_be_written_is_a_line_and_no_failure(
    inner: Inner, workflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    done = inner("def test_calm(stability):\n    stability.measure(ToyDrift(drift=0.0), TOY)\n")
    assert "step summary not written" in done.text
    assert int(done.result.ret) == 0


def record(number: int, verdict: str, **fields: object) -> Record:
    return Record(f"check_{number}[a,b:c]", "gone/test_x.py::test_y", verdict, **fields)  # type: ignore[arg-type]


def test_ten_of_a_kind_the_most_urgent_first_and_the_rest_counted() -> None:
    records = [record(n, "differs", message="50% of\nlines") for n in range(14)] + [record(99, "crash", message="died")]
    lines = commands(records, failures=True)
    assert lines[0] == "::error title=crash%3A check_99[a%2Cb%3Ac]::died"
    assert lines[1] == "::warning title=differs%3A check_0[a%2Cb%3Ac]::50%25 of"
    assert len(lines) == 1 + 10 + 1
    assert lines[-1] == "::notice title=stability::4 more checks need a look; see the report"


def test_another_plugin_that_annotates_failures_keeps_them() -> None:
    lines = commands([record(1, "fail", message="a"), record(2, "differs", message="b")], failures=False)
    assert [line.split(" ")[0] for line in lines] == ["::warning"]


def test_a_gate_that_differs_is_an_error() -> None:
    (line,) = commands([record(1, "differs", message="a", gate=True)], failures=True)
    assert line.startswith("::error ")
