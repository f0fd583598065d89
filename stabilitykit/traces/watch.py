"""Following every operation of a forward while it runs: digests of one operation at a time, no tensor kept."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.digest import SHORT, short_digest
from stabilitykit.subjects.callers import Place, calling
from stabilitykit.subjects.weights import ALIGNMENT
from stabilitykit.traces.arguments import encoded, tensors_of
from stabilitykit.traces.operation_log import Operand, Operation

# What is written without a look at what was there; of a random in-place operation the same holds.
_OVERWRITES = {"copy_", "fill_", "zero_"}
_UNINITIALISED = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted"}
# A view that is not declared as one, since autograd shall not follow it.
_UNDECLARED_VIEWS = {"_unsafe_view", "_reshape_alias"}


@dataclass(frozen=True)
class Caught:
    """One operation that was waited for: the tensors it read, as they were before, and those it gave."""

    entry: Operation
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Operands:
    """Turns tensors into `Operand`: names the weights, digests each once, and remembers who wrote which memory."""

    def __init__(self, model: nn.Module) -> None:
        self._weights: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.numel():
                self._weights.setdefault(tensor.data_ptr(), (name, tensor))
        self._starts = sorted(self._weights)
        self._digests: dict[tuple[str, int], str] = {}
        self._writers: dict[int, int] = {}
        self._blank: set[int] = set()

    def of(self, value: Any, read: bool = True) -> Operand:
        """Return the operand of a tensor, or of a number that leaves torch; unread, it has no digest."""
        if not isinstance(value, Tensor):
            text = hashlib.sha256(repr(value).encode()).digest()[:SHORT].hex()
            return Operand(text, "python", ())
        name, weight = self._weight(value)
        return Operand(
            self._digest(value, name, weight) if read else "",
            name_of(value.dtype),
            tuple(value.shape),
            tuple(value.stride()),
            value.data_ptr() % ALIGNMENT,
            name,
            None if name else self._writers.get(_memory(value)),
        )

    def written(self, tensor: Tensor, entry: int) -> None:
        """Note that an entry wrote this memory."""
        self._writers[_memory(tensor)] = entry
        self._blank.discard(_memory(tensor))

    def fresh(self, tensor: Tensor, blank: bool) -> None:
        """Note that this memory is new, and whether nobody has written it yet."""
        self._writers.pop(_memory(tensor), None)
        (self._blank.add if blank else self._blank.discard)(_memory(tensor))

    def is_blank(self, tensor: Tensor) -> bool:
        """Return whether nobody has written this memory."""
        return _memory(tensor) in self._blank

    def _weight(self, value: Tensor) -> tuple[str, Tensor | None]:
        """Return the weight in whose memory a tensor begins: the tensors of a mapped file share one storage."""
        start = value.data_ptr()
        place = bisect_right(self._starts, start) - 1
        if place < 0 or not value.numel():
            return "", None
        name, weight = self._weights[self._starts[place]]
        inside = weight.device == value.device and start < weight.data_ptr() + weight.nbytes
        return (name, weight) if inside else ("", None)

    def _digest(self, value: Tensor, name: str, weight: Tensor | None) -> str:
        if weight is None or not _all_of(value, weight):
            return short_digest(value).hex()
        key = name, weight._version
        if key not in self._digests:
            self._digests[key] = short_digest(weight).hex()
        return self._digests[key]


class Watch(ABC):
    """Logs what a model does while the watch is on, into `entries`; it takes one forward."""

    def __init__(self, model: nn.Module) -> None:
        self.entries: list[Operation] = []
        self.left_out: Counter[str] = Counter()
        self._model, self._operands, self._held = model, Operands(model), ExitStack()

    @abstractmethod
    def __enter__(self) -> Self:
        """Begin to follow."""

    def __exit__(self, *_: object) -> None:
        """Take every hook off again."""
        self._held.close()

    def _log(self, place: Place, inputs: tuple[Operand, ...], given: Sequence[Any], told: str = "[]") -> Operation:
        for one in tensors_of(given):
            self._operands.written(one, len(self.entries))
        entry = Operation(place, inputs, tuple(self._operands.of(one) for one in given), told)
        self.entries.append(entry)
        return entry


class OperationWatch(Watch):
    """Logs each operation that reaches torch's dispatcher.

    Composite operations are seen as the parts that torch makes of them, which are what its kernels run. Left out, and
    counted in `left_out`, is what computes no bits: a view is other strides on the same memory, and whatever reads
    through it has its bits digested there; uninitialised memory has no bits until an operation writes it. In place,
    inputs are digested before the call and what was changed after it. The tensors of one operation, the `wanted`, are
    kept in `caught`.
    """

    def __init__(self, model: nn.Module, wanted: Place | None = None) -> None:
        super().__init__(model)
        self.caught: Caught | None = None
        self._wanted = wanted

    def __enter__(self) -> Self:
        """Follow which module is running, and every operation."""
        self._callers = self._held.enter_context(calling(self._model))
        self._held.enter_context(_Mode(self._saw))
        return self

    def _saw(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Digest, run, digest."""
        if kind := _without_bits(func):
            return self._unlogged(kind, func, args, kwargs)
        place = self._callers.place(str(func))
        tensors = list(tensors_of([list(args), kwargs]))
        changed, unread = _changed(func, args, kwargs)
        unread += [one for one in changed if self._operands.is_blank(one)]
        inputs = tuple(self._operands.of(one, not any(one is other for other in unread)) for one in tensors)
        told = json.dumps(encoded(args, kwargs))
        kept = [one.detach().clone() for one in tensors] if place == self._wanted else []
        result = func(*args, **kwargs)
        given = list(_results(result))
        given += [one for one in changed if all(one is not other for other in given)]
        entry = self._log(place, inputs, given, told)
        if place == self._wanted:
            self.caught = Caught(entry, tuple(kept), tuple(one.detach().clone() for one in tensors_of(given)))
        return result

    def _unlogged(self, kind: str, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        self.left_out[kind] += 1
        if kind == "uninitialised" or _name(func).startswith("lift"):  # `lift` is of a tensor made of Python's numbers
            for one in tensors_of([result]):
                self._operands.fresh(one, blank=kind == "uninitialised")
        return result


class ModuleWatch(Watch):
    """Logs each call of a module: its tensors and its own weights in, its tensors out; what is innermost ends first.

    The operation is the module's class. What a module reads from other objects, such as a cache, is not seen.
    """

    def __enter__(self) -> Self:
        """Hook every module."""
        self._begun: list[tuple[Operand, ...]] = []
        self._counts: Counter[str] = Counter()
        for name, module in self._model.named_modules():
            for handle in (
                module.register_forward_pre_hook(self._entering, with_kwargs=True),
                module.register_forward_hook(self._leaving(name), with_kwargs=True),
            ):
                self._held.callback(handle.remove)
        return self

    def _entering(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        read = [*tensors_of([list(args), kwargs]), *module.parameters(False), *module.buffers(False)]
        self._begun.append(tuple(self._operands.of(one) for one in read))

    def _leaving(self, name: str) -> Any:
        def leave(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            place = Place(name, type(module).__name__, self._counts[name])
            self._counts[name] += 1
            self._log(place, self._begun.pop(), list(tensors_of([output])))

        return leave


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, saw: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saw = saw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._saw(func, args, kwargs or {})


def _without_bits(func: Any) -> str:
    """Return why an operation is left out, "" if it is not."""
    name = _name(func)
    if name in _UNINITIALISED:
        return "uninitialised"
    return "views" if func.is_view or name in _UNDECLARED_VIEWS else ""


def _changed(func: Any, args: Any, kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return the arguments that an operation writes, and those of them that it does not read before."""
    changed: list[Tensor] = []
    unread: list[Tensor] = []
    name = _name(func)
    blind = name in _OVERWRITES or torch.Tag.nondeterministic_seeded in func.tags
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = kwargs.get(argument.name) if index >= len(args) else args[index]
        changed += tensors_of([value])
        if argument.is_out or (blind and name.endswith("_")):
            unread += tensors_of([value])
    return changed, unread


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _results(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _results(item)
    elif isinstance(value, Tensor | bool | int | float):
        yield value


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _all_of(value: Tensor, weight: Tensor) -> bool:
    """Whether a view shows each element of a weight once, in whatever order of its axes."""

    def axes(one: Tensor) -> list[tuple[int, int]]:
        return sorted((step, size) for step, size in zip(one.stride(), one.shape, strict=True) if size > 1)

    same = value.dtype == weight.dtype and value.data_ptr() == weight.data_ptr() and not value.is_conj()
    return same and not value.is_neg() and axes(value) == axes(weight)
