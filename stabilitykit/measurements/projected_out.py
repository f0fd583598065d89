"""Is the explosion needed? The texts once more without the one direction that the exploding layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from stabilitykit.subjects.residual_block import ResidualBlock, ResidualBlocks
from stabilitykit.subjects.sites import Tap
from stabilitykit.subjects.stream import joined, listening


def projected_values(
    blocks: ResidualBlocks, block: ResidualBlock, V: Tensor, ids: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return what becomes of the texts `ids` if x - <x, v>v stands for x where the exploding layer reads it.

    v is the first row of V (k, H), and as a control the second. `projected_norm`: the longest vector left anywhere,
    behind a block; `projected_kl`: mean over all tokens of sum p ln(p / q), in nats, p the next token's distribution
    without and q with the projection; `projected_agreement`: share of tokens whose likeliest next one stays. x is what
    the layer's norm reads; attention that reads the same norm reads the projection as well. Cost: three forwards a
    text. Source: the authors' ablation of v_1 (see SingularDefects); the control is ours.
    """
    plain, without, other = ([_run(blocks, block, one, v) for one in ids] for v in (None, V[0], V[1]))
    told = torch.cat([logits for _, logits in plain])
    left = torch.cat([logits for _, logits in without])
    return {
        "projected_norm": max(longest for longest, _ in without),
        "projected_kl": _divergence(told, left),
        "projected_agreement": float((told.argmax(dim=1) == left.argmax(dim=1)).double().mean()),
        "other_projected_kl": _divergence(told, torch.cat([logits for _, logits in other])),
    }


def _run(blocks: ResidualBlocks, block: ResidualBlock, ids: Sequence[int], v: Tensor | None) -> tuple[float, Tensor]:
    """Return the largest norm behind any block, and the logits (T, V) in float64."""
    model, given = blocks.loaded.model, torch.tensor([list(ids)])
    with torch.no_grad(), listening(blocks.anatomy) as taken, _without(block, v):
        logits: Tensor = model(input_ids=given.to(model.device), use_cache=False).logits[0]
    blocks.loaded.counter.forwards += 1
    blocks.loaded.counter.calls += 1
    states = joined(blocks.loaded, blocks.anatomy, taken, len(ids))[1:]
    return float(torch.linalg.vector_norm(states, dim=2).max()), logits.double().cpu()


@contextmanager
def _without(block: ResidualBlock, v: Tensor | None) -> Iterator[None]:
    """Let the exploding layer read x - <x, v>v for x; without v, x as it is."""
    if v is None:
        yield
        return

    def projected(state: Tensor) -> Tensor:
        x, along = state.double(), v.to(state.device)
        return (x - (x @ along)[..., None] * along).to(state.dtype)

    with Tap(block.second_norm, before=True).reading(projected):
        yield


def _divergence(told: Tensor, left: Tensor) -> float:
    """Return the mean of sum p ln(p / q) over the rows of two arrays of logits."""
    p, q = told.log_softmax(dim=1), left.log_softmax(dim=1)
    return float((p.exp() * (p - q)).sum(dim=1).mean())
