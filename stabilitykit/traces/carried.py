"""Rounding errors carried to a number at the end of a forward: the errors added to a float64 twin, a share of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.overrides import TorchFunctionMode

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.callers import Callers, Place, calling
from stabilitykit.traces.rounding_errors import Call, Error, Errors, changed, computes, operation


@dataclass
class Effect:
    """What one operation's error e does to the number: with g its gradient by the operation's output, elementwise.

    `contribution` is sum g e, to first order the change of the number; `absolute` is sum |g e|, and `squares` is
    sum (g e)^2, the variance that the change would have if every element's sign were a coin's.
    """

    contribution: float = 0.0
    absolute: float = 0.0
    squares: float = 0.0

    def add(self, products: Tensor) -> None:
        """Add the products g e of one output."""
        self.contribution += float(products.sum())
        self.absolute += float(products.abs().sum())
        self.squares += float(products.square().sum())


@dataclass
class Carried:
    """The number m at some share of the errors, and the effect of each operation there."""

    value: float = 0.0
    effects: dict[Place, Effect] = field(default_factory=dict)


def carried(
    twin: nn.Module,
    run: Callable[[], Tensor],
    number: Callable[[Tensor], Tensor],
    errors: Errors,
    share: float,
    *,
    effects: bool = True,
) -> Carried:
    """Run the float64 twin with `share` times its error added to every operation's output; m = number(run()), 0-d.

    With share 1 each operation gives what the native one gave, so m is the native number; with 0 it is the true one.
    Between them m(t) has the derivative sum_i <g_i(t), e_i>, the sum of the effects at share t: one reverse product, in
    which each gradient is used and let go. UnsupportedError where the twin does not do what the native model did: an
    operation of another shape, or one that is not in float64. Cost: a float64 forward, and a backward for `effects`.
    """
    found = Carried()
    # What a model overwrites may be needed by the backward; to look for that at every step would double the time.
    kept = allow_mutation_on_saved_tensors() if errors.in_place else nullcontext()
    with torch.enable_grad(), kept, _opened(), calling(twin) as callers:
        with _Adding(callers, errors.of, share, found if effects else None):
            output = run()
        m = number(output)
        if m.requires_grad:
            m.backward()  # type: ignore[no-untyped-call]
    found.value = float(m.detach())
    return found


class _Adding(TorchFunctionMode):
    """Adds a share of its error to what each operation gives or changes, and accounts for it in the backward."""

    def __init__(self, callers: Callers, errors: Mapping[Place, Error], share: float, account: Carried | None) -> None:
        super().__init__()
        self._callers, self._errors, self._share, self._account = callers, errors, share, account
        self._leaf = torch.zeros((), dtype=torch.float64, requires_grad=account is not None)

    def __torch_function__(
        self, func: Call, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        # A model switches gradients off around its constants, and detaches what it does not train: errors pass there.
        with torch.enable_grad():
            returned = args[0] if func is Tensor.detach else _differentiable(func, args, dict(given))
            if not computes(func):
                return returned
            place = self._callers.place(operation(func))
            if place not in self._errors:
                return returned
            return self._added(place, changed(func, args, given), returned)

    def _added(self, place: Place, target: Tensor | None, returned: Any) -> Any:
        parts = self._errors[place].parts
        if target is not None:
            target.add_(self._piece(place, target, parts[0]))  # type: ignore[arg-type]
            return returned
        outputs = list(returned) if isinstance(returned, tuple | list) else [returned]
        if len(outputs) != len(parts):
            raise UnsupportedError(f"{place} gives {len(outputs)} tensors in float64 and {len(parts)} natively")
        outputs = [y if e is None else y + self._piece(place, y, e) for y, e in zip(outputs, parts, strict=True)]
        return type(returned)(outputs) if isinstance(returned, tuple | list) else outputs[0]

    def _piece(self, place: Place, y: Tensor, e: Tensor) -> Tensor:
        if y.shape != e.shape or y.dtype != torch.float64:
            raise UnsupportedError(
                f"{place} gives {name_of(y.dtype)} {list(y.shape)} in the float64 twin and {list(e.shape)} natively: "
                "the two do not run the same operations"
            )
        if self._account is None:
            return self._share * e
        effect = self._account.effects.setdefault(place, Effect())
        piece: Tensor = _APPLY(_Piece, self._leaf, e, self._share, effect)
        return piece


class _Piece(torch.autograd.Function):
    """t e, whose backward is given the gradient g by it: it notes g e, and nothing is kept."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, e: Tensor, share: float, effect: Effect) -> Tensor:
        """Return t e."""
        ctx.e, ctx.effect = e, effect
        return share * e

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, None, None]:
        """Note g e; the errors themselves have no gradient."""
        ctx.effect.add(g * ctx.e)
        return None, None, None, None


def _differentiable(func: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function; with `out=`, which autograd refuses, as an assignment of what it returns."""
    out = kwargs.pop("out", None) if isinstance(kwargs.get("out"), Tensor) else None
    returned = func(*args, **kwargs)
    return returned if out is None else out.copy_(returned)


_APPLY: Any = vars(torch.autograd.Function)["apply"].__func__


@contextmanager
def _opened() -> Iterator[None]:
    """Run a model's own autograd functions as the operations of their forward.

    Their backward would pass over what is added inside, and may be another derivative than that of what they compute.
    """

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        split = cls.setup_context is not torch.autograd.Function.setup_context
        return cls.forward(*args, **kwargs) if split else cls.forward(FunctionCtx(), *args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = classmethod(_APPLY)  # type: ignore[method-assign, assignment]
