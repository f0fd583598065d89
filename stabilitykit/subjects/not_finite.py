"""Where a forward leaves the finite numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HALF = "; float16 ends at 65504: load the model in bfloat16 or float32"


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, output) of every call of a submodule that returns a tensor, or a tuple that begins with one."""
    outputs: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Any:
        def append(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor):
                outputs.append((name, first))

        return append

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def origin(outputs: Sequence[tuple[str, Tensor]]) -> str:
    """Return which module's output is the first that is not finite, and what may help; "" where none is.

    The outputs are in the order in which the modules ended, so that of nested ones the innermost is named.
    """
    for name, output in outputs:
        if not bool(torch.isfinite(output).all()):
            return f"module {name!r} is the first to give {_kind(output)}{HALF * (output.dtype == torch.float16)}"
    return ""


def _kind(output: Tensor) -> str:
    return "NaN" if bool(torch.isnan(output).any()) else "an infinite number"
