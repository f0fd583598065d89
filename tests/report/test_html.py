"""The page: one file, readable without scripts, and no text in it can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
from plotly.offline import get_plotlyjs

from stabilitykit.report import write
from stabilitykit.report.page import check
from stabilitykit.report.templating import figure_data
from stabilitykit.report.text import shown
from stabilitykit.results.record import Record, Run

NAMES = re.compile(
    r"(aria-\w+|autocomplete|charset|class|content|data-(fold|of|part|plot|show|theme-switch|verdict)|for|href|http-equiv|id"
    r"|lang|name|open|placeholder|role|scope|style|tabindex|title|type)"
)
TAGS = (
    "html head meta title style body header footer main nav section article a p h1 h2 h3 h4 ul li dl dt dd div span b "
    "strong code pre table thead tbody tr th td figure figcaption details summary script label input button"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, run: Run, records: list[Record]) -> Path:
    return write(run, records, tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def tree(index: Path) -> Element:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(index.read_text(encoding="utf-8"))


def unpacked(text: str | None) -> str:
    return zlib.decompress(base64.b64decode(text or "", validate=True)).decode()


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def words(element: Element) -> str:
    """All text a reader without scripts can meet."""
    inner = "" if element.tag in {"script", "style"} else (element.text or "") + "".join(words(e) for e in element)
    return inner + (element.tail or "")


def test_only_our_elements_and_attributes(tree: Element) -> None:
    for element in tree.iter():
        assert element.tag in TAGS.split()
        assert all(NAMES.fullmatch(name) for name in element.attrib), element.attrib
        if element.tag == "a":
            assert re.fullmatch(
                r"#[\w.-]+|(tables|arrays)/[\w.-]+|(results|summary)\.csv|run\.json", element.get("href", "")
            )


def test_scripts_are_ours_and_what_is_packed_is_plotly_and_figures(tree: Element) -> None:
    scripts = list(tree.iter("script"))
    packed = {script.get("data-plot") or script.get("id"): script for script in scripts if script.get("type")}
    assert {script.get("type") for script in packed.values()} == {"text/plain"}
    assert len(packed) == 11 + 1
    assert len(scripts) == len(packed) + 2
    assert unpacked(packed.pop("plotly").text) == get_plotlyjs()
    for script in packed.values():
        figure = json.loads(unpacked(script.text))
        assert {trace["type"] for trace in figure["data"]} <= {"scatter", "scatterpolar", "heatmap", "bar"}


def test_the_policy_allows_no_network_and_no_script_but_ours(tree: Element) -> None:
    (policy,) = (meta.get("content", "") for meta in tree.iter("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*|eval", policy)
    (allowed,) = re.findall("script-src ([^;]+);", policy)
    ran = [script.text or "" for script in tree.iter("script") if not script.get("type")] + [get_plotlyjs()]
    assert sorted(allowed.split()) == sorted(map(digest, ran))


def test_everything_is_said_without_scripts(tree: Element, run: Run, records: list[Record]) -> None:
    text = words(tree)
    articles = {element.get("id"): words(element) for element in tree.iter("article")}
    assert len(articles) == len(records)
    for record in records:
        (article,) = (body for body in articles.values() if body.lstrip().startswith(shown(record.check_id)))
        assert record.verdict in article
        if record.result is not None:
            assert shown(record.result.sentence) in article
            for name, reading in record.result.readings.items():
                assert name in article
                assert reading.metric.format(reading.value) in article
                assert shown(reading.metric.description) in article
    assert "3 of 10 checks need a look" in text
    assert run.run_id in text
    assert "The first 100 of 300 rows" in text


def test_columns_are_those_of_the_rows_that_are_shown(records: list[Record], run: Run) -> None:
    """A column that only rows behind them have would be one of empty cells; the csv has it."""
    kept = next(record for record in records if record.result is not None and len(record.result.rows) == 300)
    late = ({**row, "late": 1} if number >= 100 else row for number, row in enumerate(kept.result.rows))
    found = check(replace(kept, result=replace(kept.result, rows=tuple(late))), "runs", run)
    assert found.columns == ["run", "differs", "max_ulp"]
    assert [row[0] for row in found.rows] == [str(number) for number in range(1, 101)]
    assert found.rows_total == 300


def test_chapters_come_in_reading_order(tree: Element) -> None:
    titles = [element.text for element in tree.iter("h2")][2:]
    assert titles == [
        "Stability boundary",
        "Gain",
        "Invariances",
        "Worst direction found by Hypothesis",
        "Further measurements",
        "Not measured",
        "Words on this page",
        "The run",
    ]


def test_ids_are_unique_and_links_lead_somewhere(tree: Element) -> None:
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in tree.iter():
        for name in ("aria-labelledby", "aria-describedby", "data-plot", "data-of", "data-part", "for"):
            assert element.get(name) is None or element.get(name) in ids
        if (href := element.get("href", "")).startswith("#"):
            assert href[1:] in ids


def test_a_baseline_stands_beside_the_reading_and_a_drift_stands_out(
    tmp_path: Path, run: Run, records: list[Record]
) -> None:
    kept = next(record for record in records if record.check_id.startswith("first_change["))
    held = {
        "radius": {"then": 0.5, "allowed": "exact", "kind": "worse"},
        "cells": {"then": 2.0, "allowed": "exact", "kind": "same"},
    }
    index = write(run, [replace(kept, baseline={"status": "drifted", "readings": held})], tmp_path)
    parsed = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(index.read_text(encoding="utf-8"))
    (table,) = (table for table in parsed.iter("table") if table.get("class") == "readings")
    rows = {words(row.find("th")).strip(): row for row in table.iter("tr") if row.find("td") is not None}
    assert "0.5 (worse) ✗ drifted" in words(rows["radius"])
    assert "2 (same)" in words(rows["cells"])
    assert [name for name, row in rows.items() if row.get("class") == "broken"] == ["radius"]


def test_one_file_of_moderate_size(index: Path) -> None:
    assert index.stat().st_size < 8e6
    page = index.read_text(encoding="utf-8").replace("\n", "")
    assert not re.search(r'<(link|img|iframe|script)[^>]*\b(src|href)="', re.sub(r"<script>.*?</script>", "", page))


def test_a_page_without_figures_carries_no_library(tmp_path: Path, run: Run, records: list[Record]) -> None:
    plain = [record for record in records if record.result is None]
    assert write(run, plain, tmp_path).stat().st_size < 1e5


def test_an_empty_run_still_gives_a_page(tmp_path: Path, run: Run) -> None:
    assert "Nothing was measured" in write(run, [], tmp_path).read_text(encoding="utf-8")


def test_figure_data_cannot_leave_its_element() -> None:
    text = figure_data({"a": "</script><!--&\u2028\ud800"})
    assert re.fullmatch("[A-Za-z0-9+/]+=*", text)
    assert json.loads(unpacked(text)) == {"a": "</script><!--&\u2028\ud800"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_records_give_the_same_bytes(tmp_path: Path, index: Path, run: Run, records: list[Record]) -> None:
    assert contents(write(run, records, tmp_path / "again").parent) == contents(index.parent)
    code = (
        "import runpy, sys; made = runpy.run_path(sys.argv[1]); from stabilitykit.report import write; "
        "write(made['made_run'](), made['made_records'](), sys.argv[2])"
    )
    made = Path(__file__).parents[1] / "oracles" / "made_run.py"
    elsewhere = {"PYTHONHASHSEED": "4321", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"}
    command = [sys.executable, "-c", code, str(made), str(tmp_path / "other")]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, **elsewhere}, timeout=120)
    assert contents(tmp_path / "other") == contents(index.parent)
