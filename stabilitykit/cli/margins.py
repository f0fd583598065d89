"""`stabilitykit margins FILE`: which prompts will say something else on another device?"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.cli import files
from stabilitykit.errors import UsageError
from stabilitykit.settings import OPTIONS, Option, Settings, resolve

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

SHARED = ("model", "dtype", "device", "attention", "experts", "load-arg", "report")
HELP = "forecast which prompts will say something else on another device"
_TOKENS, _AT_RISK = 64, 0.05
_WIDTH = 120
_COLUMNS = ("risk", "at most", "seen", "ties", "keep", "weakest choice", "prompt")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("prompts", metavar="FILE", nargs="?", default=None, help=_option("prompts").help)
    for name in SHARED:
        option = _option(name)
        action = "append" if option.kind == "list" else "store"
        shown = option.help.split(";")[0] if name == "report" else option.explained
        parser.add_argument(f"--{name}", dest=option.key, action=action, metavar=option.metavar, help=shown)
    parser.add_argument("--tokens", default=_TOKENS, metavar="N", help=f"tokens to generate (default: {_TOKENS})")
    parser.add_argument(
        "--at-risk", default=_AT_RISK, metavar="P", help=f"a prompt at risk is likelier to change (default: {_AT_RISK})"
    )
    parser.add_argument("--wide", action="store_true", help="ask a float32 copy of the model as well")
    files.add(parser, "prompt, token, way of computing and advice")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Measure; return the exit status, 1 if a prompt is at risk, and the lines to print."""
    settings = _settings(given)
    tokens, at_risk = _whole("tokens", given.tokens), _share("at-risk", given.at_risk)
    files.writable(given, getattr(given, _option("report").key))
    from stabilitykit.measurements.margins import Margins
    from stabilitykit.measurements.measure import measure
    from stabilitykit.subjects.models import load

    asked = Margins(settings.prompts, tokens, at_risk=at_risk, wide=given.wide)
    loaded = load(
        settings.models[0],
        dtype=settings.dtypes[0],
        device=settings.device,
        attention=settings.attention,
        experts=settings.experts,
        load_args=dict(settings.load_args),
    )
    result = measure(asked, loaded)
    written = _write(given, settings, result, words)
    return int(result.readings["prompts_at_risk"].value > 0), [*lines(result), *written]


def lines(result: Result) -> list[str]:
    """Return the table of prompts, the likeliest to change first, the sentence, and the advice; text is escaped."""
    from stabilitykit.report.text import shown

    prompts, advice = ([row for row in result.rows if row["part"] == part] for part in ("prompt", "advice"))
    cells = [list(_COLUMNS), *(_cells(row) for row in prompts)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS) - 1)]
    table = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in cells
    ]
    cut = [line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..." for line in table]
    return [*(line.rstrip() for line in cut), shown(result.sentence), *(f"- {shown(row['advice'])}" for row in advice)]


def _cells(row: Any) -> list[str]:
    from stabilitykit.measurements.advice import percent
    from stabilitykit.report.text import shortened, shown

    choice = f"{row['weakest_position']}: {row['weakest_token']!r} or {row['weakest_rival']!r}"
    chances = [percent(row[name]) for name in ("forecast", "high")]
    counts = [str(row[name]) for name in ("flips_seen", "exact_ties")]
    kept = f"{row['keep']} of {row['tokens']}"
    return [*chances, *counts, kept, shortened(shown(choice), 34), shown(row["prompt"])]


def _settings(given: argparse.Namespace) -> Settings:
    asked = {name: getattr(given, _option(name).key) for name in SHARED} | {"prompts": given.prompts}
    settings = resolve(lambda option: asked.get(option.name), lambda _: None, Path.cwd())
    for name, several in (("model", settings.models), ("dtype", settings.dtypes)):
        if len(several) > 1:
            raise UsageError(f"margins asks one {name} at a time, not {', '.join(several)}; run it once for each")
    return settings


def _whole(name: str, text: str | int) -> int:
    if not str(text).isdecimal() or int(text) < 1:
        raise UsageError(f"{name} {text!r} is not a whole number from 1 up")
    return int(text)


def _share(name: str, text: str | float) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"{name} {text!r} is not a number between 0 and 1")
    return share


def _write(given: argparse.Namespace, settings: Settings, result: Result, words: Sequence[str]) -> list[str]:
    """Write what was asked for; return a line for each."""
    written = files.write(given, result)
    if settings.report:
        written.append(_report(settings, result, words))
    return [f"written: {path}" for path in written]


def _report(settings: Settings, result: Result, words: Sequence[str]) -> Path:
    from stabilitykit.report import write_one

    assert settings.report is not None
    model = re.sub(r"[^\w.@-]+", "_", re.split(r"[/\\]", settings.models[0].rstrip("/\\"))[-1])
    command = shlex.join(["stabilitykit", "margins", *words])
    check_id = f"{result.check_id}[{model}-{settings.dtypes[0]}]"
    return write_one(result, settings.report, check_id, command, settings.to_dict())


def _option(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)
