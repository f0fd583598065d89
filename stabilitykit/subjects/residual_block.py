"""A pre-norm decoder block as matrices, each block proved against the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.gated_unit import nearest_linear, nearest_linear_ungated
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects.anatomy import PROBE, find
from stabilitykit.subjects.block_parts import (
    Attention,
    AttentionWeights,
    Feed,
    Norm,
    attention_of,
    feed_of,
    norm_names,
    norm_of,
    slack,
)
from stabilitykit.subjects.stream import joined, listening

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """x -> x' = x + attention(n1(x)) for one token that attends to itself alone, and x' -> x' + feed(n2(x')).

    `parallel`: x -> x + attention(n1(x)) + feed(n2(x)). All matrices are float64 on the CPU.
    """

    number: int
    norms: tuple[Norm, Norm]
    attention: Attention
    feed: Feed
    parallel: bool

    @property
    def down(self) -> Tensor:
        """The matrix (H, F) that ends the feed-forward layer."""
        return self.feed.down

    @property
    def second_norm(self) -> nn.Module:
        """The module whose input the feed-forward layer reads."""
        return self.norms[1].module

    def fed_forward(self, X: Tensor) -> Tensor:
        """Return the model's own feed-forward layer of its norm, (k, H) -> (k, H), in its dtype, as float64."""
        weight = next(self.feed.module.parameters())
        with torch.no_grad():
            given = X.to(weight.device, weight.dtype)[None]
            output: Tensor = self.feed.module(self.second_norm(given))[0]
        return output.double().cpu()

    def attended(self) -> LinearMap:
        """Return A = O V diag(gain): what the block's attention adds, but for the division of its norm."""
        norm, W, H = self.norms[0], self.attention.output, len(self.down)
        V = self.attention.value * norm.gain
        return LinearMap(lambda X: (norm.centre(X) @ V.T) @ W.T, lambda U: norm.centre((U @ W) @ V), (H, H))

    def fed(self, *, normed: bool = False) -> LinearMap:
        """Return F = D M diag(gain): the nearest linear map of the feed-forward layer, but for the norm's division.

        M is `nearest_linear` for x ~ N(0, I) before the gain is applied, or with `normed` after it, at its true scale;
        of two matrices then with the norm's shift, which a gated unit leaves out.
        """
        norm, D, H = self.norms[1], self.down, len(self.down)
        scale, shift = (norm.gain, norm.shift) if normed else (torch.ones_like(norm.gain), torch.zeros_like(norm.gain))
        M = self._units(scale, shift)
        M = M if normed else M * norm.gain
        return LinearMap(lambda X: (norm.centre(X) @ M.T) @ D.T, lambda U: norm.centre((U @ D) @ M), (H, H))

    def _units(self, scale: Tensor, shift: Tensor) -> Tensor:
        gate, up = self.feed.gate, self.feed.up
        if up is not None:
            return nearest_linear(gate * scale, up * scale, self.feed.activation)
        return nearest_linear_ungated(gate * scale, self.feed.gate_shift + gate @ shift, self.feed.activation)

    def of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (H,), what attention adds to it and what the feed-forward layer does, by the matrices."""
        added = self.attention(self.norms[0](x))
        return x, added, self.feed(self.norms[1](x if self.parallel else x + added))


class ResidualBlocks:
    """The blocks of one model, each proved by the states of one token; UnsupportedError says what does not fit.

    Known: blocks with two norms in sequence, or with attention and feed-forward layer side by side; norms that divide
    by the root mean square or the standard deviation; gated layers without a bias at the gate, and layers of two
    matrices; attention of every known layout of heads. Cost: a forward of one token at the first `block`, each of
    which copies its weights to float64.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, self.anatomy = loaded, find(loaded.model)

    @cached_property
    def _token(self) -> Tensor:
        return self.states(torch.tensor([PROBE[:1]]))[:, 0]

    @cached_property
    def _attention(self) -> AttentionWeights:
        return AttentionWeights(self.loaded)

    def states(self, ids: Tensor) -> Tensor:
        """Return the residual stream (L + 1, T, H), float64: what block 0 reads, and what each block leaves.

        `ids` (1, T), run as one batch without a cache; one forward.
        """
        with torch.no_grad(), listening(self.anatomy) as taken:
            self.anatomy.base(input_ids=ids.to(self.loaded.model.device), use_cache=False)
        self.loaded.counter.forwards += 1
        self.loaded.counter.calls += 1
        return joined(self.loaded, self.anatomy, taken, ids.shape[1])

    def __len__(self) -> int:
        """Return the number of blocks."""
        return self.anatomy.layers

    def block(self, number: int) -> ResidualBlock:
        """Return one block's matrices after the proof: they give the block's output of one token, but for rounding."""
        module = self.anatomy.blocks[number]
        entered, left = self._token[number], self._token[number + 1]
        try:
            one, two = (norm_of(module, name, entered) for name in norm_names(module))
            attention, feed = self._attention.of(number, module), feed_of(module)
        except AttributeError as error:
            raise self._refusal(number, str(error).removeprefix(f"'{type(module).__name__}' object ")) from error
        tried = [ResidualBlock(number, (one, two), attention, feed, parallel) for parallel in (False, True)]
        missed = [_missed(block, entered, left) for block in tried]
        if min(missed) > slack(self.loaded.model.dtype):
            raise self._refusal(number, f"its output is another by {min(missed):.1g} of its size")
        return tried[missed.index(min(missed))]

    def attention(self, number: int) -> nn.Module:
        """Return the module of a block whose output is added to the residual stream first."""
        try:
            return attention_of(self.anatomy.blocks[number])
        except AttributeError as error:
            raise self._refusal(number, str(error)) from error

    def down_projection(self, number: int) -> nn.Module:
        """Return the module of a block that ends its feed-forward layer."""
        block: nn.Module = self.anatomy.blocks[number]
        return block.get_submodule(self._down(number))

    def down_projection_name(self, number: int) -> str:
        """Return its name in the model."""
        return f"{self.anatomy.block_names[number]}.{self._down(number)}"

    def _down(self, number: int) -> str:
        try:
            return feed_of(self.anatomy.blocks[number]).name
        except AttributeError as error:
            raise self._refusal(number, str(error)) from error

    def _refusal(self, number: int, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"block {number} of {self.loaded.spec} is not a pre-norm block of a known build ({why}); its linear "
            "approximation is not known"
        )


def _missed(block: ResidualBlock, x: Tensor, left: Tensor) -> float:
    """Return how far the block's output lies from what its matrices give, relative to the terms of the sum."""
    parts = block.of(x)
    return float((sum(parts) - left).norm()) / sum(float(part.norm()) for part in parts)
