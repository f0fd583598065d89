"""Files that are whole or absent: atomic writes, names that suit every file system, and no litter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

_TEMPORARY = ".stability-part"
_STALE_SECONDS = 3600.0
_PLAIN = re.compile(r"([a-z0-9_]+)(?:\[([a-z0-9_.-]*[a-z0-9_-])\])?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_LONGEST = 100


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `path` so that a reader, or a crash at any moment, meets the old file or the new one, never a part.

    Text is UTF-8 with newlines as given. The temporary file lies in the same folder, since only a rename within
    one file system is atomic.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def slugs(check_ids: Iterable[str]) -> list[str]:
    """Return one file name stem a check id: readable where the id is plain, and never the same twice."""
    taken: set[str] = set()
    found = []
    for check_id in check_ids:
        stem = slug = _slug(check_id)
        number = 2
        while slug in taken:
            slug, number = f"{stem}-{number}", number + 1
        taken.add(slug)
        found.append(slug)
    return found


def listed(directory: Path) -> set[str]:
    """Return the tables and arrays that a former run says it wrote here; empty if there was none we can read."""
    try:
        names = json.loads((directory / "run.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    known = names if isinstance(names, list) else []
    # The file may have been edited: nothing outside our two folders is ever touched.
    return {name for name in known if isinstance(name, str) and re.fullmatch(r"(tables|arrays)/[\w.\[\]-]+", name)}


def clean(directory: Path, stale: Iterable[str]) -> None:
    """Remove files of a former run, and parts that a killed process left more than an hour ago."""
    for name in sorted(stale):
        (directory / name).unlink(missing_ok=True)
    for part in sorted(directory.rglob(f".*{_TEMPORARY}")):
        with contextlib.suppress(OSError):  # a run beside this one may have renamed it meanwhile
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()


def _slug(check_id: str) -> str:
    match = _PLAIN.fullmatch(check_id)
    plain = "-".join(filter(None, match.groups())) if match else ""
    if plain and len(plain) <= _LONGEST and not _RESERVED.match(plain):
        return plain
    readable = re.sub(r"[^a-z0-9_]+", "-", check_id.lower()).strip("-")[: _LONGEST // 2]
    return f"{readable or 'check'}-{hashlib.sha256(check_id.encode(errors='surrogatepass')).hexdigest()[:8]}"


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk: a new or renamed file survives a power cut only then."""
    # Windows cannot open a folder, and need not.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
