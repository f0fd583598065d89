r"""The text of a baseline file: one JSON object a line, sorted, each with its checksum.

    {"format": "stabilitykit baseline", "schema": 1, "stabilitykit": "0.1.0", "sum": "..."}
    {"setting": "1f0c...", "identity": {...}, "context": {...}, "sum": "..."}
    {"check": "first_change[tiny-float32]", "readings": {...}, ..., "sum": "..."}
    {"direction": "9a01...", "bits": "...", "sum": "..."}
    {"end": "stabilitykit baseline", "sum": "..."}

The sum is the CRC-32 of the line before it: it finds every damage within 32 bits. The last line tells a file that was
cut. A line depends on no other, so that git can merge two branches that each add some.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from typing import Any

import stabilitykit
from stabilitykit.baselines.entry import Entry, Key, Setting
from stabilitykit.baselines.strict import Fields, parsed
from stabilitykit.errors import UnreadableError

SCHEMA = 1
FORMAT = "stabilitykit baseline"
_LINE = re.compile(r'(\{.+), "sum": "([0-9a-f]{8})"\}')
_CONFLICT = re.compile(r"(<{7}|={7}|>{7}|\|{7})( |$)")
_AGAIN = "take one side of it from version control, or save it anew"


def render(entries: Iterable[Entry]) -> str:
    """Return the file's text: the same for the same entries, in whatever order they come."""
    ordered = sorted(entries, key=lambda entry: (entry.check, entry.setting.numeric))
    settings = {entry.setting.key: entry.setting for entry in ordered}
    bits = {digest: raw for entry in ordered for digest, raw in entry.bits.items()}
    found: list[dict[str, Any]] = [{"format": FORMAT, "schema": SCHEMA, "stabilitykit": stabilitykit.__version__}]
    for key, setting in sorted(settings.items()):
        found.append({"setting": key, "identity": dict(setting.identity), "context": dict(setting.context)})
    found += [entry.to_plain() for entry in ordered]
    found += [{"direction": digest, "bits": raw.hex()} for digest, raw in sorted(bits.items())]
    return "".join(_summed(data) + "\n" for data in [*found, {"end": FORMAT}])


def parse(text: str, name: str) -> dict[Key, Entry]:
    """Return the entries of a file's text; UnreadableError, with the line, for anything that was not written here."""
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    found = [_checked(line, f"{name}, line {number}") for number, line in enumerate(lines, 1)]
    _header(found[0], name)
    if "end" not in found[-1]:
        raise UnreadableError(f"{name} is cut short: its last line is missing; {_AGAIN}")
    kinds: dict[str, list[Fields]] = {"setting": [], "check": [], "direction": []}
    for fields in found[1:-1]:
        # A line of a check names its setting too, so the kinds are looked for in another order.
        kind = next((kind for kind in ("check", "direction", "setting") if kind in fields), None)
        if kind is None:
            raise UnreadableError(f"{fields.where}: this is no line of a baseline")
        kinds[kind].append(fields)
    settings = dict(_setting(fields) for fields in kinds["setting"])
    bits = dict(_bits(fields) for fields in kinds["direction"])
    entries: dict[Key, Entry] = {}
    for fields in kinds["check"]:
        entry = Entry.from_plain(fields, settings, bits)
        if entry.key in entries:
            raise UnreadableError(f"{fields.where}: {entry.check} is there twice for one numeric environment; {_AGAIN}")
        entries[entry.key] = entry
    return entries


def _header(fields: Fields, name: str) -> None:
    if "format" not in fields or fields.text("format") != FORMAT:
        raise UnreadableError(f"{name} is no baseline of stabilitykit; name a file that --stability-save wrote")
    fields.only("format", "schema", "stabilitykit")
    schema = fields.whole("schema")
    if schema != SCHEMA:
        version = ascii(fields.text("stabilitykit"))[1:-1][:60]
        raise UnreadableError(
            f"{name} has schema {schema!r}, written by stabilitykit {version}; this one reads {SCHEMA}: use that "
            "version, or save it anew"
        )


def _checked(line: str, where: str) -> Fields:
    if _CONFLICT.match(line):
        raise UnreadableError(f"{where}: a merge conflict was left in it; {_AGAIN}")
    match = _LINE.fullmatch(line)
    if match is None:
        if '"sum"' not in line:
            raise UnreadableError(f"{where}: this is no line of a baseline of stabilitykit; {_AGAIN}")
        raise UnreadableError(f"{where}: it is damaged or was edited; {_AGAIN}")
    if match[2] != _sum(match[1]):
        raise UnreadableError(f"{where}: its checksum does not hold, it is damaged or was edited; {_AGAIN}")
    return Fields(parsed(match[1] + "}", where), where)


def _setting(fields: Fields) -> tuple[str, Setting]:
    fields.only("setting", "identity", "context")
    setting = Setting(fields.facts("identity"), fields.facts("context"))
    if setting.key != fields.text("setting"):
        raise UnreadableError(f"{fields.where}: the setting is not what its digest says")
    return setting.key, setting


def _bits(fields: Fields) -> tuple[str, bytes]:
    fields.only("direction", "bits")
    try:
        raw = bytes.fromhex(fields.text("bits"))
    except ValueError:
        raise UnreadableError(f"{fields.where}: bits are no hexadecimal bytes") from None
    if len(raw) % 8:
        raise UnreadableError(f"{fields.where}: bits are not those of whole float64 numbers")
    return fields.text("direction"), raw


def _summed(data: dict[str, Any]) -> str:
    first, *rest = data  # what a line is of comes first, the rest by name
    ordered = {name: data[name] for name in (first, *sorted(rest))}
    text = json.dumps(_sorted(ordered), allow_nan=False)[:-1]
    return f'{text}, "sum": "{_sum(text)}"}}'


def _sorted(data: dict[str, Any]) -> dict[str, Any]:
    return {name: json.loads(json.dumps(value, sort_keys=True, allow_nan=False)) for name, value in data.items()}


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
