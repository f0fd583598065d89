"""What each operation of a forward rounds off: the operation once more in true float64, on the inputs that it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import spacing
from stabilitykit.subjects.callers import Callers, Place, calling
from stabilitykit.subjects.calls import FOREIGN
from stabilitykit.subjects.precision import true_float64

Call = Callable[..., Any]

UNSET = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""What gives memory as it lies there: no numbers yet, so nothing is rounded."""


@dataclass(frozen=True, eq=False)
class Error:
    """e = y - f(x) of one operation: y as it came out, f(x) in float64 on the same inputs, widened.

    `parts` has e for each thing that the operation gave or changed, float64, None where it is zero or no float.
    `max_ulp` is the largest |e| in ULP of its own element, which is large near zero; `scaled_ulp` the largest |e| in
    ULP of the largest element. `elements` counts those that differ.
    """

    parts: tuple[Tensor | None, ...]
    elements: int
    max_ulp: float
    scaled_ulp: float


@dataclass
class Errors:
    """The errors of one forward by the place of the operation, those that round in order.

    `seen` counts all operations; `in_place` says whether one of them changed a tensor instead of making one.
    """

    of: dict[Place, Error] = field(default_factory=dict)
    seen: int = 0
    in_place: bool = False


def rounding_errors(model: nn.Module, twin: nn.Module, run: Callable[[], Tensor]) -> tuple[Errors, Tensor]:
    """Run a forward of `model` and return what each of its operations rounds off, and the forward's own answer.

    An operation is a call of torch from Python that gives or changes a floating tensor, the outermost of several that
    call each other: a linear layer, a product, a cast, a fused attention. `twin` is the model in float64; its weights
    stand in for the widened ones. What is not finite has no error. UnsupportedError names an operation that does not
    run in float64. Cost: a forward and a float64 forward; the memory of all errors, 8 bytes an element.
    """
    wide = {id(weight): other for weight, other in zip(model.parameters(), twin.parameters(), strict=True)}
    errors = Errors()
    with torch.no_grad(), calling(model) as callers, _Redoing(callers, wide, errors):
        answer = run()
    return errors, answer


class _Redoing(TorchFunctionMode):
    """Does every operation twice: in float64 on copies, then as it was asked for."""

    def __init__(self, callers: Callers, wide: Mapping[int, Tensor], errors: Errors) -> None:
        super().__init__()
        self._callers, self._weights, self._errors = callers, wide, errors

    def __torch_function__(
        self, func: Call, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not computes(func):
            return func(*args, **given)
        place = self._callers.place(operation(func))
        copies: tuple[Sequence[Any], dict[str, Any]] = tree_map_only(Tensor, self._widened, (args, given))
        try:
            with true_float64():
                exact = func(*copies[0], **copies[1])
        except FOREIGN as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"{place} does not run in float64 ({reason}); it has no exact result") from error
        returned = func(*args, **given)
        self._errors.in_place |= changed(func, args, given) is not None
        self._note(place, made(func, args, given, returned), made(func, *copies, exact))
        return returned

    def _note(self, place: Place, outputs: Sequence[Any], exact: Sequence[Any]) -> None:
        pairs = [(y, true) if _is_float(y) else None for y, true in zip(outputs, exact, strict=True)]
        self._errors.seen += any(pairs)
        if error := _error(pairs):
            self._errors.of[place] = error

    def _widened(self, x: Tensor) -> Tensor:
        if id(x) in self._weights:
            return self._weights[id(x)]
        return x.to(torch.float64, copy=True) if x.is_floating_point() else x.clone()


def computes(func: Call) -> bool:
    """Return whether a call makes numbers: reading an attribute does not, nor does asking for memory."""
    return func.__name__ not in UNSET and func.__name__ not in ("__get__", "__set__")


def operation(func: Call) -> str:
    """Return what a call is named: `add` for `x + y` and for `x += y`."""
    return func.__name__.strip("_")


def changed(func: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the tensor that a call changes in place, None if it makes a new one."""
    name, out = func.__name__, kwargs.get("out")
    if isinstance(out, Tensor):
        return out
    in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    first = args[0] if args and (in_place or kwargs.get("inplace") is True) else None
    return first if isinstance(first, Tensor) else None


def made(func: Call, args: Sequence[Any], kwargs: Mapping[str, Any], returned: Any) -> list[Any]:
    """Return what a call changed, or else what it returned, as a list."""
    target = changed(func, args, kwargs)
    if target is not None:
        return [target]
    return list(returned) if isinstance(returned, tuple | list) else [returned]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _error(pairs: Sequence[tuple[Tensor, Tensor] | None]) -> Error | None:
    """Return the error of pairs (y, f(x)), None where no element has one."""
    parts = tuple(_part(*pair) if pair else None for pair in pairs)
    sizes = list(_sizes(pairs, parts))
    if not sizes:
        return None
    elements, own, scaled = (list(column) for column in zip(*sizes, strict=True))
    return Error(parts, int(sum(elements)), max(own), max(scaled))


def _part(y: Tensor, true: Tensor) -> Tensor | None:
    e = y.double() - true.double()
    e = torch.where(e.isfinite(), e, 0.0)
    return e if bool(e.any()) else None


def _sizes(
    pairs: Sequence[tuple[Tensor, Tensor] | None], parts: Sequence[Tensor | None]
) -> Iterator[tuple[int, float, float]]:
    for pair, e in zip(pairs, parts, strict=True):
        if pair is None or e is None:
            continue
        y, size = pair[0], e.abs()
        finite = torch.where(y.isfinite(), y, 0.0)
        own, scaled = size / spacing(finite), size.max() / spacing(finite.abs().max())
        yield int(size.count_nonzero()), float(own.max()), float(scaled)
