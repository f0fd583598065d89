"""The choice of each token of a text: the logits in question, on every way of computing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    ones. `spacing` (T,): one ULP of the largest logit,
    in the narrowest dtype that holds all logits. `tied` (T,): how many ids share it. `bits`: a digest of all
    logits of each way. `heads`: as `logits`, but from the head in float64 on each way's own states, before whatever cap
    or scale the model adds; None where the head is no matrix. `wide` and `wide_argmax`: logits (T, R + 1) and ids (T,)
    of a float32 copy of the model, None without.
    """

    ids: tuple[int, ...]
    ways: tuple[Way, ...]
    rivals: Ids
    logits: Floats
    argmax: Ids
    spacing: Floats
    tied: Ids
    bits: tuple[str, ...]
    heads: Floats | None = None
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
    def head_margins(self) -> Floats | None:
        """As `margins`, of the id that the head in float64 takes in the reference, over the R others of `rivals`."""
        if self.heads is None:
            return None
        order = np.argsort(-self.heads[0], axis=1, kind="stable")
        ordered = np.take_along_axis(self.heads, order[None], axis=2)
        return np.asarray(ordered[:, :, :1] - ordered[:, :, 1:])

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
    generated = list(_heard(text, text.greedy()))
    first = torch.cat([logits for logits, _ in generated])
    order = first.sort(dim=1, descending=True, stable=True).indices[:, : rivals + 1]
    head = text.anatomy.head
    read = [_read(generated, order, head), *(_read(_heard(text, text.forced(way)), order, head) for way in ways)]
    heads = [one.head for one in read if one.head is not None]
    largest = first.gather(1, order[:, :1])
    again = None if wide is None else _read(_heard(text, text.forced(Way("prefill"), model=wide)), order, head)
    return Decisions(
        ids=tuple(text.ids),
        ways=tuple(ways),
        rivals=order.cpu().numpy(),
        logits=np.stack([one.logits for one in read]),
        argmax=np.stack([one.taken for one in read]),
        spacing=spacing(largest.to(grid(first)))[:, 0].cpu().numpy(),
        tied=(first == largest).sum(dim=1).cpu().numpy(),
        bits=tuple(one.bits for one in read),
        heads=np.stack(heads) if len(heads) == len(read) else None,
        wide=None if again is None else again.logits,
        wide_argmax=None if again is None else again.taken,
    )


def grid(logits: Tensor) -> torch.dtype:
    """Return the narrowest dtype that holds every logit: models that widen the head's output do not refine its grid."""
    for narrow in (torch.bfloat16, torch.float16):
        if bool((logits.to(narrow).to(logits.dtype) == logits).all()):
            return narrow
    return logits.dtype


class _Read(NamedTuple):
    """What is kept of all logits of a way: those asked for, the id taken at each token, a digest; and of its states."""

    logits: Floats
    taken: Ids
    bits: str
    head: Floats | None


def _heard(text: Text, pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield logits (n, M) as they come, with what the head read for them."""
    for piece in pieces:
        yield piece.view(-1, piece.shape[-1]), text.state


def _read(pieces: Iterable[tuple[Tensor, Tensor | None]], order: Tensor, head: nn.Module) -> _Read:
    asked: list[Tensor] = []
    taken, seen, heads = [], [], []
    for logits, state in pieces:
        here = order[len(asked) : len(asked) + len(logits)]
        heads.append(_exact_head(head, state, here))
        for row, ids in zip(logits, here, strict=True):
            asked.append(row.double().gather(0, ids))
            taken.append(first_largest(row))
            seen.append(digest(row))
    known = [one for one in heads if one is not None]
    return _Read(
        torch.stack(asked).cpu().numpy(),
        np.array(taken, dtype=np.int64),
        " ".join(seen),
        torch.cat(known).cpu().numpy() if len(known) == len(heads) else None,
    )


def _exact_head(head: nn.Module, state: Tensor | None, ids: Tensor) -> Tensor | None:
    """Return the head's rows of these ids (n, K) on its own states (n, H) in float64; None for what is no matrix."""
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if state is None or not isinstance(weight, Tensor) or weight.shape[-1] != state.shape[-1] or weight.ndim != 2:
        return None
    logits = torch.einsum("nh,nkh->nk", state[-len(ids) :].double(), weight[ids].double())
    return logits if bias is None else logits + bias[ids].double()
