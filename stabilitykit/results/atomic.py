"""Files that are whole or absent, also after a crash at any moment."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stabilitykit.errors import UnwritableError

TEMPORARY = ".stability-part"
"""The end of the name of a file that is still being written."""

STALE = 3600.0
"""Seconds after which what is still being written never will be."""


@contextlib.contextmanager
def atomic_file(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Open `path` to be written piece by piece: a reader, or a crash at any moment, meets the old file or the new one.

    The temporary file lies in the same folder, since only a rename within one file system is atomic. After an error
    inside, the old file stays. UnwritableError, with path and bytes (`size`, or as many as were written), where the
    system refuses, as on a full disk.
    """
    part = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    written = 0
    try:
        with open(part, "xb") as file:
            yield file
            written = file.tell()
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, written if size is None else size, error) from error
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `path` at once, as `atomic_file` does in pieces. Text is UTF-8 with newlines as given."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path, len(data)) as file:
        file.write(data)


def unwritable(path: Path, size: int, error: OSError) -> UnwritableError:
    """Return the error that says what the system refused to write."""
    reason = error.strerror or str(error)
    return UnwritableError(f"{path} was not written ({size} bytes): {reason}; what was there before is unchanged")


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left of their writing in a folder, more than an hour ago."""
    for part in sorted(folder.glob(f".*{TEMPORARY}")):
        with contextlib.suppress(OSError):  # a process beside this one may have renamed it meanwhile
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk: a new or renamed file survives a power cut only then."""
    # Windows cannot open a folder, and need not.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
