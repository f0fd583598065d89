"""Files of a report: names that suit every file system, and no litter."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from stabilitykit.results.atomic import remove_stale

_PLAIN = re.compile(r"([a-z0-9_]+)(?:\[([a-z0-9_.-]*[a-z0-9_-])\])?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_LONGEST = 100


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
    for folder in (directory, directory / "tables", directory / "arrays"):
        remove_stale(folder)


def _slug(check_id: str) -> str:
    match = _PLAIN.fullmatch(check_id)
    plain = "-".join(filter(None, match.groups())) if match else ""
    if plain and len(plain) <= _LONGEST and not _RESERVED.match(plain):
        return plain
    readable = re.sub(r"[^a-z0-9_]+", "-", check_id.lower()).strip("-")[: _LONGEST // 2]
    return f"{readable or 'check'}-{hashlib.sha256(check_id.encode(errors='surrogatepass')).hexdigest()[:8]}"
