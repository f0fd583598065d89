"""The perturbed input x(s) = x0 + s d, as it is evaluated: where it is rounded, and to what."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import name_of

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def _p64r(x0: Tensor, d: Tensor, s: Tensor) -> Tensor:
    return (x0.double() + s * d.double()).to(x0.dtype)


def _p32(x0: Tensor, d: Tensor, s: Tensor) -> Tensor:
    return (x0.float() + s.float() * d.float()).to(x0.dtype)


def _native(x0: Tensor, d: Tensor, s: Tensor) -> Tensor:
    return x0 + s.to(x0.dtype) * d.to(x0.dtype)


RULES: dict[str, Rule] = {"p64r": _p64r, "p32": _p32, "native": _native}
"""The evaluated maps: float64 then one rounding (default), float32 throughout, the dtype throughout."""


def check_rule(rule: str, dtype: torch.dtype) -> None:
    """Refuse an unknown rule, and one that the dtype cannot follow."""
    if rule not in RULES:
        raise UsageError(f"rule {rule!r} is not one of {', '.join(RULES)}")
    if rule == "native" and dtype.itemsize == 1:
        raise UsageError(f"rule 'native' adds in {name_of(dtype)}, which torch cannot; take 'p64r' or 'p32'")


def perturb(x0: Tensor, direction: Tensor, s: float | Tensor, rule: str = "p64r") -> Tensor:
    """Return x(s) = x0 + s * direction as the rule evaluates it, in x0's dtype, on the CPU.

    `x0` and `direction` are (H,); `s` is a float or (K,), giving (H,) or (K, H). The product is a tensor of its own,
    so no kernel can fuse it with the sum. UsageError for an unknown rule or different shapes. O(K H).
    """
    check_rule(rule, x0.dtype)
    if x0.shape != direction.shape:
        raise UsageError(f"the direction has shape {tuple(direction.shape)}, the input {tuple(x0.shape)}")
    steps = torch.as_tensor(s, dtype=torch.float64)
    moved: Tensor = RULES[rule](x0.cpu(), direction.cpu(), steps[..., None])
    return moved
