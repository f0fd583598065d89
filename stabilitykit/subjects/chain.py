"""A chain of random matrices as a subject: nothing but products, the same on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.function_subject import FunctionSubject


@dataclass(frozen=True)
class ChainRecipe:
    """What decides the numbers of a chain: `depth` matrices of `dim` x `dim`, N(0, weight_scale^2), drawn from `seed`.

    `weight_scale` None is 1 / sqrt(dim), which keeps the length of a vector on average. UsageError for no chain.
    """

    depth: int
    dim: int
    weight_scale: float | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse what is no chain."""
        for name, count in (("depth", self.depth), ("dim", self.dim)):
            if not isinstance(count, int) or count < 1:
                raise UsageError(f"{name}={count!r}: a chain of matrices has at least 1")
        if self.weight_scale is not None and not 0 < self.weight_scale < math.inf:
            raise UsageError(f"weight_scale={self.weight_scale!r} is no standard deviation; give a positive number")

    @property
    def scale(self) -> float:
        """The standard deviation of a weight."""
        return 1 / math.sqrt(self.dim) if self.weight_scale is None else self.weight_scale


class Chain(FunctionSubject):
    """x -> W_depth ... W_1 x for rows (B, dim), one product after the other in the chain's dtype.

    Weights and x ~ N(0, 1) are drawn on the CPU in float64, rounded once and then moved, so every device has the same
    ones; their digest is in the description. The float64 twin has the same rounded weights, widened.
    """

    made_by: ClassVar[str] = "asked.subject(), where asked = MatmulChain(...)"

    def __init__(
        self, recipe: ChainRecipe, dtype: torch.dtype, *, device: str | torch.device = "cpu", batch: int = 1
    ) -> None:
        # Streams of their own: x0 does not depend on how many matrices were drawn before it.
        drawn = [np.random.Generator(np.random.PCG64([recipe.seed, number])) for number in range(recipe.depth + 1)]
        x0 = torch.from_numpy(drawn[0].standard_normal(recipe.dim)).to(dtype)
        shape = (recipe.dim, recipe.dim)
        self.weights = [torch.from_numpy(one.standard_normal(shape) * recipe.scale).to(dtype) for one in drawn[1:]]
        self.recipe = recipe
        self.weights_digest = digest(*self.weights)
        self.weights = [W.to(device) for W in self.weights]
        super().__init__(
            self._products, x0.to(device), batch=batch, name=f"{recipe.depth} products of dim {recipe.dim}"
        )

    def _products(self, X: Tensor) -> Tensor:
        for W in self.weights:
            X = X @ W.to(X.dtype).T
        return X

    def with_batch(self, batch: int) -> Chain:
        """Return the same chain in another batch shape."""
        other = Chain.__new__(Chain)
        other.recipe, other.weights, other.weights_digest = self.recipe, self.weights, self.weights_digest
        FunctionSubject.__init__(other, self._products, self.x0, batch=batch, name=self.name)
        other.counter = self.counter
        return other

    def describe(self) -> dict[str, Any]:
        """Return the recipe and the digest of the weights with what describes any subject."""
        return {
            **super().describe(),
            "layers": self.recipe.depth,
            "weight_scale": self.recipe.scale,
            "weights_seed": self.recipe.seed,
            "weights_digest": self.weights_digest,
        }
