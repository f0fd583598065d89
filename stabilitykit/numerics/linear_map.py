"""A linear map known only by its products: y = J x and x = J' y, in batches, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stabilitykit.errors import UsageError

Product = Callable[[Tensor], Tensor]


@dataclass
class LinearMap:
    """J (M, H) as two functions on rows: `forward` (k, H) -> (k, M) is v -> J v, `adjoint` is u -> J'u.

    Vectors come and go as float64 on the CPU; what is inside may round to any dtype. No product is asked for more than
    `rows` at once. `products` counts rows of both.
    """

    forward: Product
    adjoint: Product
    shape: tuple[int, int]
    rows: int = 64
    products: int = field(default=0, init=False)

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> LinearMap:
        """Wrap a dense J (M, H)."""
        J = matrix.double()
        return cls(lambda V: V @ J.T, lambda U: U @ J, (J.shape[0], J.shape[1]))

    def transposed(self) -> LinearMap:
        """Return J' as a map; its products count here too."""
        return LinearMap(self.apply_adjoint, self.apply, (self.shape[1], self.shape[0]), self.rows)

    def apply(self, vectors: Tensor) -> Tensor:
        """Return J v for each row of (k, H) or for one (H,)."""
        return self._counted(self.forward, vectors, self.shape[1])

    def apply_adjoint(self, vectors: Tensor) -> Tensor:
        """Return J'u for each row of (k, M) or for one (M,)."""
        return self._counted(self.adjoint, vectors, self.shape[0])

    def dense(self) -> Tensor:
        """Return J (M, H) in float64, from M adjoint products or, where they are fewer, H forward ones.

        Memory: 8 M H bytes, and `rows` rows of an identity.
        """
        M, H = self.shape
        if H < M:
            return torch.cat([self.apply(units) for units in self._units(H)]).T.contiguous()
        return torch.cat([self.apply_adjoint(units) for units in self._units(M)])

    def _units(self, width: int) -> Iterator[Tensor]:
        for start in range(0, width, self.rows):
            rows = torch.zeros(min(self.rows, width - start), width, dtype=torch.float64)
            rows[:, start:].fill_diagonal_(1)
            yield rows

    def _counted(self, product: Product, vectors: Tensor, width: int) -> Tensor:
        rows = vectors.reshape(-1, vectors.shape[-1]).double()
        if rows.shape[1] != width:
            raise UsageError(f"vectors of length {rows.shape[1]} do not fit a map of shape {self.shape}")
        self.products += rows.shape[0]
        found = torch.cat([product(some).double().cpu() for some in torch.split(rows, self.rows)])
        return found.reshape(*vectors.shape[:-1], -1)


def adjoint_defect(linear_map: LinearMap, u: Tensor, v: Tensor) -> float:
    """Return |<u, J v> - <J'u, v>| / (|u| |J v|), which is 0 for exact adjoints; two products.

    NaN where J v = 0: such a v tells nothing.
    """
    Jv, Ju = linear_map.apply(v), linear_map.apply_adjoint(u)
    scale = torch.linalg.vector_norm(u.double()) * torch.linalg.vector_norm(Jv)
    return float((u.double() @ Jv - Ju @ v.double()).abs() / scale)
