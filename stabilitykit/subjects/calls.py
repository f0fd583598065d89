"""What the modules of a model were given and what they returned in one forward, so that each can be run again alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stabilitykit.subjects import experts
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.states import by_token

FOREIGN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a module may raise where it is run without the rest of its model: none of them says that the kit is wrong."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward of one row of T tokens; all tensors are copies.

    `entered` (T, M_in) is the state among its arguments and `left` (T, M_out) the one it returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entered: Tensor
    left: Tensor

    def again(self, subject: CausalLMSubject, module: nn.Module, state: Tensor) -> Tensor:
        """Run a module of the subject on these arguments with the state (T, M_in) replaced; return (T, M_out)."""
        given = self.args[0] if self.args else self.kwargs["hidden_states"]
        replaced = state.to(given).reshape(given.shape)
        args, kwargs = self.args, self.kwargs
        args, kwargs = ((replaced, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": replaced})
        with torch.no_grad(), experts.using(subject.model, subject.experts), subject.arithmetic():
            output = module(*args, **kwargs)
        return _tokens(first(output), len(self.left)).clone()


def recorded(subject: CausalLMSubject, x: Tensor, names: Sequence[str]) -> dict[str, Call]:
    """Run one input (H,) on the prefill path and return the call of each named module.

    Absent are modules that were not called exactly once, or not from one vector a token to one vector a token. Cost:
    one forward, and the memory of all their arguments.
    """
    prefill = subject.on_prefill()
    calls: dict[str, list[Call | None]] = {name: [] for name in names}
    with torch.no_grad(), ExitStack() as hooks:
        for name in names:
            _listen(hooks, subject.model.get_submodule(name), calls[name], prefill.tokens_run)
        prefill.run_through(x[None].to(subject.x0))
    subject.counter.forwards += 1
    return {name: one[0] for name, one in calls.items() if len(one) == 1 and one[0] is not None}


def first(output: Any) -> Any:
    """Return what a module returned, the first of several things."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _listen(hooks: ExitStack, module: nn.Module, calls: list[Call | None], tokens: int) -> None:
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(tree_map_only(Tensor, Tensor.clone, (args, kwargs)))

    def after(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        args, kwargs = given.pop()
        entered = _state(args[0] if args else kwargs.get("hidden_states"), tokens)
        left = _state(first(output), tokens)
        calls.append(None if entered is None or left is None else Call(args, kwargs, entered, left.clone()))

    removers: list[Callable[[], None]] = [
        module.register_forward_pre_hook(before, with_kwargs=True).remove,
        module.register_forward_hook(after, with_kwargs=True).remove,
    ]
    for remove in removers:
        hooks.callback(remove)


def _state(value: Any, tokens: int) -> Tensor | None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    rows = by_token(value, 1, tokens)
    return None if rows is None else rows[0]


def _tokens(value: Any, tokens: int) -> Tensor:
    state = _state(value, tokens)
    assert state is not None, "the module returned one vector a token before"
    return state
