"""The arguments of an operation as JSON: the tensors by their number, and what else there is by its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_NAMED = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of arguments or results, in the order of `encoded`; other objects are not looked into."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)


def encoded(args: Any, kwargs: Mapping[str, Any]) -> list[Any]:
    """Return [positional, named] as JSON has it: {"tensor": k} for the k-th tensor, {"dtype": "float32"}, ...

    What has no form of its own, such as a random generator, becomes {"other": its type}: it can be told, not called.
    """
    counted = iter(range(1 << 31))
    return [_encoded(list(args), counted), {name: _encoded(one, counted) for name, one in kwargs.items()}]


def _encoded(value: Any, counted: Iterator[int]) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": next(counted)}
    if isinstance(value, list | tuple):
        return [_encoded(item, counted) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    for kind, name in _NAMED.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"mapping": {str(name): _encoded(item, counted) for name, item in value.items()}}
    return {"other": type(value).__name__}
