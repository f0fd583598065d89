"""The residual stream of one forward: what block 0 reads, and what each block leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.sites import Tap

if TYPE_CHECKING:
    from stabilitykit.subjects.anatomy import Anatomy
    from stabilitykit.subjects.models import LoadedModel


@contextmanager
def listening(anatomy: Anatomy) -> Iterator[list[Tensor]]:
    """Collect the states (1, T, H) of every forward inside, in order, as float64 on the CPU."""
    taken: list[Tensor] = []

    def keep(state: Tensor) -> None:
        taken.append(state.detach().double().cpu())

    with ExitStack() as hooks:
        hooks.enter_context(Tap(anatomy.blocks[0], before=True).reading(keep))
        for block in anatomy.blocks:
            hooks.enter_context(Tap(block).reading(keep))
        yield taken


def joined(loaded: LoadedModel, anatomy: Anatomy, taken: Sequence[Tensor], tokens: int) -> Tensor:
    """Return the states of one forward of `tokens` tokens, (L + 1, T, H); UnsupportedError for any other shape."""
    if [tuple(one.shape) for one in taken] != [(1, tokens, anatomy.hidden_size)] * (anatomy.layers + 1):
        raise UnsupportedError(f"{loaded.spec} does not pass one vector a token from block to block")
    return torch.cat(list(taken))
