"""Where each defect goes wrong: from a call of an operation to what a buggy kernel would have made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabilitykit.faults.arithmetic import fused_multiply_add, narrow_product, next_up, split_product, tf32
from stabilitykit.numerics.bits import bits_equal

ATTENTION = "scaled_dot_product_attention"
"""The one function that is met above the dispatcher, where it has the same arguments for every kernel behind it."""

_LARGEST_EPS, _EPS_FACTOR = 1e-3, 0.1
_REMEMBERED = 4  # products that wait for their addition: a rotation computes two before it adds them
_EXPONENTIALS = {"exp", "tanh", "sigmoid", "silu", "gelu", "_softmax"}


class Wrong(NamedTuple):
    """A call that a defect has a place in: the tensor whose rows and tokens decide, and what is done instead."""

    about: Tensor
    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """An operation that is asked for; `run` is the operation itself."""

    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def again(self, *args: Any, **keywords: Any) -> Any:
        """Run it with other arguments."""
        return self.run(*args, **{**self.keywords, **keywords})


Find = Callable[[Call], Wrong | None]


def _forget(call: Call, output: Any) -> None:
    """Most defects need to know one call only."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One defect at work: `find` says where it has a place, `seen` is told what a call gave."""

    find: Find
    seen: Callable[[Call, Any], None] = _forget


def counts(x: Any) -> bool:
    """Whether a fault may touch a tensor: numbers in a model's dtype. Float64 is what this kit measures with."""
    return isinstance(x, Tensor) and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _product(wrong: Callable[[Tensor, Tensor], Tensor], *dtypes: torch.dtype) -> Find:
    def find(call: Call) -> Wrong | None:
        if call.name not in ("mm", "addmm") or call.keywords or not counts(call.args[-1]):
            return None
        *added, a, b = call.args
        if dtypes and a.dtype not in dtypes:
            return None
        return Wrong(a, lambda: added[0] + wrong(a, b) if added else wrong(a, b))

    return find


def _reversed_sum(call: Call) -> Wrong | None:
    if call.name in ("mean", "sum") and counts(call.args[0]) and [*call.args[1:2]] == [[-1]]:
        x, *rest = call.args
        return Wrong(x, lambda: call.again(x.flip(-1), *rest))
    if call.name == "native_layer_norm" and counts(call.args[0]) and len(call.args[1]) == 1:
        x, shape, weight, bias, eps = call.args

        def backwards() -> tuple[Tensor, ...]:
            scales = (None if one is None else one.flip(-1) for one in (weight, bias))
            y, *moments = call.again(x.flip(-1), shape, *scales, eps)
            return (y.flip(-1), *moments)

        return Wrong(x, backwards)
    return None


def _fused() -> Edit:
    products: deque[tuple[Tensor, Tensor, Any]] = deque(maxlen=_REMEMBERED)

    def seen(call: Call, output: Any) -> None:
        if call.name == "mul" and counts(output) and all(counts(one) or isinstance(one, float) for one in call.args):
            products.append((output, *call.args))

    def find(call: Call) -> Wrong | None:
        if call.name != "add" or call.keywords or not all(map(counts, call.args)):
            return None
        for product, addend in (call.args, call.args[::-1]):
            factors = next(((a, b) for known, a, b in products if known is product), None)
            if factors and addend.dtype == product.dtype:
                return Wrong(product, partial(fused_multiply_add, *factors, addend))
        return None

    return Edit(find, seen)


def _exponential(call: Call) -> Wrong | None:
    if call.name in _EXPONENTIALS and counts(call.args[0]):
        return Wrong(call.args[0], lambda: next_up(call.again(*call.args)))
    return None


def _eps(call: Call) -> Wrong | None:
    if call.name == "add" and counts(call.args[0]) and isinstance(call.args[1], float):
        x, eps = call.args
        return Wrong(x, lambda: call.again(x, eps * _EPS_FACTOR)) if 0 < eps <= _LARGEST_EPS else None
    if call.name == "native_layer_norm" and counts(call.args[0]):
        *rest, eps = call.args
        return Wrong(rest[0], lambda: call.again(*rest, eps * _EPS_FACTOR))
    return None


def _unmasked(call: Call) -> Wrong | None:
    masked = call.keywords.get("is_causal") or call.keywords.get("attn_mask") is not None
    if call.name != ATTENTION or not masked or not counts(call.args[0]):
        return None
    return Wrong(call.args[0], lambda: call.again(*call.args, is_causal=False, attn_mask=None))


def _stale(call: Call) -> Wrong | None:
    """The newest rows of keys and values are those before them: a slot that was not written in time holds old ones."""
    if call.name != ATTENTION or not counts(call.args[0]):
        return None
    query, *cached = call.args
    if query.shape[-2] >= cached[0].shape[-2]:
        return None

    def late() -> Any:
        stale = (torch.cat([rows[..., :-1, :], rows[..., -2:-1, :]], -2) for rows in cached)
        return call.again(query, *stale)

    return Wrong(query, late)


def _headless(call: Call) -> Wrong | None:
    if call.name != ATTENTION or not counts(call.args[0]):
        return None

    def short() -> Tensor:
        merged: Tensor = call.again(*call.args)
        return torch.cat([merged[:, :-1], torch.zeros_like(merged[:, -1:])], 1)

    return Wrong(call.args[0], short)


def _turned(call: Call) -> Wrong | None:
    """Rotary angles are whole positions (..., T, 1) times frequencies (D/2,), of which the first is 1."""
    if call.name != "mul" or not all(map(counts, call.args)):
        return None
    positions, frequencies = call.args
    if frequencies.ndim != 1 or positions.ndim < 2 or positions.shape[-1] != 1 or frequencies[0] != 1:
        return None
    if not bits_equal(positions, positions.round()):
        return None

    def late() -> Any:
        return call.again(torch.cat([positions[..., :-1, :], positions[..., -1:, :] + 1], -2), frequencies)

    return Wrong(positions, late)


def _nowhere(call: Call) -> Wrong | None:
    return None


EDITS: Mapping[str, Callable[[], Edit]] = {
    "nothing": lambda: Edit(_nowhere),
    "reordered-sum": lambda: Edit(_reversed_sum),
    "split-k": lambda: Edit(_product(split_product)),
    "tf32": lambda: Edit(_product(lambda a, b: torch.mm(tf32(a), tf32(b)), torch.float32)),
    "bf16-accumulation": lambda: Edit(_product(narrow_product)),
    "fma": _fused,
    "exp-ulp": lambda: Edit(_exponential),
    "wrong-eps": lambda: Edit(_eps),
    "dropped-mask": lambda: Edit(_unmasked),
    "stale-kv": lambda: Edit(_stale),
    "dropped-head": lambda: Edit(_headless),
    "wrong-rope": lambda: Edit(_turned),
}
"""By defect; each context gets an edit of its own."""
