"""The function under test: one embedding in, one vector out, all else fixed, its bits part of the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.numerics.bits import name_of, same_bits
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects import noise
from stabilitykit.subjects.measurable import Counter, Measurable
from stabilitykit.subjects.noise import NoiseFloor

Screening = Callable[[Tensor], Tensor]
"""From inputs (B, H) to (B,) whether each may change the output."""


class Subject(Measurable):
    """One input vector x (H,) to one output vector y (M,), evaluated in batches of a fixed shape.

    Floating-point outputs depend on the batch shape and on the slot a row sits in. So `batch` is part of the subject,
    the last batch is padded with x0, and a row is only ever compared with the baseline of its own slot.
    """

    made_by: ClassVar[str] = "CausalLMSubject(model, prompt) or FunctionSubject(fn, x0)"

    def __init__(self, x0: Tensor, *, batch: int = 1, name: str = "subject") -> None:
        if x0.dim() != 1 or not x0.dtype.is_floating_point:
            raise UsageError(f"x0 is {tuple(x0.shape)} {name_of(x0.dtype)}; give one floating-point vector (H,)")
        if batch < 1:
            raise UsageError(f"batch={batch} runs nothing; give at least 1")
        self.x0 = x0.detach()
        self.batch = batch
        self.name = name
        self.counter = Counter()
        self._noise: NoiseFloor | None = None

    @abstractmethod
    def evaluate(self, X: Tensor) -> Tensor:
        """Run exactly these rows (B, H) as one batch, without padding, and return (B, M)."""

    @abstractmethod
    def with_batch(self, batch: int) -> Subject:
        """Return the same function in another batch shape, sharing weights and counter."""

    def at(self, x: Tensor, *, proved: bool = True) -> Subject:
        """Return the same function at another input x (H,) in place of x0, sharing the counter and nothing remembered.

        `proved=False` leaves out the proofs about its bits, which a subject may take again there.
        """
        raise UnsupportedError(f"{self.name} is tied to its own input")

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v at x0 for each row of (k, H), as (k, M)."""
        raise UnsupportedError(f"{self.name} has no forward derivative")

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u at x0 for each row of (k, M), as (k, H)."""
        raise UnsupportedError(f"{self.name} has no reverse derivative")

    @property
    def linear(self) -> Subject:
        """The subject whose derivative is taken for this one's: the same function, perhaps on a cheaper path."""
        return self

    def linear_map(self) -> LinearMap:
        """Return J at x0 as a map known by its products."""
        return LinearMap(self.jvp, self.vjp, (self.baseline.shape[1], self.x0.numel()))

    def linearisation(self, J: LinearMap | None = None) -> dict[str, Any]:
        """Say at which primal the products are taken, and what was checked about them."""
        return {}

    def in_float64(self) -> Subject:
        """Return the same function with every number in float64, at x0.double(): the oracle of what rounding does.

        Same path and batch shape, counted together with this subject. UnsupportedError where there is none, or where it
        fails its self-test (see `precision.require_smooth`).
        """
        raise UnsupportedError(f"{self.name} has no float64 twin")

    def states(self, X: Tensor, sites: Sequence[str], *, whole: bool = False) -> dict[str, Tensor]:
        """Run (B, H) once and return the state at each site: (B, M) of the last token, `whole`: (B, T, M) of all.

        A site that gives no vector a row and token, or is not run, is absent from the answer.
        """
        raise UnsupportedError(f"{self.name} has no sites inside")

    def equivalents(self) -> Iterator[tuple[str, Tensor]]:
        """Yield named evaluations (B', M) of x0 that exact arithmetic could not tell apart, this subject's own first.

        Here: its own batch shape and others, and one thread where several run.
        """
        yield from noise.batches(self, lambda batch: self.with_batch(batch).evaluate(self.copies(batch)))

    def noise_floor(self) -> NoiseFloor:
        """Return how far mathematically equal evaluations of x0 lie apart; measured once. See `noise.NoiseFloor`."""
        if self._noise is None:
            self._noise = noise.floor(self)
        return self._noise

    def relatives(self, lengths: Sequence[int]) -> Iterator[Subject]:
        """Yield subjects of the same model whose bits batching may change: other lengths and paths; here only self."""
        yield self

    def neighbours(self, count: int, seed: int) -> Tensor:
        """Return other inputs to sit beside x0 in a batch, (count, H): x0 with its entries permuted."""
        random = np.random.Generator(np.random.PCG64(seed))
        orders = [random.permutation(self.x0.numel()) for _ in range(count)]
        return torch.stack([self.x0[torch.from_numpy(order)] for order in orders])

    @property
    def depth(self) -> int:
        """Number of blocks that staged evaluation can stop after; 0 means there are no stages."""
        return 0

    @property
    def screens(self) -> bool:
        """Whether an unchanged state after the first block proves an unchanged output."""
        return False

    @property
    def screenings(self) -> tuple[Screening, ...]:
        """Ways to see that rows leave the output unchanged without a whole forward, the cheapest first.

        Each gives (B,) whether a row may have changed it. Here: whether the state after the first block differs.
        """
        return (self._state_differs,) if self.screens else ()

    def _state_differs(self, X: Tensor) -> Tensor:
        return rows_differ(self.first_blocks(X), self.baseline_state)

    def first_blocks(self, X: Tensor, blocks: int = 1) -> Tensor:
        """Run (B, H) through the first blocks only and return the state (B, ...)."""
        raise UnsupportedError(f"{self.name} has no blocks")

    def __call__(self, X: Tensor) -> Tensor:
        """Return y for each row of (N, H): batches of the fixed shape, the last padded with x0. Row n sits in n % B."""
        rows = [self.evaluate(self._padded(chunk))[: len(chunk)] for chunk in torch.split(X, self.batch)]
        return self.finite(torch.cat(rows))

    @cached_property
    def baseline(self) -> Tensor:
        """y0 in every slot, (B, M): one forward of B copies of x0."""
        return self.finite(self.evaluate(self.copies(self.batch)))

    @cached_property
    def baseline_state(self) -> Tensor:
        """The state after the first block in every slot, (B, ...)."""
        return self.first_blocks(self.copies(self.batch))

    def copies(self, batch: int) -> Tensor:
        """Return x0 in every row, (batch, H), in memory of its own: what writes into its input must not reach x0."""
        return self.x0.repeat(batch, 1)

    def finite(self, Y: Tensor) -> Tensor:
        """Return Y, or raise InvalidError naming the first non-finite output.

        A finite sum has finite terms, and is one pass over a batch of logits; one that is not may have overflowed.
        """
        if not bool(torch.isfinite(Y.sum())) and not bool(torch.isfinite(Y).all()):
            row, column = (int(i) for i in (~torch.isfinite(Y)).nonzero()[0])
            raise InvalidError(
                f"{self.name}: output {column} of row {row} is {Y[row, column].item()}; nothing is measured"
            )
        return Y

    def describe(self) -> dict[str, Any]:
        """Return what identifies the subject, JSON-plain: the same description means the same bits are expected."""
        return {
            "name": self.name,
            "hidden_size": self.x0.numel(),
            "dtype": name_of(self.x0.dtype),
            "device": str(self.x0.device),
            "batch": self.batch,
            "x0_digest": digest(self.x0),
        }

    def _padded(self, X: Tensor) -> Tensor:
        missing = self.batch - len(X)
        return X if missing == 0 else torch.cat([X, self.copies(missing)])


def rows_differ(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) whether any bit of each row differs."""
    same = same_bits(a, b).flatten(1)
    # torch takes several times as long as numpy to reduce booleans, and a search asks for little else.
    return torch.from_numpy(~same.numpy().all(axis=1)) if same.device.type == "cpu" else ~same.all(dim=1)


def checked(x: Tensor, x0: Tensor) -> Tensor:
    """Return a copy of x beside x0; UsageError for another shape or dtype, InvalidError for a non-finite number."""
    if x.shape != x0.shape or x.dtype != x0.dtype:
        given, wanted = (f"{tuple(one.shape)} {name_of(one.dtype)}" for one in (x, x0))
        raise UsageError(f"x is {given}; this subject takes {wanted}")
    if not bool(torch.isfinite(x).all()):
        raise InvalidError(f"x is {x[~torch.isfinite(x)][0].item()} somewhere; give finite numbers")
    return x.detach().to(x0.device, copy=True)
