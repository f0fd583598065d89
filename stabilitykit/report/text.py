r"""Text that others wrote (prompts, tokens, paths, messages) made harmless and visible, and taken back.

Two forms. `shown` is for reading: what would not print becomes an escape, all else stays. `guarded` is for csv: the
same escapes, a doubled backslash, and an escape for a character that would make a spreadsheet compute the cell; it is
reversible, and `unguarded` gives the exact text back. Escapes are Python's: `\n`, `\x00`, `\u202e`, `\U000e0001`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_BACK = {escape[1]: character for character, escape in _NAMED.items()} | {"\\": "\\"}
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt\\])")
# At the start, or after what a spreadsheet in another locale may take for a separator or a quote. The full-width
# forms count too: East Asian editions evaluate them.
_FORMULA = re.compile(r"(^|[;,|\"'])(\s*)([=+\-@＝＋－＠])")


def shown(text: object, keep: str = "") -> str:
    """Return `text` with every unprintable character (control, bidi, surrogate, unassigned) as a visible escape."""
    return _escaped(str(text), keep)


def guarded(text: object) -> str:
    """Return a csv cell that no spreadsheet computes and no reader splits; `unguarded` undoes it exactly."""
    return _FORMULA.sub(lambda m: m[1] + m[2] + _code(m[3]), _escaped(str(text).replace("\\", "\\\\"), ""))


def unguarded(cell: str) -> str:
    """Return the text that `guarded` was given."""
    return _ESCAPE.sub(lambda m: _BACK.get(m[1]) or chr(int(m[1][1:], 16)), cell)


def shortened(text: str, width: int) -> str:
    """Return `text` cut to `width` characters, with three dots where it was cut."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def aligned(rows: Sequence[Sequence[str]], sides: str = "<") -> list[str]:
    """Return a line a row, its columns under each other; `sides` has `<` or `>` a column, the last for all more."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    placed = sides + sides[-1] * (len(widths) - len(sides))
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, placed, widths, strict=True)).rstrip()
        for row in rows
    ]


def _escaped(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _NAMED.get(c) or _code(c) for c in text)


def _code(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
