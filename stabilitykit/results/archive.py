"""Arrays from files that may be damaged or hostile: no pickle, and nothing is allocated that the file does not hold."""

from __future__ import annotations

import ast
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UnreadableError, first_line

LARGEST = 4 << 30
"""Bytes that the arrays of one file may have in all: a small archive can announce any number of them."""

_HEADERS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_LONGEST_HEADER = 10_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, zlib and numpy raise for one damaged byte or another."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name; UnreadableError in one sentence for anything that is none.

    Members are read into memory, and no name is used as a path. What all of them announce is bounded by `LARGEST`.
    """
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            members = file.infolist()
            _check_members(members)
            return {one.filename.removesuffix(".npy"): _member(file, one) for one in members}
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file; errors as for `read_arrays`."""
    try:
        with path.open("rb") as raw:
            return _array(raw, path.stat().st_size)
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = [one.filename for one in members]
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice in it")
    if odd := [name for name in names if not name.endswith(".npy")]:
        raise ValueError(f"{ascii(odd[0])[:60]} is no array")
    if any(one.compress_type not in _METHODS for one in members):
        raise ValueError("it is compressed in a way that is not ours")
    if (total := sum(one.file_size for one in members)) > LARGEST:
        raise ValueError(f"it announces {total} bytes; more than {LARGEST} are not read")


def _member(file: zipfile.ZipFile, one: zipfile.ZipInfo) -> NDArray[Any]:
    with file.open(one) as stream:
        return _array(stream, one.file_size)


def _array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """Return the array of a stream of `size` bytes, whose header must announce exactly what follows it."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"its array has the format {version[0]}.{version[1]}")
    width = struct.calcsize(_HEADERS[version])
    (length,) = struct.unpack(_HEADERS[version], stream.read(width))
    if length > _LONGEST_HEADER:
        raise ValueError(f"its array has a header of {length} bytes")
    header = ast.literal_eval(stream.read(length).decode("utf-8" if version == (3, 0) else "latin-1").strip())
    if not isinstance(header, dict) or sorted(header) != ["descr", "fortran_order", "shape"]:
        raise ValueError("its array has no header")
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its array has no shape")
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError("its array holds what is never read: objects, or nothing")
    announced, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if announced != held:
        raise ValueError(f"its array announces {announced} bytes and {held} follow")
    flat = np.frombuffer(stream.read(), dtype)
    return flat.reshape(shape, order="F" if header["fortran_order"] is True else "C").copy()


def _unreadable(path: Path, error: Exception) -> UnreadableError:
    reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    return UnreadableError(f"{path} cannot be read: {reason[:200]}")
