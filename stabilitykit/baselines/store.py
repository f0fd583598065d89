"""Baseline files: where one lies, how it is read, and how it is replaced while others may do the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from stabilitykit.baselines.entry import Entry, Key
from stabilitykit.baselines.text import parse, render
from stabilitykit.errors import IncomparableError, UnreadableError
from stabilitykit.results.atomic import atomic_write, remove_stale

FOLDER = ".stability"
SUFFIX = ".jsonl"
LARGEST = 64 * 2**20
"""Bytes of a file that are read at most; a hundred checks in ten environments are about one MiB."""


@dataclass(frozen=True)
class Baseline:
    """A file as it was read: its entries, and the digest of its bytes, "" where there was no file."""

    path: Path
    digest: str = ""
    entries: Mapping[Key, Entry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path as one would type it here."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    @property
    def exists(self) -> bool:
        """Whether there was a file."""
        return bool(self.digest)

    def of(self, check: str) -> list[Entry]:
        """Return the entries of a check, one for each numeric environment."""
        return [entry for entry in self.entries.values() if entry.check == check]


def place(named: str, root: Path) -> Path:
    """Return the file of a baseline: a bare name lies in the folder .stability of `root`, all else is a path."""
    if "/" in named or "\\" in named or named.endswith(SUFFIX):
        return root / named
    return root / FOLDER / f"{named}{SUFFIX}"


def read(path: Path) -> Baseline:
    """Return what a file holds, or an empty baseline where there is none; UnreadableError in one sentence."""
    try:
        if path.exists() and path.stat().st_size > LARGEST:
            raise UnreadableError(f"{path} has more than {LARGEST} bytes; it is no baseline that was written here")
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except FileNotFoundError:
        return Baseline(path)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path} is not UTF-8 (byte {error.start}); it is no baseline, or damaged") from None
    except OSError as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from None
    return Baseline(path, _digest(raw), parse(text, str(path)))


def write(former: Baseline, entries: Iterable[Entry]) -> Baseline:
    """Replace the file that `former` was read from, and return what it is now; nothing is written if nothing changed.

    IncomparableError where the file has changed since it was read: of several that update one baseline at once, one
    wins, and what the others measured was held to a file that is no more.
    """
    entries = list(entries)
    content = render(entries).encode()
    former.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(former.path.with_name(f".{former.path.name}.lock")):
        now = _digest(former.path.read_bytes()) if former.path.exists() else ""
        if now != former.digest:
            raise IncomparableError(
                f"{former.path} has changed since this run began, so it was not written; run again to compare with it "
                "as it is now"
            )
        if _digest(content) != now:
            atomic_write(former.path, content)
    remove_stale(former.path.parent)
    return Baseline(former.path, _digest(content), {entry.key: entry for entry in entries})


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
