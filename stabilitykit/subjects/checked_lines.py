"""Lines that a killed process leaves whole or not at all: each begins with the checksum of its text."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path


def append_lines(path: Path, texts: Iterable[str], *, sync: bool = False) -> None:
    """Add lines to a file, which is made where it is missing; with `sync` they are on the disk when this returns."""
    with path.open("a", encoding="utf-8", newline="") as file:
        file.writelines(f"{zlib.crc32(text.encode()):08x} {text}\n" for text in texts)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def whole_lines(path: Path) -> list[str]:
    """Return the texts of a file up to the first torn or damaged line, and cut the file off there."""
    if not path.exists():
        return []
    found, whole = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not _is_whole(line):
            break
        found.append(line[9:-1].decode())
        whole += len(line)
    with path.open("r+b") as file:
        file.truncate(whole)
    return found


def may_be_ours(path: Path) -> bool:
    """Whether the first line is whole, or there is none yet: what another program wrote must not be cut off."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        first = file.readline()
    return not first.endswith(b"\n") or _is_whole(first)


def _is_whole(line: bytes) -> bool:
    crc, _, text = line[:-1].partition(b" ")
    return line.endswith(b"\n") and crc == f"{zlib.crc32(text):08x}".encode()
