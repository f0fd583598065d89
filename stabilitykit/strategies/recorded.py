"""A direction that was measured before: its recipe, and the bits it had then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import UnreadableError
from stabilitykit.strategies.recipe import Direction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Recorded:
    """A direction of a former search, to be tried again: it expands to the bits it had then, whatever is given.

    A recipe on a basis means another vector wherever the basis has other bits; what is replayed is the vector. It
    stands in for a `Direction` in a test: `direction.on(basis)` is itself, `direction.expand(basis)` the vector.
    """

    direction: Direction
    vector: Tensor
    basis: str = ""
    """Digest of the basis that the recipe was expanded on, if its kind has one."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], vector: Tensor | None, digest: str) -> Recorded:
        """Rebuild it from a recipe's `to_dict`, its recorded bits (dim,) float64, and their digest.

        Without bits the recipe is expanded. UnreadableError where the bits are missing and cannot be had again, are
        damaged, or are not what the recipe expands to.
        """
        from stabilitykit.numerics.digest import digest as digest_of

        direction = Direction.from_dict(data)
        if direction.kind == "subspace" and vector is None:
            raise UnreadableError(f"the bits of {direction} were not recorded, and its basis is not at hand")
        forms = {"expansion": None if direction.kind == "subspace" else direction.expand(), "record": vector}
        known = {name: bits for name, bits in forms.items() if bits is not None}
        for name, bits in known.items():
            if tuple(bits.shape) != (direction.dim,) or digest_of(bits) != digest:
                raise UnreadableError(f"{direction}: its {name} has other bits than were measured; measure again")
        return cls(direction, next(iter(known.values())), str(data.get("basis", "")))

    @property
    def kind(self) -> str:
        """The recipe's kind."""
        return self.direction.kind

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.direction.dim

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the recorded bits, (dim,) float64."""
        return self.vector

    def on(self, basis: Tensor | None) -> Recorded:
        """Return itself: its bits are known."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe's data, with the digest of the basis it was expanded on."""
        return {**self.direction.to_dict(), **({"basis": self.basis} if self.basis else {})}

    def __repr__(self) -> str:
        """Return the recipe's repr, marked where only the record knows the basis."""
        return f"{self.direction!r} as recorded" if self.basis else repr(self.direction)
