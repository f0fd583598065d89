"""The terminal's table: failures first, aligned, within 120 columns, nothing that moves the cursor."""

from __future__ import annotations

import subprocess
import sys

from stabilitykit.report import table, verdicts
from stabilitykit.results import result
from stabilitykit.results.record import Record


def test_what_needs_a_person_is_on_top_and_the_last_line_counts(records: list[Record]) -> None:
    lines = table(records)
    assert lines[0].startswith("fail      batch_invariance[smollm2-float32]")
    assert "max_scaled_ulp 5.75 ULP" in lines[0]
    assert lines[-2].startswith("pass")
    assert lines[-1] == "10 checks: 1 fail, 1 invalid, 1 differs, 1 new, 1 skipped, 4 measured, 1 pass"
    assert "tiny: output 3 of row 0 is nan; nothing is measured" in lines[1]


def test_lines_are_narrow_aligned_and_printable(records: list[Record]) -> None:
    hostile = Record("\x1b[2J\u202e" + "x" * 300, "n", "crash", message="\x1b[31m\u202e" + "y" * 300 + "\nsecond")
    lines = table([*records, hostile])
    assert all(len(line) <= 120 and line.isprintable() for line in lines)
    assert {line[8:10] for line in lines[:-1]} == {"  "}
    assert {line[64:66] for line in lines[:-1]} == {"  "}
    assert lines[0].startswith("crash")


def test_nothing_measured_is_said() -> None:
    assert table([]) == ["0 checks"]


def test_every_verdict_has_a_mark_and_a_meaning() -> None:
    assert {verdict.name for verdict in verdicts.VERDICTS} == set(result.VERDICTS)
    assert all(verdict.mark and verdict.meaning and verdict.tone for verdict in verdicts.VERDICTS)


def test_the_room_is_light_to_import() -> None:
    heavy = {"numpy", "torch", "jinja2", "plotly", "pandas"}
    code = f"import sys, stabilitykit.report; print(*sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == ""
