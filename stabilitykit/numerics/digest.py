"""One hash for a sequence of tensors: equal digests mean equal dtypes, shapes and bits, in the same order."""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of, raw_bytes

SHORT = 16
"""Bytes of a short digest: by chance two of 10^9 different tensors share one with probability 10^-21."""

# Dtypes that numpy lacks, and one of the same size that it has.
_TWINS = {
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


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


def header(tensor: Tensor) -> bytes:
    """Return what is hashed before a tensor's bytes: its dtype and shape."""
    return _header(tensor.dtype, tensor.shape)


@lru_cache(1024)  # a recording meets the same few shapes a thousand times a second
def _header(dtype: torch.dtype, shape: torch.Size) -> bytes:
    return f"{name_of(dtype)}{list(shape)}\n".encode()


def _stream(*tensors: Tensor) -> hashlib._Hash:
    if sys.byteorder != "little":
        raise UnsupportedError("digests are defined on little-endian bytes; this machine is big-endian")
    stream = hashlib.sha256()
    for tensor in tensors:
        stream.update(header(tensor))
        stream.update(_bytes(tensor))
    return stream


def _bytes(x: Tensor) -> memoryview:
    """Row-major bytes. Most tensors are plain ones on the CPU: for those a recording saves half of the hook's time."""
    if x.device.type == "cpu" and x.is_contiguous() and not (x.is_conj() or x.is_neg()):
        plain = x.detach()
        twin = _TWINS.get(x.dtype)
        return (plain if twin is None else plain.view(twin)).numpy().reshape(-1).data
    return raw_bytes(x).cpu().numpy().data
