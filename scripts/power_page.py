"""The tables of docs/power.md and the section of docs/reliability.md, from the committed results of `power` alone.

    python scripts/power_page.py

A result is docs/reliability/power-MODEL.json, written by `stabilitykit power --model MODEL --json FILE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stabilitykit.baselines.power import OUTCOMES
from stabilitykit.faults.catalogue import FAULTS, WHEN
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.result import Result, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RECORDS = DOCS / "power.md", DOCS / "reliability"
SIGNS = {
    "alone": "!",
    "baseline": "b",
    "better": "~",
    "uncompared": "=",
    "refused": "?",
    "missed": ".",
}
_SHOWN = 3


def results(folder: Path = RECORDS) -> dict[str, Result]:
    """Return the committed results by model."""
    found = {path.stem.removeprefix("power-"): path for path in sorted(folder.glob("power-*.json"))}
    return {name: Result.from_dict(json.loads(path.read_text(encoding="utf-8"))) for name, path in found.items()}


def page(text: str, known: Mapping[str, Result]) -> str:
    """Return the page with every table between its two marks made anew."""
    made = {"catalogue": _catalogue()}
    for name, result in known.items():
        made |= {
            f"{name} faults": _faults(result),
            f"{name} checks": _checks(result),
            f"{name} matrix": _matrix(result),
        }

    def anew(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{made[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- ([\w@: -]+) -->\n.*?<!-- end -->", anew, text, flags=re.DOTALL)


def section(known: Mapping[str, Result]) -> dict[str, object]:
    """Return the record of the section in docs/reliability.md: a row each fault and model."""
    rows = [
        [name, row["fault"], f"{row['fired']:,}", str(row["caught_by"]), str(row["caught_alone_by"])]
        for name, result in known.items()
        for row in _of(result, "fault")
    ]
    text = [f"{name}: {result.sentence}" for name, result in known.items()]
    text.append("Which check catches which: [power](power.md).")
    return {
        "title": "Planted faults",
        "text": text,
        "columns": ["model", "fault", "fired", "caught by", "alone by"],
        "rows": rows,
    }


def _of(result: Result, part: str) -> list[Row]:
    return [row for row in result.rows if row["part"] == part]


def _catalogue() -> str:
    rows = []
    for number, fault in enumerate(FAULTS[::2]):
        sometimes = FAULTS[2 * number + 1]
        other = f"`@{sometimes.when}`: {WHEN[sometimes.when]}"
        rows.append([f"`{fault.name}`", fault.touches, f"[{fault.stands_for}]({fault.reference})", other])
    return table(["fault", "goes wrong in", "stands for", "its other form"], rows)


def _faults(result: Result) -> str:
    rows = []
    for row in _of(result, "fault"):
        alone = str(row["alone"]).split(", ")
        few = ", ".join(f"`{name}`" for name in alone[:3] if name) + (
            f", {len(alone) - 3} more" if len(alone) > 3 else ""
        )
        rows.append([f"`{row['fault']}`", f"{row['fired']:,}", row["caught_by"], row["caught_alone_by"], few])
    return table(["fault", "fired", "checks that catch it", "alone", "which"], rows)


def _checks(result: Result) -> str:
    names = {fault.name for fault in FAULTS}
    rows = []
    for row in _of(result, "check"):
        alone = sum(row.get(name) == "alone" for name in names)
        rows.append([f"`{row['check']}`", f"{row['rows']:,}", row["caught"], alone, row["adds"]])
    return table(["check", "rows", "catches", "alone", "that no cheaper check catches in that way"], rows)


def _matrix(result: Result) -> str:
    halves = [FAULTS[::2], FAULTS[1::2]]
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(halves[0])]
    lines = [f"{'':28}  always       sometimes", f"{'check':28}  {letters}  {letters}"]
    for row in _of(result, "check"):
        signs = ["".join(_sign(row, fault.name) for fault in half) for half in halves]
        lines.append(f"{row['check']:28}  {'  '.join(signs)}".rstrip())
    key = ", ".join(f"{letter} {fault.defect}" for letter, fault in zip(letters, halves[0], strict=True))
    signs = "".join(f"- `{SIGNS.get(word, 'blank')}` {meaning}\n" for word, meaning in OUTCOMES.items())
    return "```text\n" + "\n".join(lines) + f"\n```\n\n{key}.\n\n{signs}"


def _sign(row: Row, fault: str) -> str:
    """Return the sign of an outcome; a dash for a fault that was not planted."""
    return SIGNS.get(str(row[fault]), " ") if fault in row else "-"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


if __name__ == "__main__":
    found = results()
    atomic_write(PAGE, page(PAGE.read_text(encoding="utf-8"), found))
    atomic_write(RECORDS / "power.json", json.dumps(section(found), indent=1, ensure_ascii=False) + "\n")
