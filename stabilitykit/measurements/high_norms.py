"""Which tokens of some texts have an exploding norm, along which direction, and from which block to which?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.numerics.acute import coherence
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.residual_block import ResidualBlocks

Prompt = str | Sequence[int]

GAP, OVER_MEDIAN = 1.5, 8.0
"""What sets high norms apart: the jump between two sorted norms, and the norm over the median of its layer."""

EXPLODES, APART, DECAYS = 3.0, 2.0, 0.6
"""Norm behind a block over the norm before it: of an explosion, also over that of other tokens, and of a decay."""

_PAIRED = 1000


@dataclass(frozen=True, eq=False)
class HighNorms:
    """The residual streams `states` (N, L + 1, H) of N tokens, float64, and the vectors of them longer than `tau`.

    `prompt`, `position`, `token_id` (N,) say which tokens. `direction` (H,) is the unit vector along the plain mean of
    the long vectors, all layers pooled; `coherence` their mean pairwise acute angle in degrees (of at most 1000).
    """

    states: Tensor
    prompt: NDArray[np.int64]
    position: NDArray[np.int64]
    token_id: NDArray[np.int64]
    tau: float
    direction: Tensor
    coherence: float

    @property
    def norms(self) -> Tensor:
        """Norms (N, L + 1)."""
        lengths: Tensor = torch.linalg.vector_norm(self.states, dim=2)
        return lengths

    @property
    def tracks(self) -> Tensor:
        """Whether each token (N,) is long anywhere."""
        return (self.norms > self.tau).any(dim=1)

    @property
    def growth(self) -> Tensor:
        """The median over long tokens of the norm behind each block over the norm before it, (L,)."""
        norms = self.norms[self.tracks]
        return (norms[:, 1:] / norms[:, :-1]).median(dim=0).values

    @property
    def typical(self) -> Tensor:
        """The median norm of the tokens that are never long, at each of L + 1 places; nan if all are."""
        rest = self.norms[~self.tracks]
        return rest.median(dim=0).values if len(rest) else torch.full((self.states.shape[1],), math.nan)

    def roles(self) -> dict[int, str]:
        """Return `explosion` and `decay` blocks: the largest explosion first, the steepest decay behind it next.

        A block explodes long tokens if it makes them over 3 times longer, and twice as much longer as the others; it
        lets them decay if it leaves less than 0.6 of them, behind some explosion.
        """
        growth, others = self.growth.tolist(), (self.typical[1:] / self.typical[:-1]).tolist()
        exploding = [k for k, g in enumerate(growth) if g > EXPLODES and not g <= APART * others[k]]
        if not exploding:
            raise UnsupportedError(f"no block makes a long token {EXPLODES:g} times longer: the norms grow gradually")
        exploding.sort(key=lambda k: -growth[k])
        decaying = [k for k, g in enumerate(growth) if g < DECAYS and k > min(exploding)]
        decaying.sort(key=lambda k: (k < exploding[0], growth[k]))
        return {**dict.fromkeys(exploding, "explosion"), **dict.fromkeys(decaying, "decay")}

    def main(self) -> tuple[int, int | None]:
        """Return the block of the largest explosion, and that of the steepest decay behind it if there is one."""
        roles = self.roles()
        place = next(iter(roles))
        return place, next((k for k, role in roles.items() if role == "decay" and k > place), None)


def read(blocks: ResidualBlocks, prompts: Sequence[Prompt]) -> tuple[Tensor, list[list[int]]]:
    """Return the streams (N, L + 1, H) of the tokens of all prompts one after the other, and each prompt's ids.

    InvalidError for a state that is not finite. Cost: one forward a prompt.
    """
    ids = [token_ids(blocks.loaded, blocks.anatomy, prompt) for prompt in prompts]
    states = torch.cat([blocks.states(torch.tensor([one])).transpose(0, 1) for one in ids])
    if not bool(torch.isfinite(states).all()):
        raise InvalidError(f"a residual stream of {blocks.loaded.spec} is not finite; its norms mean nothing")
    return states, ids


def high_norms(states: Tensor, ids: Sequence[Sequence[int]], tau: float | None = None) -> HighNorms:
    """Set the long vectors apart, by `tau` or by the widest gap of the norms; UnsupportedError if there are none.

    The gap is sought in the upper half of all norms, and tau is the geometric mean of its sides. There are no long
    vectors if the gap is below a factor of 1.5, or if none of them is 8 times the median of its layer.
    """
    norms = torch.linalg.vector_norm(states, dim=2)
    tau = _gap(norms) if tau is None else tau
    long = norms > tau
    if not bool((long & (norms > OVER_MEDIAN * norms.median(dim=0).values)).any()):
        raise UnsupportedError(
            f"no high-norm tokens: no vector is longer than {tau:.4g} and {OVER_MEDIAN:g} times the median of its layer"
        )
    vectors = states[long]
    mean = vectors.mean(dim=0)
    return HighNorms(
        states,
        np.repeat(np.arange(len(ids)), [len(one) for one in ids]),
        np.concatenate([np.arange(len(one)) for one in ids]),
        np.concatenate([np.array(one) for one in ids]),
        tau,
        mean / torch.linalg.vector_norm(mean),
        coherence(vectors[:: math.ceil(len(vectors) / _PAIRED)]),
    )


def _gap(norms: Tensor) -> float:
    upper = norms.flatten().sort().values[norms.numel() // 2 :]
    ratios = upper[1:] / upper[:-1]
    if not len(ratios) or float(ratios.max()) < GAP:
        raise UnsupportedError(
            f"no high-norm tokens: sorted, no norm of the upper half is {GAP:g} times the one before it"
        )
    place = int(ratios.argmax())
    return math.sqrt(float(upper[place]) * float(upper[place + 1]))


def check_prompts(prompts: Sequence[Prompt], tau: float | None) -> None:
    """Refuse what names no tokens."""
    if isinstance(prompts, str) or not prompts:
        raise UsageError("prompts is a list of texts or of lists of token ids, with at least one")
    if tau is not None and not 0 < tau < math.inf:
        raise UsageError(f"tau={tau!r} is no norm; give a positive number, or None for the widest gap")
