"""The Markdown of a run, read by a Markdown library: what it says, and that no text in it becomes anything else."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from stabilitykit.report.markdown import LARGEST, code, plain, summary
from stabilitykit.report.text import shown
from stabilitykit.results.record import Record, Run

# GitHub's flavour: tables, bare addresses become links, HTML passes.
GITHUB = MarkdownIt("gfm-like")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![a](https://a.example/p.png)",
    "https://a.example/x and www.b.example",
    "@everyone and #1 and GH-2",
    "a | b | c",
    "`code` ``more`` ```",
    "# heading",
    "&lt;b&gt;",
    "**bold** _it_ ~~gone~~",
    "\\`",
    "<!-- -->",
    "</details>",
    "$x^2$",
    "a|`b",
    "line\nbreak\u202e",
)


def rendered(text: str) -> str:
    return GITHUB.render(text)


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page)).strip()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", [plain, code])
def test_hostile_text_is_shown_and_nothing_else(form: Callable[[str], str], text: str) -> None:
    page = rendered(f"| a | b |\n|---|---|\n| {form(text)} | end |")
    assert set(re.findall(r"</?(\w+|!)", page)) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    cells = re.findall(r"<td>(.*?)</td>", page, flags=re.S)
    assert [words(cell) for cell in cells] == [shown(text), "end"]
    if any(mark in text for mark in ("@", "://")):
        assert "<code>" in page


def test_the_summary_says_what_needs_a_look_first(run: Run, records: list[Record]) -> None:
    page = rendered(summary(run, records))
    allowed = "h3 blockquote p table thead tbody tr th td code details summary"
    assert set(re.findall(r"<(\w+)", page)) <= set(allowed.split())
    first, second = re.findall(r"<tbody>(.*?)</tbody>", page, flags=re.S)
    bad = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", first, flags=re.S)
    assert [verdict.split()[-1] for verdict, _ in bad] == ["fail", "invalid", "differs"]
    assert words(bad[0][1]) == "batch_invariance[smollm2-float32]"
    assert len(re.findall("<tr>", second)) == len(records)
    for record in records:
        assert shown(record.check_id) in words(page)
    assert words(rendered(plain(run.notes[0]))) in words(page)


def test_a_large_run_is_cut_between_rows_and_says_so(run: Run, records: list[Record]) -> None:
    many = [replace(record, check_id=f"{record.check_id}{number}") for number in range(300) for record in records]
    text = summary(run, many)
    assert len(text.encode()) <= LARGEST
    (left,) = re.findall(r"^(\d+) more lines are in the report\.$", text, flags=re.M)
    assert 0 < int(left) < len(many)
    assert text.rstrip().endswith(code(run.command))
    assert "more lines" not in summary(run, records)


def test_a_calm_run_has_one_table(run: Run, records: list[Record]) -> None:
    calm = [record for record in records if record.verdict in {"pass", "measured"}]
    assert summary(run, calm).count("|---|---|---|") == 1
