"""Digests of every tensor that passes, taken together when a step is over; of a GPU's, from one copy of its memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import raw_bytes
from stabilitykit.numerics.digest import SHORT, header, short_digest
from stabilitykit.traces.stages import Stage

ABSENT = bytes(SHORT)
"""Stands for a stage that did not run in a step."""

HELD = 64 << 20
"""Bytes that are held before they are hashed: more than a step of one token has, less than a long prompt's."""

Step = list[bytes]
"""The short digest of each stage."""

Held = list[tuple[int, tuple[Tensor, ...], int]]


class Digests:
    """Holds what passes until the step is over, and hashes it then, all in one go.

    A hook that hashed at once would find its code and data evicted by the weights that every layer streams through the
    cache: held first, the same digests take a third of the time. Stages that the forward overwrites (`volatile`) are
    hashed at once; UnsupportedError if another one turns out to have been overwritten. Several calls of a stage in one
    step are one digest of all, in order.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._volatile = {index for index, stage in enumerate(stages) if stage.volatile}
        self._held: Held = []
        self._bytes = 0
        self._found: dict[int, bytes] = {}

    def hear(self, index: int, tensors: tuple[Tensor, ...]) -> None:
        """Take the tensors of a stage."""
        self._held.append((index, tensors, tensors[0]._version))
        self._bytes += tensors[0].nbytes
        if self._bytes > HELD or index in self._volatile:
            self.flush()

    def flush(self) -> None:
        """Hash what is held."""
        held, self._held, self._bytes = self._held, [], 0
        self._refuse_overwritten(held)
        for index, tensors, _ in held:
            self._found[index] = joined(self._found.get(index), short_digest(*tensors))

    def take(self) -> Future[Step]:
        """Return the digests of the step that is over, and begin the next."""
        self.flush()
        found, self._found = self._found, {}
        done: Future[Step] = Future()
        done.set_result([found.get(index, ABSENT) for index in range(len(self._stages))])
        return done

    def _refuse_overwritten(self, held: Held) -> None:
        for index, tensors, version in held:
            if tensors[0]._version != version:
                raise UnsupportedError(
                    f"stage {self._stages[index].name} is overwritten in some steps only, so its bits cannot be held; "
                    "record at level 'block'"
                )


class StagedDigests(Digests):
    """The same for a model on a GPU: one copy into pinned memory and one synchronisation a step, hashed in a thread.

    The buffer is free again when the step before has been hashed, which happens while the next one runs.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__(stages)
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._hashing: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stabilitykit-digests")

    def flush(self) -> None:
        """Copy what is held, and have it hashed."""
        held, self._held, self._bytes = self._held, [], 0
        self._refuse_overwritten(held)
        if not held:
            return
        parts = [raw_bytes(one) for _, tensors, _ in held for one in tensors]
        size, on_gpu = sum(part.numel() for part in parts), parts[0].device.type == "cuda"
        if self._hashing is not None:
            self._hashing.result()
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        self._buffer[:size].copy_(torch.cat(parts), non_blocking=on_gpu)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        shapes = [
            (index, [(header(one), math.prod(one.shape) * one.element_size()) for one in tensors])
            for index, tensors, _ in held
        ]
        self._hashing = self._pool.submit(self._hash, shapes, self._found)

    def take(self) -> Future[Step]:
        """Return the digests of the step that is over, and begin the next."""
        self.flush()
        found, self._found = self._found, {}
        return self._pool.submit(lambda: [found.get(index, ABSENT) for index in range(len(self._stages))])

    def _hash(self, shapes: Sequence[tuple[int, list[tuple[bytes, int]]]], found: dict[int, bytes]) -> None:
        data, place = self._buffer.numpy().data, 0
        for index, tensors in shapes:
            stream = hashlib.sha256()
            for head, size in tensors:
                stream.update(head)
                stream.update(data[place : place + size])
                place += size
            found[index] = joined(found.get(index), stream.digest()[:SHORT])


def joined(before: bytes | None, now: bytes) -> bytes:
    """Return the digest of a stage that has run once more in the same step."""
    return now if before is None else hashlib.sha256(before + now).digest()[:SHORT]
