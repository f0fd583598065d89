"""True float64: every step of a model in double precision, also those that its code casts to float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics import memory

if TYPE_CHECKING:
    from stabilitykit.subjects.subject import Subject

LARGE, SMALL, AGREEMENT = 1e-5, 1e-10, 1e-3
"""The self-test: gains at these two steps, relative to |x0|, agree within this share, or the oracle is refused."""

SELF_TEST = 4
"""Rows that it takes: both steps, and the input in their slots."""

Module = TypeVar("Module", bound=nn.Module)
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class _Float64(TorchFunctionMode):
    """Reads every narrower dtype that is asked of a float64 tensor, or of a new one, as float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _CASTS:
            return _widened(args[0])
        if func in (Tensor.type_as, Tensor.type) and len(args) > 1 and _is_narrow(args[1]):
            return _widened(args[0])
        if func is Tensor.to and isinstance(args[0], Tensor):
            return _moved(args[0], args[1:], given)
        if given.get("dtype") in _NARROW:
            given["dtype"] = torch.float64
        return func(*args, **given)


def _is_narrow(value: Any) -> bool:
    return value in _NARROW if isinstance(value, torch.dtype) else isinstance(value, Tensor) and value.dtype in _NARROW


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.float64)


def _moved(x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return x.to(...) with float64 wherever it asks for less; a tensor as the source still gives its device."""
    wanted: list[Any] = []
    for value in args:
        if isinstance(value, Tensor):
            wanted += [value.device, torch.float64 if _is_narrow(value) else value.dtype]
        else:
            wanted.append(torch.float64 if _is_narrow(value) else value)
    named: dict[str, Any] = {key: torch.float64 if _is_narrow(value) else value for key, value in kwargs.items()}
    return x.to(*wanted, **named)


@contextmanager
def true_float64() -> Iterator[None]:
    """Let nothing inside narrow a tensor below float64: the oracle that a plain `.double()` is not.

    Most models cast to float32 whatever their dtype: RMSNorm its input, the softmax its result, the rotary embedding
    its angles. Inside, `.float()`, `.half()`, `.bfloat16()`, `.type(narrow)`, `.type_as(narrow)`, `.to(narrow)` and
    every `dtype=` below float64 mean float64; integers become float64 where float32 was asked. So does the default
    dtype, that of new tensors and of integers times a fraction. Weights and inputs must be float64 already. Works under
    autograd, both modes. Code below torch's Python functions is not seen: a grouped matmul of experts refuses float64
    and needs `experts_implementation="eager"`.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(default)


def in_double(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return fn as it runs under `true_float64`."""

    def run(X: Tensor) -> Tensor:
        with true_float64():
            return fn(X)

    return run


_twins: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def double_of(model: Module) -> Module:
    """Return a float64 copy of a model, made once and kept as long as the model; 8 bytes a parameter.

    UnsupportedError where the machine has not the memory for it.
    """
    if model not in _twins:
        _require_memory(model)
        _twins[model] = copy.deepcopy(model).double()
    return _twins[model]  # type: ignore[return-value]


def _require_memory(model: nn.Module) -> None:
    needed = 8 * sum(weight.numel() for weight in model.parameters())
    free = memory.free_bytes(next(model.parameters()).device)
    if free is not None and needed > free:
        raise UnsupportedError(
            f"true float64 needs {needed / 2**30:.1f} GiB for a copy of the weights and {free / 2**30:.1f} GiB are free"
        )


def require_smooth(twin: Subject) -> None:
    """Hold an oracle to its self-test: along a fixed direction the gain does not depend on the step.

    The gain |f(x0 + e v) - f(x0)| / e at e = 1e-10 |x0| must be that at 1e-5 |x0| within 1e-3: float32 hidden anywhere
    inside makes the first thousands of times too large, or zero. UnsupportedError with both. Cost: `SELF_TEST` rows,
    two at a time whatever the subject's batch: what hides does so in every batch shape.
    """
    random = np.random.Generator(np.random.PCG64(0))
    v = torch.from_numpy(random.standard_normal(twin.x0.numel())).to(twin.x0)
    unit = v * ((float(twin.x0.norm()) or 1.0) / float(v.norm()))
    moved = torch.stack([LARGE * unit, SMALL * unit])
    changes = twin.finite(twin.evaluate(twin.x0 + moved)) - twin.finite(twin.evaluate(twin.copies(2)))
    large, small = (changes.norm(dim=1) / moved.norm(dim=1)).tolist()
    if not abs(large - small) <= AGREEMENT * large:
        raise UnsupportedError(
            f"{twin.name} is not smooth in float64: its gain is {large:.6g} at a relative step of {LARGE:g} and "
            f"{small:.6g} at {SMALL:g}; something narrower hides inside, so it is no oracle"
        )
