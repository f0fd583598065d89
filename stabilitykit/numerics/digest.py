"""One hash for a sequence of tensors: equal digests mean equal dtypes, shapes and bits, in the same order."""

from __future__ import annotations

import hashlib
import sys

from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of, raw_bytes

SHORT = 16
"""Bytes of a short digest: by chance two of 10^9 different tensors share one with probability 10^-21."""


def digest(*tensors: Tensor) -> str:
    """SHA-256 over `dtype[shape]`, a line feed and the row-major little-endian bytes of each tensor in turn.

    Any dtypes, shapes and devices -> 64 hexadecimal digits. The header fixes the number of bytes that follow,
    so no two sequences share one stream: a permuted, negated, reshaped, split or one-ULP-moved tensor changes
    the digest, and so does the sign of a zero or a NaN's payload. Strides and devices do not matter.

    O(bytes); a contiguous CPU tensor is not copied, any other is copied once, one at a time. UnsupportedError
    on a big-endian machine, whose digests no other machine could check.
    """
    return _stream(*tensors).hexdigest()


def short_digest(*tensors: Tensor) -> bytes:
    """Return the first 128 bits of `digest`: what a recording keeps of each tensor. Same errors and cost."""
    return _stream(*tensors).digest()[:SHORT]


def _stream(*tensors: Tensor) -> hashlib._Hash:
    if sys.byteorder != "little":
        raise UnsupportedError("digests are defined on little-endian bytes; this machine is big-endian")
    stream = hashlib.sha256()
    for tensor in tensors:
        stream.update(f"{name_of(tensor.dtype)}{list(tensor.shape)}\n".encode())
        stream.update(raw_bytes(tensor).cpu().numpy().data)
    return stream
