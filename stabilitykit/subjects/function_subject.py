"""Any function on rows as a subject: a kernel, a module, a toy whose answer is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects import precision
from stabilitykit.subjects.subject import Subject, checked


class FunctionSubject(Subject):
    """Any function (B, H) -> (B, M): a kernel, a module, a toy with a known answer.

    `fn` must map rows to rows; derivatives come from autograd. `first`, if given, is the part of fn
    through which alone it reads its input: what leaves its state unchanged then leaves the output unchanged.
    `exact` is its float64 twin; by default fn itself, asked in float64, which suits what holds no narrower tensors.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        x0: Tensor,
        *,
        batch: int = 1,
        name: str | None = None,
        first: Callable[[Tensor], Tensor] | None = None,
        exact: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(x0, batch=batch, name=name or str(getattr(fn, "__name__", type(fn).__name__)))
        self.fn = fn
        self.first = first
        self.exact = exact

    def evaluate(self, X: Tensor) -> Tensor:
        """Run fn on exactly these rows."""
        self.counter.forwards += len(X)
        self.counter.calls += 1
        with torch.no_grad():
            return self.fn(X)

    def with_batch(self, batch: int) -> FunctionSubject:
        """Return the same function in another batch shape."""
        return self._with(self.x0, batch)

    def at(self, x: Tensor, *, proved: bool = True) -> FunctionSubject:
        """Return the same function at x (H,); UsageError for another shape or dtype. There is nothing to prove."""
        return self._with(checked(x, self.x0), self.batch)

    def _with(self, x0: Tensor, batch: int) -> FunctionSubject:
        other = FunctionSubject(self.fn, x0, batch=batch, name=self.name, first=self.first, exact=self.exact)
        other.counter = self.counter
        return other

    def in_float64(self) -> FunctionSubject:
        """Return `exact`, or fn under `true_float64`; UnsupportedError if that leaves float64 or is not smooth."""
        twin = FunctionSubject(precision.in_double(self.exact or self.fn), self.x0.double(), batch=self.batch)
        twin.name, twin.counter = f"{self.name} in float64", self.counter
        try:
            dtype = twin.baseline.dtype
        except RuntimeError as error:
            raise UnsupportedError(
                f"{self.name} takes no float64 input ({str(error).splitlines()[0]}); give exact="
            ) from None
        if dtype != torch.float64:
            raise UnsupportedError(
                f"{self.name} answers float64 with {name_of(dtype)}; give its float64 twin as exact="
            )
        precision.require_smooth(twin)
        return twin

    @property
    def depth(self) -> int:
        """One stage if `first` was given."""
        return int(self.first is not None)

    @property
    def screens(self) -> bool:
        """Whoever gives `first` promises that fn reads its input through it alone."""
        return self.first is not None

    def first_blocks(self, X: Tensor, blocks: int = 1) -> Tensor:
        """Run `first` on exactly these rows."""
        if self.first is None:
            return super().first_blocks(X, blocks)
        self.counter.screened += len(X)
        self.counter.calls += 1
        with torch.no_grad():
            return self.first(X)

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v by forward-mode AD, one row at a time."""
        self.counter.tangents += len(V)
        x0 = self.copies(1)
        with warnings.catch_warnings():
            # torch's own forward rules use its deprecated scripting; users cannot act on that.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning)
            rows = [torch.func.jvp(self.fn, (x0,), (v[None].to(x0),))[1] for v in V]
        return torch.cat(rows).detach()

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u by reverse mode, all rows in one batch; UnsupportedError where autograd refuses."""
        self.counter.backwards += len(U)
        X = self.copies(len(U)).requires_grad_()
        try:
            (gradient,) = torch.autograd.grad((self.fn(X) * U.to(X)).sum(), X)
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedError(f"{self.name} has no reverse derivative: {str(error).splitlines()[0]}") from error
        return gradient
