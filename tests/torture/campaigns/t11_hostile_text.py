"""T11: every token of SmolLM2 and 200 hostile strings through the page, csv, JSON and the terminal, and back."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections.abc import Callable
from unittest.mock import patch

import html5lib
from oracles import made_run
from torture.campaign import Campaign, Trial, draw, scratch

import stabilitykit as sk
from stabilitykit.report import csv as tables
from stabilitykit.report import html, table, text, write
from stabilitykit.report.markdown import summary
from stabilitykit.report.text import unguarded
from stabilitykit.results.metric import Metric, Reading, readings
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Result

BATCH = 256
"""Texts a trial takes: 49,152 tokens are 192 trials."""
TOKENS, HOSTILE = 49_152, 200
TRIALS = math.ceil((TOKENS + HOSTILE) / BATCH)
FORMULA = tuple("=+-@\t\r＝＋－＠")
PIECES = (
    *made_run.HOSTILE, "<svg onload=x>", "javascript:alert(1)", "]]>", "--!>", "<!DOCTYPE", "${{7*7}}", "%0a", "\x85",
    "\x7f", "\u2029", "\ufeff", "\U000e0041", "\U0001f468\u200d\U0001f469", "a" * 3000, "`", "|", "\\n", "$(id)",
    "\x1b]0;x\x07", "\u0600",
)  # fmt: skip


@functools.cache
def texts() -> list[str]:
    """Return every token as the tokenizer spells and as it decodes it, in turn, then the hostile strings."""
    tokenizer = sk.load("smollm2").tokenizer
    decoded = [tokenizer.decode([number]) for number in range(TOKENS)]
    spelled = tokenizer.convert_ids_to_tokens(list(range(TOKENS)))
    found = [spelled[number] if number % 4 == 3 else decoded[number] for number in range(TOKENS)]
    random = draw("T11", 0)
    mixed = ["".join(PIECES[k] for k in random.integers(len(PIECES), size=3)) for _ in range(HOSTILE - len(PIECES))]
    return [*found, *PIECES, *mixed]


@functools.cache
def ours() -> set[tuple[str, str]]:
    """Return every element and attribute of a page without a hostile text."""
    return set(_shape(_page(["plain"] * BATCH, 0)))


def output(number: int) -> str | None:
    """Write a report in which the texts stand in every place that takes text; read all of it back."""
    first = number * BATCH
    mine = texts()[first : first + BATCH]
    records = [_record(mine, first)]
    folder = scratch("text")
    write(made_run.made_run(), records, folder)
    (path,) = (folder / "tables").iterdir()
    return (
        _csv(path.read_bytes().decode(), mine, first)
        or _json(json.loads((folder / "run.json").read_text(encoding="utf-8")), mine)
        or _lines(records, mine)
        or _elements((folder / "index.html").read_text(encoding="utf-8"))
        or _cells((folder / "results.csv").read_bytes().decode())
    )


def _record(mine: list[str], first: int) -> Record:
    metric = Metric("margin", "logit", "higher", mine[0])
    rows = tuple(
        {"token": one, "token_id": first + k, "x": (first + k) / 7, "hex": ((first + k) / 7).hex()}
        for k, one in enumerate(mine)
    )
    place = {"token": mine[-1], "prompt": mine[len(mine) // 2], "other": mine[len(mine) // 3]}
    result = Result(
        "TokenTable", f"tokens[{mine[0]}]", "measured", mine[1 % len(mine)], "; ".join(mine)[:2000],
        readings((metric,), {"margin": Reading(metric, first / 3, place=place)}),
        rows=rows, subject={**made_run.SUBJECT, "prompt": "".join(mine)[:3000]}, parameters={"text": mine[:5]},
        noise=mine[2 % len(mine)], causes=(mine[3 % len(mine)],),
    )  # fmt: skip
    return Record(f"tokens[{mine[0]}]", f"test_it.py::test[{mine[0]}]", "measured", result, message="\n".join(mine[:9]))


def _csv(content: str, mine: list[str], first: int) -> str | None:
    """Read the table back: each text, id and number exactly, one line a row, no cell that a spreadsheet computes."""
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    if content.count("\n") != len(rows) + 1 or len(rows) != len(mine):
        return f"{len(rows)} rows of {content.count(chr(10))} lines for {len(mine)} texts"
    for k, (row, one) in enumerate(zip(rows, mine, strict=True)):
        if unguarded(row["token"]) != one or row["token_id"] != str(first + k):
            return f"csv gives {row['token']!a} back for {one!a}"
        if float(row["x"]).hex() != row["hex"]:
            return f"csv gives {row['x']} back for {row['hex']}"
        if row["token"].startswith(FORMULA) or not row["token"].isprintable():
            return f"csv has the cell {row['token']!a}"
    return None


def _cells(content: str) -> str | None:
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    bad = [
        cell
        for row in rows
        for name, cell in row.items()
        if cell.startswith(FORMULA) and name not in tables.NUMBER_COLUMNS
    ]
    return f"results.csv has the cell {bad[0]!a}" if bad else None


def _json(data: dict, mine: list[str]) -> str | None:
    found = [row["token"] for row in data["records"][0]["result"]["rows"]]
    return None if found == mine else "run.json gives other texts back"


def _lines(records: list[Record], mine: list[str]) -> str | None:
    lines = [*table(records), text.shown("".join(mine)), *summary(made_run.made_run(), records).split("\n")]
    bad = [line for line in lines if not line.isprintable()]
    return f"the terminal or Markdown gets {bad[0][:200]!a}" if bad else None


def _page(mine: list[str], first: int) -> str:
    folder = scratch("text")
    write(made_run.made_run(), [_record(mine, first)], folder)
    return (folder / "index.html").read_text(encoding="utf-8")


def _shape(page: str):
    """Yield the elements of a page with their attributes; the scripts' content counts as part of the element."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    for element in parser.parse(_without_data(page)).iter():
        name = str(element.tag)
        yield name, ""
        yield from ((name, attribute) for attribute in element.attrib)


def _without_data(page: str) -> str:
    """Cut the megabytes of plotly: letters and digits alone, which cannot be markup."""
    return re.sub(r">[A-Za-z0-9+/=]{10000,}<", "><", page)


def _elements(page: str) -> str | None:
    try:
        odd = sorted(set(_shape(page)) - ours())
    except html5lib.html5parser.ParseError as error:
        return f"the page is not well formed: {error}"
    return f"the page has {odd[:3]}" if odd else None


def _planted(owner: object, name: str, wrong: Callable) -> Trial:
    def trial(number: int) -> str | None:
        texts(), ours()
        with patch.object(owner, name, wrong):
            return output(TRIALS - 1 - number)

    return trial


def _visible(shown: str, _keep: str) -> str:
    return shown.encode(errors="replace").decode()


def _unescaped(run: Run, records: list[Record], slugs: list[str]) -> str:
    return _escaped_page(run, records, slugs).replace("</main>", f"{_visible(records[0].result.sentence, '')}</main>")


_escaped_page = html.page
CAMPAIGNS = [
    Campaign(
        "T11",
        "every token of SmolLM2 and 200 hostile strings through page, csv, JSON, Markdown and terminal, and back",
        "texts",
        full=TRIALS,
        ci=2,
        trial=lambda number: output(TRIALS - 1 - number),
        planted={
            "text in csv is not guarded": _planted(tables, "guarded", str),
            "what does not print is shown as it is": _planted(text, "_escaped", _visible),
            "a sentence reaches the page as it is": _planted(html, "page", _unescaped),
        },
        each=BATCH,
        model=True,
    )
]
