"""Two runs side by side: the same twice is the same, every kind of difference is found, and the page shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import html5lib
import pytest

from stabilitykit.baselines.runs import beside, lines
from stabilitykit.cli import main
from stabilitykit.report import write
from stabilitykit.report.beside import page
from stabilitykit.report.read import Report
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Execution, Result

UP, DOWN, EITHER = (
    Metric(name, "input", better, "") for name, better in (("up", "higher"), ("down", "lower"), ("at", "neither"))
)
HOSTILE = "<script>alert(1)</script>"


def record(
    check: str, up: float = 1.0, down: float = 1.0, at: float = 1.0, verdict: str = "measured", **fields: object
) -> Record:
    values = {"up": (UP, up), "down": (DOWN, down), "at": (EITHER, at)}
    readings = {name: Reading(metric, value) for name, (metric, value) in values.items()}
    made = Result(
        measurement="Toy",
        title="Toy",
        check_id=check.split("[")[0],
        parameters=fields.pop("parameters", {}),
        readings=readings,
        verdict=verdict,
        sentence=f"{check} {HOSTILE}",
        subject={"name": "toy"},
        environment={"threads": 1, "torch": "2.13.0"},
        execution=Execution(),
        **fields,
    )
    return Record(check, "test_x.py::test_y", verdict, made)


def report(*records: Record, threads: int = 1, **settings: object) -> Report:
    environment = {"threads": threads, "torch": "2.13.0", "host": f"host{threads}"}
    return Report(Run(f"id{threads}", "2026-01-01T00:00:00+00:00", f"pytest {HOSTILE}", settings, environment), records)


THEN = report(
    *(record(name) for name in ("same", "worse", "better", "moved", "verdict", "asked", "gone")), seed=0, report="a"
)
NOW = report(
    record("same"),
    record("worse", up=0.5, down=0.5),
    record("better", up=2.0, at=3.0),
    record("moved", at=2.0),
    record("verdict", verdict="differs"),
    record("asked", parameters={"n": 2}),
    record("added"),
    threads=2,
    seed=1,
    report="b",
)


def test_a_run_beside_itself_is_the_same() -> None:
    found = beside(THEN, THEN)
    assert (found.moved, found.environment, found.settings) == ((), (), ())
    assert lines(found) == ["7 checks: 7 same"]


def test_every_kind_of_difference_has_its_word_and_its_order() -> None:
    found = beside(THEN, NOW)
    assert {pair.check: pair.status for pair in found.pairs} == {
        "same": "same",
        "worse": "worse",
        "better": "better",
        "moved": "changed",
        "verdict": "verdict",
        "asked": "asked",
        "gone": "gone",
        "added": "added",
    }
    assert [pair.status for pair in found.moved] == ["worse", "changed", "verdict", "gone", "better", "added", "asked"]
    assert found.environment == (("threads", 1, 2),), "a host's name decides no bit"
    assert found.settings == (("seed", 0, 1),), "where the report lies is no setting of the measurement"
    told = lines(found)
    assert told[0] == "Environment differs: threads was 1, is 2"
    assert "worse      worse  up 1 -> 0.5; down 1 -> 0.5" in told
    assert "verdict    verdict  measured -> differs" in told
    assert told[-1] == "8 checks: 1 worse, 1 changed, 1 verdict, 1 gone, 1 better, 1 added, 1 asked, 1 same"


def test_sampled_readings_are_the_same_where_their_intervals_overlap() -> None:
    def sampled(value: float) -> Report:
        made = record("rate")
        assert made.result is not None
        reading = Reading(DOWN, value, low=value - 0.2, high=value + 0.2)
        return report(replace(made, result=replace(made.result, readings={"down": reading})))

    assert not beside(sampled(1.0), sampled(1.3)).moved
    assert beside(sampled(1.0), sampled(1.5)).moved[0].status == "worse"


def test_the_page_shows_both_sides_and_hostile_text_is_text() -> None:
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page(beside(THEN, NOW)))
    titles = ["".join(title.itertext()) for title in tree.iter("h3")]
    assert titles == ["worse", "moved", "verdict", "gone", "better", "added", "asked"]
    text = "".join("".join(article.itertext()) for article in tree.iter("article"))
    assert text.count(HOSTILE) == 12, "seven checks, two sides, but for the two that one side lacks"
    assert len(list(tree.iter("script"))) == 1
    (worse, *_) = tree.iter("article")
    cells = [["".join(cell.itertext()) for cell in row.iter("td")] for row in worse.iter("tr")]
    assert ["worse", "up", "1", "0.5", "-50 %", "input"] in cells
    assert not re.search("host", "".join("".join(table.itertext()) for table in tree.iter("table")))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, one in (("then", THEN), ("now", NOW)):
        write(one.run, one.records, tmp_path / name)
    return tmp_path


def test_the_command_exits_1_where_a_check_moved(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then, now, out = (str(folders / name) for name in ("then", "now", "out"))
    assert main(["report", then, then]) == 0
    assert main(["report", then, now, "--page", out]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {folders / 'out' / 'index.html'}"
    assert main(["report", then, now, "--markdown", "x.md"]) == 2
    assert "name one folder" in capsys.readouterr().err
