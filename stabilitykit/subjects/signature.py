"""Which axes the tensors of a kernel have, in the notation of einsum: `"mk,kn->mn"`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stabilitykit.errors import UsageError

_FORM = re.compile(r"[A-Za-z]*(,[A-Za-z]*)*->[A-Za-z]*")

Size = int | tuple[int, ...] | Mapping[str, int]
"""How large the axes are: a number for each in the order in which the inputs name them, or by name."""


@dataclass(frozen=True)
class Signature:
    """One letter an axis: equal letters are equally long. An axis that the output alone has may be of any length."""

    inputs: tuple[str, ...]
    output: str

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read `"mk,kn->mn"`; spaces do not matter. UsageError for another form or an axis twice in one tensor."""
        compact = "".join(text.split())
        if not _FORM.fullmatch(compact):
            raise UsageError(f"signature {text!r} is not of the form 'mk,kn->mn': a letter an axis, commas, one arrow")
        left, output = compact.split("->")
        inputs = tuple(left.split(","))
        if twice := [tensor for tensor in (*inputs, output) if len(set(tensor)) < len(tensor)]:
            raise UsageError(f"signature {text!r} names an axis of {twice[0]!r} twice; give each axis its own letter")
        return cls(inputs, output)

    def __str__(self) -> str:
        """Return the compact text."""
        return f"{','.join(self.inputs)}->{self.output}"

    @property
    def axes(self) -> str:
        """The axes of the inputs, in the order in which they are first named."""
        return "".join(dict.fromkeys("".join(self.inputs)))

    @property
    def rows(self) -> str | None:
        """The axis taken for the batch: the first of the first input, if that has others and the output has it."""
        first = self.inputs[0]
        return first[0] if len(first) > 1 and first[0] in self.output else None

    @property
    def summed(self) -> str | None:
        """The axis that sums probably run along: the first that the output lacks, else the first input's last."""
        gone = [axis for axis in self.axes if axis not in self.output]
        return gone[0] if gone else self.inputs[0][-1:] or None

    def sizes(self, size: Size, fixed: Mapping[str, int]) -> dict[str, int]:
        """Return the length of each axis of the inputs; UsageError where a size does not fit."""
        free = [axis for axis in self.axes if axis not in fixed]
        if isinstance(size, Mapping):
            given = dict(size)
        else:
            numbers = (size,) if isinstance(size, int) else tuple(size)
            given = dict(zip(free, numbers, strict=False)) if len(numbers) == len(free) else {}
        if sorted(given) != sorted(free):
            raise UsageError(f"shape {size!r} does not fit {self}: give the axes {', '.join(free)}, in this order")
        if short := [axis for axis, length in given.items() if length < 1]:
            raise UsageError(f"shape {size!r} has an axis {short[0]!r} without elements; give at least 1")
        return {**fixed, **given}

    def shapes(self, sizes: Mapping[str, int]) -> Iterator[tuple[int, ...]]:
        """Yield the shape of each input."""
        for tensor in self.inputs:
            yield tuple(sizes[axis] for axis in tensor)
