"""Input that nobody would write: valid files with bytes, fields, values and texts changed at random."""

from __future__ import annotations

import copy
import json
from typing import Any

from numpy.random import Generator

TEXTS = (
    "",
    " ",
    "x",
    "\x00",
    "\x1b[31m\n\r",
    "\u202e\u2028",
    "\ud800",
    "../../etc/passwd",
    "C:\\con",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "nan",
    "Infinity",
    "0x1p+99999",
    "-0",
    "1e400",
    "9" * 5000,
    "1" * 10_000,
    "x" * 20_000,
    "((((((((((((((((((((a+)+)+)+)+",
    "*" * 60,
    "__class__",
    "\ufeff#",
    "٣",
)
"""What breaks parsers: control characters, lone surrogates, numbers beyond all types, paths, markup, formulas."""

DEPTHS = (40, 400, 960, 5_000, 100_000)
NUMBERS = (0, -1, 1, 2, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"))


def text(random: Generator) -> str:
    """Return one of TEXTS, or a few characters of any kind."""
    if random.random() < 0.5:
        return str(pick(random, TEXTS))
    planes = ((0, 0x80), (0, 0x3000), (0xD7F0, 0x10000), (0x1F600, 0x1F640))
    low, high = pick(random, planes)
    return "".join(chr(code) for code in random.integers(low, high, random.integers(12)).tolist())


def value(random: Generator) -> Any:
    """Return a JSON value that no field expects."""
    simple = [None, True, False, [], {}, [[]], {"a": {}}, [None], pick(random, NUMBERS), text(random)]
    return copy.deepcopy(pick(random, simple))


def tree(random: Generator, data: Any, edits: int = 3) -> Any:
    """Return a copy of JSON data in which up to `edits` values are replaced, removed, renamed, repeated or swapped."""
    data = copy.deepcopy(data)
    for _ in range(1 + random.integers(edits)):
        holders = [one for one in _inside(data) if len(one)]
        if not holders:
            return value(random)
        _edit(random, pick(random, holders))
    return data


def _edit(random: Generator, holder: dict | list) -> None:
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    place, other = pick(random, places), pick(random, places)
    kind = int(random.integers(6))
    if kind < 3:
        holder[place] = value(random)
    elif kind == 3:
        del holder[place]
    elif kind == 4:
        holder[place], holder[other] = holder[other], holder[place]
    elif isinstance(holder, dict):
        holder[text(random)] = copy.deepcopy(holder[place])
    else:
        holder.append(copy.deepcopy(holder[place]))


def _inside(data: Any):
    if isinstance(data, dict | list):
        yield data
        for inner in data.values() if isinstance(data, dict) else data:
            yield from _inside(inner)


def spelled(random: Generator, data: Any) -> str:
    """Return JSON text of mutated data, now and then with a name twice, too deep, or with another number in it."""
    written = json.dumps(tree(random, data), ensure_ascii=bool(random.integers(2)))
    odd = int(random.integers(12))
    if odd == 0:
        depth = pick(random, DEPTHS)
        return written[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    if odd == 1:
        return written.replace("{", '{"a": 1, "a": 2, ', 1)
    if odd == 2:
        return written.replace(": ", f": {pick(random, ['9' * 5000, '-', 'NaN', '1e999', '01', 'nul'])}, ", 1)
    return written


def raw(random: Generator, content: bytes) -> bytes:
    """Return bytes with up to four cuts, flips, insertions or repetitions."""
    for _ in range(1 + random.integers(4)):
        at = int(random.integers(len(content) + 1))
        size = int(random.choice([1, 1, 2, 8, 64, 1000]))
        kind = int(random.integers(6))
        if kind == 0:
            content = content[:at]
        elif kind == 1 and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1 << int(random.integers(8))]) + content[at + 1 :]
        elif kind == 2:
            content = content[:at] + content[at + size :]
        elif kind == 3:
            content = content[:at] + content[at : at + size] + content[at:]
        elif kind == 4:
            content = content[:at] + random.bytes(size) + content[at:]
        else:
            content = content[:at] + text(random).encode(errors="surrogatepass") + content[at:]
    return content


def pick(random: Generator, values: Any) -> Any:
    """Return one of a few values, unchanged by numpy."""
    return values[int(random.integers(len(values)))]
