"""The header of a safetensors file, as far as its reader does not check it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stabilitykit.errors import UnreadableError

LARGEST = 16 << 20
"""Bytes of a header that are read."""

MOST = 10_000
"""Tensors of a file that are read: a header of more is an attack or an accident."""


def header_of(path: Path) -> bytes:
    """Return the beginning of a file up to the end of its header, or as much of that as is ever read."""
    with path.open("rb") as file:
        start = file.read(8)
        return start + file.read(min(int.from_bytes(start, "little"), LARGEST))


def check_header(content: bytes, path: Path) -> None:
    """Check the beginning of a file, at least its header; whatever the reader itself refuses is left to it.

    UnreadableError for a header that is too large, names a tensor twice (the reader would take the last one in
    silence), or names more than `MOST`.
    """
    length = int.from_bytes(content[:8], "little")
    if length > LARGEST:
        raise UnreadableError(f"{path} announces a header of {length} bytes; more than {LARGEST} are not read")
    counted: Counter[str] = Counter()

    def note(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        counted.update(name for name, value in pairs if isinstance(value, dict))
        return dict(pairs)

    try:
        json.loads(content[8 : 8 + length], object_pairs_hook=note)
    except (ValueError, RecursionError):
        return
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UnreadableError(f"{path} names the tensor {twice[0]!a} twice")
    if len(counted) > MOST:
        raise UnreadableError(f"{path} holds {len(counted)} tensors; more than {MOST} are not read")
