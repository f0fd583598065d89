"""`stabilitykit compare A B`: two files of tensors, bit by bit."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stabilitykit.traces.tensor_files import Compared

HELP = "compare two files of tensors bit by bit; exit 1 where a bit differs"
_MOST, _NAME = 40, 44


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("left", metavar="A", type=Path, help="a .safetensors or .npy file")
    parser.add_argument("right", metavar="B", type=Path, help="another one")
    parser.add_argument("--json", action="store_true", help="print every tensor as JSON")


def run(given: argparse.Namespace, _words: Sequence[str]) -> tuple[int, list[str]]:
    """Compare; return 1 where anything differs, else 0, and the lines to print."""
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
        return text
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
    where = f"; worst at {list(worst.index)}: {worst.left:.9g} ({worst.left_bits}) against " if worst else ""
    return f"{text}, {', '.join(kinds)}{where}{f'{worst.right:.9g} ({worst.right_bits})' if worst else ''}"
