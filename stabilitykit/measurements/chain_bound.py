"""The product of the blocks' norms against the norm of their product: how loose a bound by parts is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.parts import Linear
from stabilitykit.numerics import spectrum
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.variants import read_at


@dataclass(frozen=True)
class ChainBound:
    """How far the norms of the parts, multiplied, exceed the norm of the whole.

    `bound` = sigma_1(embedding) prod_l sigma_1(block l), and the final norm's where the site lies behind it.

    `sigma` is the whole subject's sigma_1 = |J v_1|, and `defect` = |J_n ... J_0 v_1 - J v_1| / |J v_1|. The parts make
    up the subject only where that is rounding and nothing after block 0 reads the input again; else the bound is nan
    and `why` says what keeps them from it.
    """

    bound: float
    sigma: float
    defect: float
    why: str = ""

    @property
    def looseness(self) -> float:
        """How many times too large the bound is."""
        return self.bound / self.sigma if self.sigma else math.nan


def chain_bound(subject: CausalLMSubject, linear: Linear, sigmas: Mapping[str, float], v1: Tensor) -> ChainBound:
    """Return the bound from the sigma_1 of each module of the chain, checked along v_1 (H,), one product a part."""
    names = _chain(subject)
    whole = subject.jvp(v1[None]).double().cpu()
    if isinstance(names, str):
        return ChainBound(math.nan, _norm(whole), math.nan, names)
    if missing := [name for name in names if name not in sigmas]:
        return ChainBound(math.nan, _norm(whole), math.nan, f"{missing[0]} has no sigma_1")
    embedding = _embedding(subject)
    try:
        product = linear.map_of(names).apply(embedding.apply(v1[None].double()))
    except UnsupportedError as error:
        return ChainBound(math.nan, _norm(whole), math.nan, str(error))
    defect = _norm(product - whole) / _norm(whole) if _norm(whole) else math.nan
    # A narrow dtype rounds the products too coarsely to tell; there the swap proof has the say.
    if not (defect <= math.sqrt(torch.finfo(subject.x0.dtype).eps) and subject.screens):
        return ChainBound(math.nan, _norm(whole), defect, "the blocks one after another are not the model")
    first = float(spectrum.top(embedding, 1, tolerance=1e-3).sigma[0])
    return ChainBound(first * math.prod(sigmas[name] for name in names), _norm(whole), defect)


def _chain(subject: CausalLMSubject) -> Sequence[str] | str:
    """Return the modules from the embedding to the subject's site, or why they are no chain."""
    blocks = subject.anatomy.block_names
    kind, _, number = subject.site.partition(":")
    if kind == "block":
        return blocks[: int(number) + 1]
    if subject.site == "pre_norm":
        return blocks
    if subject.site == "post_norm":
        return [*blocks, subject.anatomy.final_norm_name]
    return f"site {subject.site} is not the end of a chain of blocks"


def _embedding(subject: CausalLMSubject) -> LinearMap:
    """Return the map from x to what enters block 0: the identity of most models, a factor or a norm of others."""
    return read_at(subject.on_prefill(), "embed", batch=1).linear_map()


def _norm(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows.double()))
