"""`stabilitykit compare A B`: two recordings of a generation, or two files of tensors, bit by bit."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import UsageError

if TYPE_CHECKING:
    from stabilitykit.results.result import Result
    from stabilitykit.traces.tensor_files import Compared

HELP = "compare two recordings, or two files of tensors, bit by bit; exit 1 where they differ"
_MOST, _NAME, _PROMPT = 40, 44, 36


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("left", metavar="A", type=Path, help="a recording's folder, or a .safetensors or .npy file")
    parser.add_argument("right", metavar="B", type=Path, help="another one")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")
    parser.add_argument("--report", metavar="DIR", help="of recordings: write the report into this folder")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Compare; return 1 where anything differs, else 0, and the lines to print."""
    folders = [path.is_dir() for path in (given.left, given.right)]
    if all(folders):
        return _recordings(given, words)
    if any(folders):
        raise UsageError(f"{given.left} and {given.right} are a folder and a file; name two of one kind")
    if given.report:
        raise UsageError("a report is written of recordings, which are folders; files of tensors have --json")
    return _files(given)


def _recordings(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    from stabilitykit.measurements.measure import measure
    from stabilitykit.report import write_one
    from stabilitykit.traces.compare import TraceComparison
    from stabilitykit.traces.store import read_recording

    a, b = read_recording(given.left), read_recording(given.right)
    result = measure(TraceComparison(a), b, progress=False)
    status = int(result.verdict == "differs")
    written = []
    if given.report:
        command = shlex.join(["stabilitykit", "compare", *words])
        settings = {"reference": str(given.left), "recording": str(given.right)}
        written = [f"written: {write_one(result, given.report, result.check_id, command, settings)}"]
    if given.json:
        return status, [result.to_json()]
    return status, [*_told(result), *written]


def _told(result: Result) -> list[str]:
    """Return a line for each prompt, the earliest divergence first, and the sentence."""
    from stabilitykit.report.text import shown

    prompts = [row for row in result.rows if row["part"] == "prompt"]
    prompts.sort(key=lambda row: (row["divergence_index"] is None, row["agreed"], row["number"]))
    lines = [f"{'prompt':<{_PROMPT}}  tokens agree  bits part at (step, stage)"]
    lines += [_prompt(row) for row in prompts[:_MOST]]
    if len(prompts) > _MOST:
        lines.append(f"... and {len(prompts) - _MOST} more; --json has them all")
    return [*lines, "", shown(result.sentence)]


def _prompt(row: Mapping[str, Any]) -> str:
    from stabilitykit.report.text import shortened, shown

    name = shortened(shown(row["prompt"]), _PROMPT)
    agreed = f"{row['agreed']} of {row['tokens']}"
    where = "none" if row["first_step"] is None else f"{row['first_step']}, {row['op'] or row['stage']}"
    return f"{name:<{_PROMPT}}  {agreed:<12}  {where}{shown(_call(row))}"


def _call(row: Mapping[str, Any]) -> str:
    """Return what both sides said where the texts part."""
    if row["divergence_index"] is None:
        return ""
    if row["token_id"] is None:
        return "; one text ends there"
    sides = [f"{row[f'{side}token']!r} by {row[f'{side}margin']:.3g}" for side in ("", "other_")]
    return f"; {sides[0]} against {sides[1]} logit"


def _files(given: argparse.Namespace) -> tuple[int, list[str]]:
    from stabilitykit.results.plain import to_plain
    from stabilitykit.traces.tensor_files import compare

    found = compare(given.left, given.right)
    status = int(any(one.verdict != "pass" for one in found))
    if given.json:
        plain = to_plain([one.to_dict() for one in found])
        return status, [json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)]
    return status, lines(found)


def lines(found: Sequence[Compared]) -> list[str]:
    """Return a line for each tensor that differs, the farthest first, and the count; names are escaped."""
    from stabilitykit.report.text import shortened, shown

    differing = sorted((one for one in found if one.verdict != "pass"), key=_size, reverse=True)
    told = []
    for one in differing[:_MOST]:
        told.append(f"{shortened(shown(one.name), _NAME):<{_NAME}}  {shown(_said(one))}")
    if len(differing) > _MOST:
        told.append(f"... and {len(differing) - _MOST} more; --json has them all")
    if not differing:
        return [f"All {len(found)} tensors are the same, bit for bit."]
    return [*told, f"{len(differing)} of {len(found)} tensors differ."]


def _size(one: Compared) -> tuple[bool, float]:
    return bool(one.structure), one.difference.max_scaled_ulp if one.difference else float(one.differing)


def _said(one: Compared) -> str:
    if one.structure:
        return one.structure
    text = f"{one.dtype} {list(one.shape)}: {one.differing} of {math.prod(one.shape)} elements differ"
    if one.difference is None:
        return f"{text}, the first at {list(one.first or ())}"
    found = one.difference
    kinds = [f"{found.max_ulp} ULP", f"{found.max_scaled_ulp:.3g} scaled ULP at most", f"L2 {found.l2:.3g}"]
    for count, what in (
        (found.signed_zeros, "zeros of the other sign"),
        (found.nan_payload, "NaNs of other bits"),
        (found.nan_mismatch, "NaNs against numbers"),
    ):
        if count:
            kinds.append(f"{count} {what}")
    worst = found.worst
    where = f"; the first at {list(one.first or ())}"
    if worst:
        sides = f"{worst.left:.9g} ({worst.left_bits}) against {worst.right:.9g} ({worst.right_bits})"
        where = f"; worst at {list(worst.index)}: {sides}"
    return f"{text}, {', '.join(kinds)}{where}"
