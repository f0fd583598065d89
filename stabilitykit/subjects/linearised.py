"""The derivative of a subject at x0 from forwards that are run once and kept, for any number of vectors.

J'u of many rows is one backward pass through the graph of a single row. It gives J'u as a linear function of u, whose
gradient is J v (Pearlmutter's trick, twice in reverse); the graph of that backward pass is kept too. So a product costs
one pass through the weights and no forward, where a product of its own costs two or more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects import products
from stabilitykit.subjects.products import Differentiable

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject

CHUNK_BYTES = 256 << 20
"""Memory that the rows of one product may take."""

_LIVE = 16
"""Numbers of a backward pass that are alive at once, in widths of the widest layer."""


class Linearised:
    """J v and J'u of a subject at x0, one kept forward each; rows side by side where a graph cannot be kept.

    J'u runs through the measured kernels, J v through the math kernel, as in `products`. Memory: the graph of one row.
    UnsupportedError, from a product, where autograd refuses.
    """

    def __init__(self, subject: Differentiable) -> None:
        self.subject = subject

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u for rows (k, M)."""
        try:
            X, Y = self._forward
            return _gradients(Y, X, U)
        except RuntimeError:  # a state written in place, or a backward without a rule for many rows at once
            return products.vjp(self.subject, U)[1]

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v for rows (k, H)."""
        try:
            U, gradient = self._backward
            return _gradients(gradient, U, V)
        except RuntimeError:  # or one that cannot be differentiated again
            return products.jvp(self.subject, V).tangent

    @cached_property
    def _forward(self) -> tuple[Tensor, Tensor]:
        self.subject.prepare(1)
        X = self.subject.copies(1).requires_grad_()
        with torch.enable_grad():
            return X, self.subject.forward(X)

    @cached_property
    def _backward(self) -> tuple[Tensor, Tensor]:
        self.subject.prepare(1)
        X = self.subject.copies(1).requires_grad_()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            Y = self.subject.forward(X, "batched_mm" if self.subject.has_experts else None)
            U = torch.zeros_like(Y, requires_grad=True)  # J'u is linear in u, so any u will do
            (gradient,) = torch.autograd.grad(Y, X, U, create_graph=True)
        return U, gradient


def _gradients(output: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
    """Return the gradient of <output, row> by `wanted` for each row."""
    cotangents = rows.to(output)[:, None]
    (found,) = torch.autograd.grad(output, wanted, cotangents, retain_graph=True, is_grads_batched=True)
    return found[:, 0]


def rows_at_once(modules: Iterable[nn.Module], ends: int, tokens: int, itemsize: int) -> int:
    """Return the rows of a product that CHUNK_BYTES hold, by the widest layer, for all tokens, or the wider end."""
    widths = [max(weight.shape) for module in modules for weight in module.parameters() if weight.dim() > 1]
    return max(1, CHUNK_BYTES // (_LIVE * itemsize * max(ends, tokens * max(widths, default=1))))


def linear_map(subject: CausalLMSubject) -> LinearMap:
    """Return J at x0 by the products of `subject.linear`, whose rows are counted."""
    kept, counter = Linearised(subject.linear), subject.counter
    M, H = subject.baseline.shape[1], subject.x0.numel()

    def forward(V: Tensor) -> Tensor:
        counter.tangents += len(V)
        return kept.jvp(V)

    def adjoint(U: Tensor) -> Tensor:
        counter.backwards += len(U)
        return kept.vjp(U)

    rows = rows_at_once(subject.anatomy.blocks, max(M, H), subject.linear.tokens_run, subject.x0.element_size())
    return LinearMap(forward, adjoint, (M, H), rows)


def linear(subject: CausalLMSubject) -> CausalLMSubject:
    """Return the same function at batch 1 as its derivatives are taken: behind the cached prefix, where there is one.

    The tokens before the last are constants of it. States that are written in place leave no graph to keep, so there
    the whole prompt runs; and the subject's own path does where the other gives another output than rounding explains.
    Cost: a forward, and the prefix.
    """
    own = subject.copied(batch=1, _prefixes=subject._prefixes)
    cheaper = own
    if "decode" in subject.paths:
        cached = subject.copied(path="decode", batch=1, _prefixes=subject._prefixes)
        cached.prepare(1)
        shared = all(prefix.shared for prefix in cached._prefixes.values())
        cheaper = cached if shared else subject.copied(path="prefill", batch=1)
    if cheaper.path == subject.path:
        return own
    y, y0 = cheaper.baseline[0].double(), subject.baseline[0].double()
    return cheaper if float((y - y0).norm()) <= bound(subject) * float(y0.norm()) else own


def bound(subject: CausalLMSubject) -> float:
    """The stated bound on the adjoint defect: the square root of the machine epsilon, that of float32 for float64.

    Norms and softmaxes of most models round to float32 whatever the model's dtype.
    """
    return math.sqrt(max(torch.finfo(subject.x0.dtype).eps, torch.finfo(torch.float32).eps))


def check(subject: CausalLMSubject, J: LinearMap) -> dict[str, Any]:
    """Return the adjoint defect |<u, J v> - <J'u, v>| / (|u| |J v|), its bound, and the digests of both primals.

    J'u and one J v are those of J; another J v is of forward-mode rules, which share nothing with those of
    reverse mode. The larger of the two defects is returned. `forward_mode` is the way of the second J v: after "reverse
    mode twice" the defect compares kernels, not independent rules. `derivative_path` is that of all of them.
    """
    random = np.random.Generator(np.random.PCG64(1))
    # About of unit length, an exact power of two below 2**20: float16 overflows at 65504.
    v = torch.from_numpy(random.integers(-(2**20), 2**20, size=subject.x0.numel()) * 2.0**-24)[None]
    subject.counter.tangents += 1
    forward_primal, Jv, mode = products.jvp(subject.linear, v)
    Jv = Jv.double().cpu()
    Ju = J.apply_adjoint(Jv)
    scale = float(torch.linalg.vector_norm(Jv) ** 2)
    defects = [abs(float((Jv * one).sum() - (Ju * v).sum())) / scale for one in (Jv, J.apply(v))]
    reverse_primal = subject.linear.baseline
    return {
        "adjoint_defect": max(defects),
        "adjoint_bound": bound(subject),
        "forward_mode": mode,
        "derivative_path": subject.linear.path,
        "forward_primal": digest(forward_primal[0]),
        "reverse_primal": digest(reverse_primal[0]),
        "primal_distance": float((forward_primal[0] - reverse_primal[0]).double().norm()),
    }
