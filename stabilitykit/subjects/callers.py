"""Which module of a model is running: the address of an operation that is asked for inside a forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn


class Place(NamedTuple):
    """The `occurrence`-th time, from 0, that a module asks for an operation; "" is the model's own forward."""

    module: str
    operation: str
    occurrence: int

    def __str__(self) -> str:
        """Return e.g. `model.layers.3.mlp.down_proj/aten.mm#0`."""
        return f"{self.module}/{self.operation}#{self.occurrence}"


@dataclass
class Callers:
    """The modules that are running, outermost first, and what each has asked for so far."""

    running: list[str] = field(default_factory=lambda: [""])
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def place(self, operation: str) -> Place:
        """Return the address of an operation that is asked for now; each call counts as one."""
        key = (self.running[-1], operation)
        self.counts[key] += 1
        return Place(*key, self.counts[key] - 1)


@contextmanager
def calling(model: nn.Module) -> Iterator[Callers]:
    """Follow which submodule is running, by its qualified name; a shared module has its first name."""
    callers = Callers()

    def enter(name: str) -> Any:
        return lambda _module, _inputs: callers.running.append(name)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        callers.running.pop()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield callers
    finally:
        for handle in handles:
            handle.remove()
