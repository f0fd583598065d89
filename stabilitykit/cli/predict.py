"""`stabilitykit predict FILE`: how well is each next word of a document predicted, and which words hang by a thread?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.cli import files
from stabilitykit.cli.one_model import add_shared, model_of, settings_of, write_report
from stabilitykit.errors import UsageError
from stabilitykit.typed import whole

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

HELP = "predict a document word by word, and name the words that hang by a thread"
_TOP = 2
_SHOWN = 12
_COLUMNS = ("word", "margin", "in ULP", "chance", "comes", "predicted", "nearly")
_WIDTH = 24
_FILE_END, _JOURNAL_END = ".words.csv", ".journal"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("document", metavar="FILE", help="text, Markdown or PDF")
    add_shared(parser)
    parser.add_argument("--window", metavar="N", help="tokens that are read at once (default: 1024, or the context)")
    parser.add_argument("--stride", metavar="N", help="tokens from one window to the next (default: half of it)")
    parser.add_argument("--top", default=_TOP, metavar="K", help=f"predictions to keep of each word (default: {_TOP})")
    parser.add_argument("--tokens", metavar="N", help="read no more than so many")
    parser.add_argument("--output", metavar="FILE", help=f"a row a word, csv (default: FILE{_FILE_END}, here)")
    parser.add_argument("--json", metavar="FILE", help="write the whole result")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run that was stopped, if one was")
    again.add_argument("--fresh", action="store_true", help="forget the run that was stopped")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Measure; return the exit status and the lines to print."""
    settings = settings_of(given)
    window, stride, tokens = (_number(given, name) for name in ("window", "stride", "tokens"))
    top = whole("top", given.top, 1)
    given.output = given.output or f"{Path(given.document).name}{_FILE_END}"
    files.writable(given, "output", "json")
    journal = _journal(given)
    from stabilitykit.measurements.measure import measure
    from stabilitykit.measurements.prediction import WordByWord
    from stabilitykit.measurements.resumable import resumable
    from stabilitykit.subjects.document import read_document

    # What cannot be read is said before a model is loaded.
    asked = WordByWord(read_document(Path(given.document)), window, stride, top, tokens)
    with resumable(journal):
        result = measure(asked, model_of(settings))
    written = [_table(Path(given.output), result)]
    journal.unlink()
    if given.json:
        written.append(files.write_json(given.json, result))
    if settings.report:
        written.append(write_report(settings, result, "predict", words))
    return 0, [*lines(result), *(f"written: {path}" for path in written)]


def lines(result: Result) -> list[str]:
    """Return the words with the smallest margins, the summary, and the sentence; text is escaped."""
    from stabilitykit.report.text import aligned, shown

    rows = sorted(
        (row for row in result.rows if row["part"] == "word"), key=lambda row: (row["weakest_margin"], row["number"])
    )
    cells = [_COLUMNS, *(_cells(row) for row in rows[:_SHOWN])]
    return [*aligned(cells), *_summary(result), shown(result.sentence)]


def _summary(result: Result) -> list[str]:
    found = {name: reading.value for name, reading in result.readings.items()}
    return [
        f"words {found['words']:.0f}, tokens {found['tokens']:.0f}",
        f"accuracy {found['accuracy']:.1%} of the words, {found['first_token_accuracy']:.1%} of their first tokens",
        f"perplexity {found['perplexity']:.4g}, {found['bits_per_character']:.3g} bits a character, "
        f"median rank {found['median_rank']:g}, median probability {found['median_probability']:.3g}",
        f"fragile {found['fragile_share']:.2%} of the words, exact ties {found['exact_ties']:.0f}, "
        f"expected flips {found['expected_flips']:.2g}, noise {found['noise']:.3g} logit",
    ]


def _cells(row: Any) -> tuple[str, ...]:
    from stabilitykit.measurements.advice import percent
    from stabilitykit.report.text import shortened, shown

    texts = [shortened(shown(repr(row[name])), _WIDTH) for name in ("word", "weakest", "weakest_rival")]
    numbers = [f"{row['weakest_margin']:.3g}", f"{row['weakest_margin_ulp']:.3g}", percent(row["flip_probability"])]
    return str(row["number"]), *numbers, *texts


def _number(given: argparse.Namespace, name: str) -> int | None:
    text = getattr(given, name)
    return None if text is None else whole(name, text, 1)


def _journal(given: argparse.Namespace) -> Path:
    """Return where the steps are kept; UsageError for those of a stopped run that nobody said what to do with."""
    path = Path(f"{given.output}{_JOURNAL_END}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and the journal's name; name another output")
    if given.fresh:
        path.unlink(missing_ok=True)
    elif path.exists() and not given.resume:
        raise UsageError(f"{path} is of a run that was stopped; go on with --resume, or begin anew with --fresh")
    return path


def _table(path: Path, result: Result) -> Path:
    """Write a row a word."""
    from stabilitykit.report.csv import table
    from stabilitykit.results.atomic import atomic_write

    rows = [row for row in result.rows if row["part"] == "word"]
    atomic_write(path, table([name for name in rows[0] if name != "part"], rows))
    return path
