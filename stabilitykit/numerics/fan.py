"""Many rays from one input: their lattices, and steps along all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES


def fan(x0: Tensor, directions: Tensor, rule: str = "p64r") -> Iterator[Lattice]:
    """Yield the lattice of each direction (N, H) from x0 (H,); what depends on x0 alone is computed once. O(N H)."""
    first: Lattice | None = None
    for direction in directions.cpu():
        lattice = Lattice(x0, direction, rule)
        first = first or lattice
        yield lattice.sharing(first)


def on_rays(lattices: Sequence[Lattice], steps: Sequence[float]) -> Tensor:
    """Return x(s) of each ray at a step of its own, (K, H): the bits of `Lattice.at`, in one pass where x0 is one.

    The map is elementwise, so which rows it is evaluated with changes no bit. O(K H).
    """
    x0, rule = lattices[0].x0, lattices[0].rule
    directions = [lattice.direction for lattice in lattices]
    alike = all(lattice.x0 is x0 and lattice.rule == rule for lattice in lattices)
    if not alike or len({direction.dtype for direction in directions}) > 1:
        return torch.stack([lattice.at(s) for lattice, s in zip(lattices, steps, strict=True)])
    moved: Tensor = RULES[rule](x0, torch.stack(directions), torch.tensor(steps, dtype=torch.float64)[:, None])
    return moved.cpu()
