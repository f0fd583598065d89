"""Which tokens explode: at the start of a text, behind another token, without attention, and with random embeddings?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.subjects.residual_block import ResidualBlock, ResidualBlocks
from stabilitykit.subjects.sites import Stopped, Tap

Row = dict[str, Any]

WAYS = ("initial", "second", "unattended", "random")
_BATCH = 64


def right_vectors(block: ResidualBlock, *, normed: bool) -> tuple[Tensor, list[Row]]:
    """Return the right singular vectors (H, H) of the linear map F, and each v_i's row: the layer's output for +-v_i.

    The sign of v_1, the first row, is that with the larger output: a token explodes on one side only.
    Dense: O(H^3), and 2 H vectors through the layer.
    """
    _, sigma, V = torch.linalg.svd(block.fed(normed=normed).dense(), full_matrices=False)
    outputs = [torch.linalg.vector_norm(block.fed_forward(sign * V), dim=1) for sign in (1.0, -1.0)]
    sign = 1.0 if float(outputs[0][0]) >= float(outputs[1][0]) else -1.0
    plus, minus = outputs if sign > 0 else outputs[::-1]
    rows = [
        {
            "part": "right vector",
            "block": block.number,
            "index": i + 1,
            "sigma": float(sigma[i]),
            "output_plus": float(plus[i]),
            "output_minus": float(minus[i]),
        }
        for i in range(len(sigma))
    ]
    V[0] *= sign
    return V, rows


def trained_ids(embedding: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` ids, sorted, drawn without replacement from those whose embedding is no shorter than a tenth.

    A tenth of the mean length: shorter ones were never trained. All of them if there are no more.
    """
    norms = torch.linalg.vector_norm(embedding.detach().float(), dim=1).cpu()
    ids: Tensor = (norms > norms.mean() / 10).nonzero()[:, 0]
    if len(ids) <= count:
        return ids
    drawn = np.random.Generator(np.random.PCG64(seed)).choice(len(ids), size=count, replace=False)
    chosen: Tensor = ids[torch.from_numpy(np.sort(drawn))]
    return chosen


def pathway_rows(
    blocks: ResidualBlocks, block: ResidualBlock, v1: Tensor, ids: Tensor, lead: Sequence[int], tau: float, seed: int
) -> list[Row]:
    """Return a row a token: its norm behind the exploding block in each of the ways, and its coefficient on v_1.

    `initial`: alone; `second`: behind the tokens `lead`; `unattended`: alone, attention replaced by zeros; `random`:
    alone, a Gaussian embedding of the mean length in the token's place. The coefficient is <x, v_1> of the state x that
    the block's second norm reads, scaled to |x| = sqrt(H). `whole_model_max` confirms those that explode unattended:
    the largest norm behind any block, in the whole model, behind `lead`; nan for the others. Cost: four rows a token,
    up to that block, and a forward for each that is confirmed.
    """
    scan = _Scan(blocks, block, v1)
    alone, behind = ids[:, None], torch.cat([torch.tensor([list(lead)] * len(ids)), ids[:, None]], dim=1)
    measured = {
        "initial": scan.of(alone),
        "second": scan.of(behind),
        "unattended": scan.of(alone, attended=False),
        "random": scan.of(_random(blocks, len(ids), seed)),
    }
    tokenizer = blocks.loaded.tokenizer
    found = measured["unattended"][0] > tau
    confirmed = {int(row[-1]): float(_largest(blocks, row)) for row in behind[found]}
    return [
        {
            "part": "pathway",
            "token_id": int(token),
            "token": tokenizer.decode([int(token)]) if tokenizer else str(int(token)),
            **{f"norm_{way}": float(norms[place]) for way, (norms, _) in measured.items()},
            **{f"explodes_{way}": bool(norms[place] > tau) for way, (norms, _) in measured.items()},
            **{f"coefficient_{way}": float(coefficients[place]) for way, (_, coefficients) in measured.items()},
            "whole_model_max": confirmed.get(int(token), math.nan),
        }
        for place, token in enumerate(ids)
    ]


def rows_run(tokens: int) -> int:
    """Return the rows that `pathway_rows` runs up to the exploding block."""
    return len(WAYS) * tokens


class _Scan:
    """Runs single tokens up to the exploding block and reads the last position there."""

    def __init__(self, blocks: ResidualBlocks, block: ResidualBlock, v1: Tensor) -> None:
        self.blocks, self.block, self.v1 = blocks, block, v1

    def of(self, inputs: Tensor, *, attended: bool = True) -> tuple[Tensor, Tensor]:
        """Return norms and coefficients (n,) of ids (n, T), or of embeddings (n, T, H)."""
        kind = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        device = self.blocks.loaded.model.device
        parts = [self._batch({kind: part.to(device)}, attended) for part in torch.split(inputs, _BATCH)]
        norms, coefficients = (torch.cat(column) for column in zip(*parts, strict=True))
        return norms, coefficients

    def _batch(self, given: dict[str, Tensor], attended: bool) -> tuple[Tensor, Tensor]:
        anatomy, read = self.blocks.anatomy, list[Tensor]()
        counter = self.blocks.loaded.counter
        counter.screened += len(next(iter(given.values())))
        counter.calls += 1
        with torch.no_grad(), ExitStack() as held:
            held.enter_context(Tap(self.block.second_norm, before=True).reading(read.append))
            held.enter_context(Tap(anatomy.blocks[self.block.number]).stopping())
            if not attended:
                held.enter_context(_silent(self.blocks))
            try:
                anatomy.base(**given, use_cache=False)
            except Stopped as stopped:
                left = stopped.state[:, -1].double().cpu()
        x = read[0][:, -1].double().cpu()
        length = torch.linalg.vector_norm(x, dim=1)
        return torch.linalg.vector_norm(left, dim=1), (x @ self.v1) / length * x.shape[1] ** 0.5


def _largest(blocks: ResidualBlocks, ids: Tensor) -> Tensor:
    """Return the largest norm of the last of some tokens (T,) behind any block."""
    norms: Tensor = torch.linalg.vector_norm(blocks.states(ids[None])[1:, -1], dim=1)
    return norms.max()


@contextmanager
def _silent(blocks: ResidualBlocks) -> Iterator[None]:
    """Let every block's attention add zeros."""
    with ExitStack() as held:
        for number in range(len(blocks)):
            held.enter_context(Tap(blocks.attention(number)).reading(torch.zeros_like))
        yield


def _random(blocks: ResidualBlocks, count: int, seed: int) -> Tensor:
    """Return Gaussian embeddings (count, 1, H) of the trained ones' mean length."""
    weight: Any = blocks.anatomy.embedding.weight
    length = float(torch.linalg.vector_norm(weight.detach().float(), dim=1).mean())
    drawn = np.random.Generator(np.random.PCG64([seed, 1])).standard_normal((count, 1, weight.shape[1]))
    rows = torch.from_numpy(drawn)
    scaled: Tensor = (rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True) * length).to(weight.dtype)
    return scaled
