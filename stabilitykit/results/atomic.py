"""Files that are whole or absent, also after a crash at any moment."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".stability-part"
"""The end of the name of a file that is still being written."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` to be written piece by piece: a reader, or a crash at any moment, meets the old file or the new one.

    The temporary file lies in the same folder, since only a rename within one file system is atomic. After an error
    inside, the old file stays.
    """
    part = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `path` at once, as `atomic_file` does in pieces. Text is UTF-8 with newlines as given."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk: a new or renamed file survives a power cut only then."""
    # Windows cannot open a folder, and need not.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
