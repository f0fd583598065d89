"""The run as it goes on, one line each on disk: a crash after hours loses nothing that was measured.

A line is `{"crc":"8 digits","KIND":DATA}`: first a `header`, which says what run this is, then a `record` for each
check, and `done` when a test is over, with its outcome and how many records it left. A resumed run adds a header.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.report.text import shortened, shown
from stabilitykit.results.atomic import sync_folder, unwritable
from stabilitykit.results.forms import Maybe, check

NAME = "journal.jsonl"
FORMER = "journal.previous.jsonl"
_FORMS: dict[str, dict[str, Any]] = {
    "header": {"identity": dict},
    "record": {"nodeid": str},
    "done": {"nodeid": str, "records": int, "outcome": str, "message": str, "source": str, "code": Maybe(int)},
}
_LINE = re.compile(r'\{"crc":"([0-9a-f]{8})","(header|record|done)":(.*)\}', re.DOTALL)


class Journal:
    """Appends to one file. A new run keeps the file of the run before under another name; a resumed one goes on."""

    def __init__(self, folder: Path, header: str, *, resumed: bool = False) -> None:
        self.path = folder / NAME
        self._header = header
        self._resumed = resumed
        self._begun = False
        self.problem = ""

    def append(self, data: str, kind: str = "record") -> None:
        """Add one line of JSON, written through to the disk; what a killed run left torn stays a line of its own."""
        self.begin()
        self._write(kind, data)

    def keep(self, data: str, kind: str = "record") -> None:
        """As `append`, but a full disk stops no run: `problem` says what was not written, and nothing more is."""
        if not self.problem:
            try:
                self.append(data, kind)
            except OSError as error:
                self.problem = f"{error}; the rest of this run cannot be resumed"

    def begin(self) -> None:
        """Write the header, if it is not there yet."""
        if self._begun:
            return
        self._begun = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self._resumed and not _stillborn(self.path):
            self.path.replace(self.path.with_name(FORMER))
        self._write("header", self._header)
        sync_folder(self.path.parent)

    def _write(self, kind: str, data: str) -> None:
        line = checked(kind, data)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.lseek(descriptor, 0, os.SEEK_END):
                os.lseek(descriptor, -1, os.SEEK_END)
                line = line if os.read(descriptor, 1) == b"\n" else b"\n" + line
            while line:
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        except OSError as error:
            raise unwritable(self.path, len(line), error) from error
        finally:
            os.close(descriptor)


class Line(NamedTuple):
    """One whole line: its kind and its JSON."""

    kind: str
    text: str


@dataclass(frozen=True)
class Finished:
    """A test that was over when the run was stopped: its records as JSON, and how it ended."""

    records: tuple[str, ...]
    outcome: str
    message: str
    source: str
    code: int | None = None


@dataclass
class Contents:
    """What a journal holds: the headers, the finished tests by node id, and how many lines are torn or damaged."""

    headers: list[Mapping[str, Any]] = field(default_factory=list)
    finished: dict[str, Finished] = field(default_factory=dict)
    damaged: int = 0


def checked(kind: str, data: str) -> bytes:
    """Return one line, with its checksum and its end."""
    return f'{{"crc":"{_crc(kind, data)}","{kind}":{data}}}\n'.encode()


def lines(path: Path) -> tuple[list[Line], int]:
    """Return the lines whose checksum holds, and how many are torn or damaged."""
    found = [_checked(line) for line in path.read_bytes().split(b"\n") if line]
    whole = [line for line in found if line is not None]
    return whole, len(found) - len(whole)


def read(path: Path) -> Contents:
    """Return what a journal holds; UnreadableError where it cannot be known what run it is of.

    A test is finished if its `done` line is there with as many records as it left since the last header: what a test
    left that was interrupted does not count.
    """
    whole, damaged = lines(path)
    if not whole or whole[0].kind != "header":
        raise UnreadableError(f"{path} does not say what run it is of: its first line is damaged; measure anew")
    contents, pending = Contents(damaged=damaged), dict[str, list[str]]()
    for kind, text in whole:
        data = _of_its_form(kind, text, path)
        if kind == "header":
            contents.headers.append(data)
            pending = {}
        elif kind == "record":
            pending.setdefault(data["nodeid"], []).append(text)
        else:
            records, left = pending.pop(data["nodeid"], []), data["records"]
            if len(records) == left:
                ended = {name: data[name] for name in ("outcome", "message", "source", "code")}
                contents.finished[data["nodeid"]] = Finished(tuple(records), **ended)
    return contents


def _of_its_form(kind: str, text: str, path: Path) -> dict[str, Any]:
    """Return a line's data; a checksum that holds says that nothing was torn, not who wrote it."""
    try:
        data: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableError(f"{path}: a line of kind {kind} is no JSON, so it was not written here") from None
    named = {name: one for name, one in data.items() if name in _FORMS[kind]} if isinstance(data, dict) else data
    check(named, _FORMS[kind], f"{path}: a line of kind {kind}")
    return data


def _stillborn(path: Path) -> bool:
    """Whether a run was killed while it wrote its first line: there is nothing to go on with, and nothing to keep."""
    return b"\n" not in path.read_bytes()[: 1 << 20]


def resumable(folder: Path, identity: Mapping[str, Any]) -> Contents | None:
    """Return what the run that was stopped in this folder left, None if there was none.

    UsageError if it was another run: one that was asked for something else. UnreadableError as for `read`.
    """
    path = folder / NAME
    if not path.exists() or _stillborn(path):
        return None
    contents = read(path)
    former = contents.headers[0]["identity"]
    for name in dict.fromkeys([*former, *identity]):
        if former.get(name) != identity.get(name):
            named = shortened(shown(name), 60)
            raise UsageError(
                f"resume: {path} is of a run with {named} {_short(former.get(name))}, this one has "
                f"{_short(identity.get(name))}; ask as that run did, or measure anew without resuming"
            )
    return contents


def _short(value: Any) -> str:
    text = shown(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _checked(line: bytes) -> Line | None:
    match = _LINE.fullmatch(line.decode("utf-8", errors="replace"))
    return Line(match[2], match[3]) if match and match[1] == _crc(match[2], match[3]) else None


def _crc(kind: str, data: str) -> str:
    return f"{zlib.crc32(f'{kind}:{data}'.encode()):08x}"
