"""Every operation of one forward: digests of what it read and gave, that another machine can hold its own against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stabilitykit.subjects.callers import Place
from stabilitykit.traces.fields import Field

SCHEMA = 1
LEVELS, _SIDES = ("op", "module"), ("inputs", "outputs")
_DIGEST, _NAME = "[0-9a-f]{32}", r"\w+(\.\w+)*"
_MOST, _OPERANDS = 1_000_000, 10_000


class Operand(NamedTuple):
    """One tensor that an operation read or gave.

    `digest`: 32 hexadecimal digits, the first half of `numerics.digest`; "" for memory that is overwritten unread.
    That of a weight is taken of the weight as it lies, also where a transposed view is read: then `shape` and `stride`
    say how. `address` is that of its first element modulo 64. `weight` is the parameter's or buffer's name, else "".
    `source` is the index of the entry that wrote it last; None for what was there before the forward: weights, the
    cache, the tokens. A number that leaves torch has dtype `python` and the digest of its text.
    """

    digest: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    address: int = 0
    weight: str = ""
    source: int | None = None

    @property
    def bits(self) -> tuple[str, str, tuple[int, ...]]:
        """What two equal operands share; where they lie is not part of it."""
        return self.digest, self.dtype, self.shape

    def __str__(self) -> str:
        """Return e.g. `float32 [1, 576]`, with the weight's name if it is one."""
        return f"{self.dtype} {list(self.shape)}{f' {self.weight}' if self.weight else ''}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: where it was asked for, what it read, what it gave.

    `inputs` are all tensors among the arguments, in order; `arguments` is the call as JSON, in which {"tensor": k}
    stands for `inputs[k]`. `outputs` are the tensors it returned, and then those of `inputs` that it changed, as they
    were afterwards.
    """

    place: Place
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    arguments: str = "[]"

    @property
    def module(self) -> str:
        """The module that asks; "" is the model itself."""
        return self.place.module

    @property
    def operation(self) -> str:
        """The operation and its overload, such as `aten.mm.default`; at level "module" the module's class."""
        return self.place.operation

    @property
    def occurrence(self) -> int:
        """How often this module asked for it before, in this forward."""
        return self.place.occurrence

    @property
    def form(self) -> tuple[Any, ...]:
        """What makes two calls the same question: the arguments, and dtypes and shapes of the tensors."""
        return self.arguments, tuple((one.dtype, one.shape, one.weight) for one in self.inputs)

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON holds."""
        operands = {side: [_plain(each) for each in getattr(self, side)] for side in _SIDES}
        return {**self.place._asdict(), "arguments": self.arguments, **operands}


@dataclass(frozen=True)
class OperationLog:
    """The operations of the forward that gives token `step` after `ids`, in the order in which they ended.

    `generated` are the tokens before it, `output` the digest of the step's logits (M,), which the plain forward gives
    as well. `level` is "op", or "module" where following the operations was not possible, and `note` says why.
    `left_out` counts what computes no bits: `views`, and `uninitialised` memory. `threads` is their number.
    """

    ids: tuple[int, ...]
    generated: tuple[int, ...]
    step: int
    entries: tuple[Operation, ...]
    output: str
    level: str = "op"
    note: str = ""
    threads: int = 1
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON holds; `from_plain` undoes it."""
        names = ("ids", "generated", "step", "output", "level", "note", "threads")
        plain = {name: getattr(self, name) for name in names}
        plain |= {"schema": SCHEMA, "left_out": dict(self.left_out), "ids": list(self.ids)}
        return plain | {"generated": list(self.generated), "entries": [one.to_plain() for one in self.entries]}

    @classmethod
    def from_plain(cls, data: Any, where: str) -> OperationLog:
        """Return the log of a file that may be damaged or hostile: UnreadableError names file, field and reason."""
        top = Field(data, where)
        if (schema := top["schema"].whole()) != SCHEMA:
            raise top["schema"].wrong(f"is {schema}, and this version reads {SCHEMA}; record again, or update")
        level = top["level"].text("|".join(LEVELS))
        ids, generated, step = top["ids"].wholes(), top["generated"].wholes(), top["step"].whole()
        if not ids or step != len(generated):
            raise top["step"].wrong(f"is {step}, with {len(ids)} tokens of a prompt and {len(generated)} generated")
        if not isinstance(top["left_out"].value, dict):
            raise top["left_out"].wrong("is no object")
        return cls(
            ids,
            generated,
            step,
            tuple(operation_from(one, index) for index, one in enumerate(top["entries"].items(_MOST))),
            top["output"].text(_DIGEST),
            level,
            top["note"].text(),
            top["threads"].whole(1),
            {name: top["left_out"][name].whole() for name in top["left_out"].value},
        )


def _plain(one: Operand) -> dict[str, Any]:
    return {**one._asdict(), "shape": list(one.shape), "stride": list(one.stride)}


def operation_from(entry: Field, index: int) -> Operation:
    """Return the entry of an index; UnreadableError as for a log."""
    place = Place(entry["module"].text(), entry["operation"].text(_NAME), entry["occurrence"].whole())
    inputs, outputs = (tuple(_operand(one, index) for one in entry[side].items(_OPERANDS)) for side in _SIDES)
    return Operation(place, inputs, outputs, entry["arguments"].text())


def _operand(one: Field, index: int) -> Operand:
    shape, stride = one["shape"].wholes(), one["stride"].wholes()
    if len(stride) != len(shape):
        raise one["stride"].wrong(f"has {len(stride)} numbers, and the shape {len(shape)}")
    source = None if one["source"].value is None else one["source"].whole(0, index)
    return Operand(
        one["digest"].text(f"({_DIGEST})?"),
        one["dtype"].text(r"\w+"),
        shape,
        stride,
        one["address"].whole(0, 63),
        one["weight"].text(),
        source,
    )
