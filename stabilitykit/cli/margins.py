"""`stabilitykit margins FILE`: which prompts will say something else on another device?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.cli import files
from stabilitykit.cli.one_model import add_shared, model_of, option, settings_of, write_report
from stabilitykit.errors import UsageError
from stabilitykit.typed import whole

if TYPE_CHECKING:
    from stabilitykit.results.result import Result
    from stabilitykit.settings import Settings

HELP = "forecast which prompts will say something else on another device"
_TOKENS, _AT_RISK = 64, 0.05
_WIDTH = 120
_COLUMNS = ("risk", "at most", "seen", "ties", "keep", "weakest choice", "prompt")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("prompts", metavar="FILE", nargs="?", default=None, help=option("prompts").help)
    add_shared(parser)
    parser.add_argument("--tokens", default=_TOKENS, metavar="N", help=f"tokens to generate (default: {_TOKENS})")
    parser.add_argument(
        "--at-risk", default=_AT_RISK, metavar="P", help=f"a prompt at risk is likelier to change (default: {_AT_RISK})"
    )
    parser.add_argument("--wide", action="store_true", help="ask a float32 copy of the model as well")
    parser.add_argument("--json", metavar="FILE", help="write the whole result")
    parser.add_argument("--csv", metavar="FILE", help="write a row each prompt, token, way of computing and advice")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Measure; return the exit status, 1 if a prompt is at risk, and the lines to print."""
    settings = settings_of(given, prompts=given.prompts)
    tokens, at_risk = whole("tokens", given.tokens, 1), _share("at-risk", given.at_risk)
    files.writable(given, "json", "csv")
    from stabilitykit.measurements.margins import Margins
    from stabilitykit.measurements.measure import measure

    asked = Margins(settings.prompts, tokens, at_risk=at_risk, wide=given.wide)
    result = measure(asked, model_of(settings))
    written = _write(given, settings, result, words)
    return int(result.readings["prompts_at_risk"].value > 0), [*lines(result), *written]


def lines(result: Result) -> list[str]:
    """Return the table of prompts, the likeliest to change first, the sentence, and the advice; text is escaped."""
    from stabilitykit.report.text import aligned, shown

    prompts, advice = ([row for row in result.rows if row["part"] == part] for part in ("prompt", "advice"))
    cells = [list(_COLUMNS), *(_cells(row) for row in prompts)]
    cut = [line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..." for line in aligned(cells)]
    return [*cut, shown(result.sentence), *(f"- {shown(row['advice'])}" for row in advice)]


def _cells(row: Any) -> list[str]:
    from stabilitykit.measurements.advice import percent
    from stabilitykit.report.text import shortened, shown

    choice = f"{row['weakest_position']}: {row['weakest_token']!r} or {row['weakest_rival']!r}"
    chances = [percent(row[name]) for name in ("forecast", "high")]
    counts = [str(row[name]) for name in ("flips_seen", "exact_ties")]
    kept = f"{row['keep']} of {row['tokens']}"
    return [*chances, *counts, kept, shortened(shown(choice), 34), shown(row["prompt"])]


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
        written.append(write_report(settings, result, "margins", words))
    return [f"written: {path}" for path in written]
