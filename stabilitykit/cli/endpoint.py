"""`stabilitykit endpoint URL`: does a server say the same again at temperature 0, alone and under load?"""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.cli import files
from stabilitykit.prompts import DEFAULT_PROMPTS, read_prompts
from stabilitykit.typed import seconds, whole

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

HELP = "ask a server the same again, alone and under load"
_TOKENS, _REPEATS, _CONCURRENCY, _TIMEOUT = 64, 8, "2,4,8", 120.0
_STATUS = {"measured": 0, "differs": 1, "invalid": 3}
_LEVELS = {
    "at once": "concurrency",
    "requests": "requests",
    "failed": "failed",
    "differ": "flips",
    "rate below": "rate_bound",
    "completions": "unique",
    "under way": "under_way",
    "speed-up": "speed_up",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("url", metavar="URL", help="address of the server, such as http://localhost:8000/v1")
    parser.add_argument("--served-model", metavar="NAME", help="the model's name there (default: the only one)")
    parser.add_argument("--prompts", metavar="FILE", help="UTF-8 file of prompts, one a line (default: five of ours)")
    for name, default, metavar, about in (
        ("tokens", _TOKENS, "N", "tokens to generate"),
        ("repeats", _REPEATS, "N", "requests a prompt, alone and at each load"),
        ("concurrency", _CONCURRENCY, "LIST", "requests at the same moment"),
        ("seed", 0, "N", "the seed that is tried at temperature 1"),
        ("timeout", _TIMEOUT, "SECONDS", "longest wait for an answer"),
    ):
        parser.add_argument(f"--{name}", default=default, metavar=metavar, help=f"{about} (default: {default})")
    api = parser.add_mutually_exclusive_group()
    api.add_argument("--completions", dest="api", action="store_const", const="completions", help="the default")
    api.add_argument("--chat", dest="api", action="store_const", const="chat", help="ask as a user's message")
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable that holds the key (default: OPENAI_API_KEY)"
    )
    parser.add_argument("--report", metavar="DIR", help="write the report into this folder")
    files.add(parser, "level, prompt, request and text")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Ask; return the exit status, 1 if a completion differs and 3 if nothing can be claimed, and what to print."""
    prompts = DEFAULT_PROMPTS if given.prompts is None else read_prompts(Path(given.prompts))
    tokens, repeats, seed = (whole(name, getattr(given, name), 0) for name in ("tokens", "repeats", "seed"))
    levels = tuple(whole("concurrency", part.strip(), 0) for part in str(given.concurrency).split(","))
    timeout = seconds("timeout", given.timeout)
    files.writable(given, "json", "csv")
    files.folder("report", given.report)
    from stabilitykit.endpoints.endpoint import Endpoint
    from stabilitykit.endpoints.served_determinism import ServedDeterminism
    from stabilitykit.measurements.measure import measure

    endpoint = Endpoint(
        given.url,
        given.served_model,
        api=given.api or "completions",
        key_variable=given.api_key_env,
        timeout=timeout,
    )
    result = measure(ServedDeterminism(prompts, tokens, repeats, levels, seed), endpoint)
    written = files.write(given, result)
    if given.report:
        written.append(_report(given, result, words))
    return _STATUS[result.verdict], [*lines(result), *(f"written: {path}" for path in written)]


def lines(result: Result) -> list[str]:
    """Return the table of levels, how each prompt that differs goes on, and the sentence; text is escaped."""
    from stabilitykit.report.text import aligned, shortened, shown

    levels, prompts = ([row for row in result.rows if row["part"] == part] for part in ("level", "prompt"))
    cells = [list(_LEVELS), *([_cell(row[column], column) for column in _LEVELS.values()] for row in levels)]
    apart = [
        f"{shortened(shown(row['prompt']), 40)}: token {_cell(row['first_differing_token'])}, alone "
        f"{shown(repr(row['goes_on']))}, else {shown(repr(row['goes_on_else']))}"
        for row in prompts
        if row["flips"]
    ]
    return [*aligned(cells, ">"), *apart, shown(result.sentence)]


def _cell(value: Any, column: str = "") -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "?"
    # A bound that is rounded down claims more than was proven.
    return f"{math.ceil(1000 * value) / 1000:.3f}" if column == "rate_bound" else f"{value:.3g}"


def _report(given: argparse.Namespace, result: Result, words: Sequence[str]) -> Path:
    from stabilitykit.report import write_one

    name = re.sub(r"[^\w.@-]+", "_", re.split(r"[/\\]", str(result.subject["name"]).rstrip("/\\"))[-1])
    command = shlex.join(["stabilitykit", "endpoint", *words])
    check_id = f"{result.check_id}[{name}-{result.subject['api']}]"
    return write_one(result, given.report, check_id, command, {**result.subject, **result.parameters})
