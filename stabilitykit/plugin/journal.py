"""The run's records as they arrive, one line each on disk: a crash after hours loses nothing that was measured."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

NAME = "journal.jsonl"
FORMER = "journal.previous.jsonl"
_HEAD, _MIDDLE = '{"crc":"', '","record":'


class Journal:
    """Appends to one file; the file of the run before is kept under another name, as that run may have crashed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._begun = False

    def append(self, record: str) -> None:
        """Add one record, given as JSON on one line, by a single write that the system appends whole."""
        if not self._begun:
            self._begin()
        line = f"{_HEAD}{_crc(record)}{_MIDDLE}{record}}}\n".encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_name(FORMER))
        self._begun = True


def read(path: Path) -> tuple[list[str], int]:
    """Return the records whose checksum holds, as JSON, and how many lines were torn or damaged."""
    lines = path.read_bytes().split(b"\n")
    records = [record for line in lines if (record := _checked(line)) is not None]
    return records, sum(1 for line in lines if line) - len(records)


def _checked(line: bytes) -> str | None:
    text = line.decode("utf-8", errors="replace")
    crc, middle, record = text[len(_HEAD) : len(_HEAD) + 8], len(_HEAD) + 8, text[len(_HEAD) + 8 + len(_MIDDLE) : -1]
    whole = text.startswith(_HEAD) and text.startswith(_MIDDLE, middle) and text.endswith("}")
    return record if whole and crc == _crc(record) else None


def _crc(record: str) -> str:
    return f"{zlib.crc32(record.encode()):08x}"
