"""The choice of each token of a text: the logits in question, on every way of computing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.rounding import Floats
from stabilitykit.subjects.generation import Text, Way, first_largest

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Decisions:
    """What was decided at each of T generated tokens, by the reference and again by W ways on the same tokens.

    `rivals` (T, R + 1): the token taken and the R ids whose logits come next, equal ones by id. `logits`
    (W + 1, T, R + 1): theirs, the reference's first. `argmax` (W + 1, T): the id each way takes, the lowest of equal
    ones. `spacing` (T,): one ULP of the largest logit. `tied` (T,): how many ids share it. `bits`: a digest of all
    logits of each way. `wide` and `wide_argmax`: the same of a float32 copy of the model, None without.
    """

    ids: tuple[int, ...]
    ways: tuple[Way, ...]
    rivals: Ids
    logits: Floats
    argmax: Ids
    spacing: Floats
    tied: Ids
    bits: tuple[str, ...]
    wide: Floats | None = None
    wide_argmax: Ids | None = None

    @property
    def tokens(self) -> Ids:
        """The ids that the reference takes, (T,)."""
        return self.rivals[:, 0]

    @property
    def margins(self) -> Floats:
        """The token's logit less each rival's, (W + 1, T, R): exact differences, in logits."""
        return self.logits[:, :, :1] - self.logits[:, :, 1:]

    @property
    def distinct(self) -> list[int]:
        """Indices of one way for each set of bits that was seen, the reference among them."""
        return [self.bits.index(one) for one in dict.fromkeys(self.bits)]

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Where a way takes another token than the reference, (W + 1, T)."""
        return np.not_equal(self.argmax, self.tokens)

    @property
    def rival_first(self) -> NDArray[np.bool_]:
        """Whether a tie would go to the rival, whose id is lower, (T, R)."""
        return self.rivals[:, 1:] < self.rivals[:, :1]


def decide(text: Text, ways: Sequence[Way], rivals: int, wide: nn.Module | None = None) -> Decisions:
    """Generate a text and compute it again in every way, on the tokens of the first.

    Cost: a row a token, `Way.rows` for each, and one for a wide copy.
    """
    first = torch.stack(list(text.greedy()))
    order = first.sort(dim=1, descending=True, stable=True).indices[:, : rivals + 1]
    read = [_read(iter(first), order), *(_read(text.forced(way), order) for way in ways)]
    largest = first.gather(1, order[:, :1])
    found: dict[str, Any] = {}
    if wide is not None:
        again = _read(text.forced(Way("prefill"), model=wide), order)
        found = {"wide": again[0], "wide_argmax": again[1]}
    return Decisions(
        ids=tuple(text.ids),
        ways=tuple(ways),
        rivals=order.cpu().numpy(),
        logits=np.stack([one[0] for one in read]),
        argmax=np.stack([one[1] for one in read]),
        spacing=spacing(largest)[:, 0].cpu().numpy(),
        tied=(first == largest).sum(dim=1).cpu().numpy(),
        bits=tuple(one[2] for one in read),
        **found,
    )


def _read(pieces: Iterator[Tensor], order: Tensor) -> tuple[Floats, Ids, str]:
    """Return the logits asked for, the id taken at each token, and a digest of all logits; none of it is kept."""
    asked: list[Tensor] = []
    taken, seen = [], []
    for piece in pieces:
        for row in piece if piece.ndim == 2 else piece[None]:
            asked.append(row.double().gather(0, order[len(asked)]))
            taken.append(first_largest(row))
            seen.append(digest(row))
    return torch.stack(asked).cpu().numpy(), np.array(taken, dtype=np.int64), " ".join(seen)
