"""Jacobian products of a causal subject at x0, batched: one lane a vector, all lanes at the same point.

Reverse mode runs through the measured kernels. Forward mode is not implemented for fused attention, so it runs under
the math kernel, whose primal differs in its last bits; both primals are recorded, and the two products are held to
<u, J v> = <J'u, v>. An operation without a forward rule (a hand-written backward) is differentiated backwards twice:
J v is then the gradient of <J'u, v> by u.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from stabilitykit.errors import UnsupportedError


class Differentiable(Protocol):
    """What the products need: rows in, rows out, with a graph."""

    name: str
    model: Any

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def has_experts(self) -> bool: ...  # noqa: D102

    def copies(self, batch: int) -> Tensor: ...  # noqa: D102

    def prepare(self, batch: int) -> None: ...  # noqa: D102

    def forward(self, X: Tensor, implementation: str | None = None) -> Tensor: ...  # noqa: D102


class Forward(NamedTuple):
    """The primal (k, M), J v (k, M), and how it was found: by "dual numbers" or by "reverse mode twice"."""

    primal: Tensor
    tangent: Tensor
    mode: str


def vjp(subject: Differentiable, U: Tensor) -> tuple[Tensor, Tensor]:
    """Return the primal (k, M) and J'u (k, H) for rows of U (k, M); UnsupportedError where autograd refuses."""
    subject.prepare(len(U))
    X = subject.copies(len(U)).requires_grad_()
    try:
        with torch.enable_grad(), _overwritten_kept(subject):
            Y = subject.forward(X)
            (gradient,) = torch.autograd.grad((Y * U.to(Y)).sum(), X)
    except (NotImplementedError, RuntimeError) as error:
        raise UnsupportedError(_refusal(subject, "reverse", error)) from error
    return Y.detach(), gradient


def jvp(subject: Differentiable, V: Tensor) -> Forward:
    """Return the primal and J v for rows of V (k, H); UnsupportedError where there is no rule for either way."""
    subject.prepare(len(V))
    # The grouped matmul of mixtures has no forward derivative; batched experts compute the same function.
    experts = "batched_mm" if subject.has_experts else None
    with sdpa_kernel(SDPBackend.MATH), _own_deprecations_quiet():
        try:
            return _dual(subject, V, experts)
        except RuntimeError as error:
            try:
                return _reversed_twice(subject, V, experts)
            except RuntimeError:
                raise UnsupportedError(_refusal(subject, "forward", error)) from error


def _dual(subject: Differentiable, V: Tensor, experts: str | None) -> Forward:
    X = subject.copies(len(V))
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(X, V.to(X))  # type: ignore[no-untyped-call]
        primal, tangent = forward_ad.unpack_dual(subject.forward(dual, experts))  # type: ignore[no-untyped-call]
    if tangent is None:
        raise UnsupportedError(f"{subject.name} has an operation that drops forward derivatives")
    return Forward(primal, tangent, "dual numbers")


def _reversed_twice(subject: Differentiable, V: Tensor, experts: str | None) -> Forward:
    X = subject.copies(len(V)).requires_grad_()
    with torch.enable_grad(), _overwritten_kept(subject):
        Y = subject.forward(X, experts)
        U = torch.zeros_like(Y, requires_grad=True)  # J'u is linear in u, so any u will do
        (gradient,) = torch.autograd.grad(Y, X, U, create_graph=True)
        (tangent,) = torch.autograd.grad(gradient, U, V.to(X))
    return Forward(Y.detach(), tangent, "reverse mode twice")


def _overwritten_kept(subject: Differentiable) -> AbstractContextManager[Any]:
    """Keep what reverse mode needs of the prefix's states where the forward writes into them."""
    prefixes = getattr(subject, "_prefixes", {}).values()
    if all(prefix.shared for prefix in prefixes):
        return nullcontext()
    return torch.autograd.graph.allow_mutation_on_saved_tensors()


@contextmanager
def _own_deprecations_quiet() -> Iterator[None]:
    """Silence torch's warning about the scripting that its own forward rules use; users cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning)
        yield


def _refusal(subject: Differentiable, mode: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"{subject.name} ({type(subject.model).__name__}, {subject.path}) has no {mode} derivative: {reason}"
