"""Files that are whole or absent, also after a crash at any moment."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from stabilitykit.errors import UnwritableError

TEMPORARY = ".stability-part"
"""The end of the name of a file that is still being written."""

STALE = 3600.0
"""Seconds after which what is still being written never will be."""


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `path` so that a reader, or a crash at any moment, meets the old file or the new one, never a part.

    Text is UTF-8 with newlines as given. The temporary file lies in the same folder, since only a rename within
    one file system is atomic. UnwritableError, with path and bytes, where the system refuses, as on a full disk.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, len(data), error) from error
        raise
    sync_folder(path.parent)


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
