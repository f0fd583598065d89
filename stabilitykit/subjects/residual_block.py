"""A pre-norm decoder block with a gated feed-forward layer as matrices, each block proved against the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.gated_unit import nearest_linear
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects.anatomy import PROBE, find
from stabilitykit.subjects.stream import joined, listening

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

_SLACK = 8
"""Roundings, in eps of the dtype and relative to its terms, by which a block may miss its matrices."""


def _slack(dtype: torch.dtype) -> float:
    """Return the share of its size by which a result may be off; norms compute in float32 at the most."""
    return _SLACK * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """x -> y = x + O V n1(x), y -> y + D (act(G n2(y)) * (U n2(y))) for one token that attends to itself alone.

    `heads` counts query and key-value heads. n1 and n2 divide by the root mean square and multiply by `gains` (H,).
    `value` V has each key-value head once for every query head, so that `output` O (H, heads * head_dim) follows it.
    All matrices are float64 on the CPU.
    """

    number: int
    heads: tuple[int, int]
    gains: tuple[Tensor, Tensor]
    value: Tensor
    output: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    attention: nn.Module
    second_norm: nn.Module
    feed_forward: nn.Module

    def activation(self, x: Tensor) -> Tensor:
        """Return the gate's activation."""
        layer: Any = self.feed_forward
        activated: Tensor = layer.activation_fn(x) if hasattr(layer, "activation_fn") else layer.act_fn(x)
        return activated

    def fed_forward(self, X: Tensor) -> Tensor:
        """Return the model's own feed-forward layer of its norm, (k, H) -> (k, H), in its dtype, as float64."""
        weight = self.second_norm.weight
        with torch.no_grad():
            given = X.to(weight.device, weight.dtype)[None]  # type: ignore[arg-type]
            output: Tensor = self.feed_forward(self.second_norm(given))[0]
        return output.double().cpu()

    def attended(self) -> LinearMap:
        """Return A = O V diag(gain): what the block's attention adds, but for the division of its norm."""
        gain, V, W, H = self.gains[0], self.value, self.output, len(self.output)
        return LinearMap(lambda X: ((X * gain) @ V.T) @ W.T, lambda U: ((U @ W) @ V) * gain, (H, H))

    def fed(self, *, normed: bool = False) -> LinearMap:
        """Return F = D M diag(gain): the nearest linear map of the feed-forward layer, but for the norm's division.

        M is `nearest_linear` for x ~ N(0, I) before the gain is applied, or with `normed` after it, at its true scale.
        """
        gain, D, H = self.gains[1], self.down, len(self.down)
        gate, up = (self.gate * gain, self.up * gain) if normed else (self.gate, self.up)
        M = nearest_linear(gate, up, self.activation)
        M = M if normed else M * gain
        return LinearMap(lambda X: (X @ M.T) @ D.T, lambda U: (U @ D) @ M, (H, H))


class ResidualBlocks:
    """The blocks of one model, each proved by the states of one token; UnsupportedError says what does not fit.

    Known: Llama's names of modules, with the fused projections of Phi-3, norms with gain `weight` or 1 + `weight`.
    Cost: a forward of one token at the first `block`, each of which copies its weights to float64.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, self.anatomy = loaded, find(loaded.model)

    @cached_property
    def _token(self) -> Tensor:
        return self.states(torch.tensor([PROBE[:1]]))[:, 0]

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
            taken = _taken(number, module, entered, self.loaded.model.config.get_text_config())
        except AttributeError as error:
            raise self._refusal(number, str(error).removeprefix(f"'{type(module).__name__}' object ")) from error
        missed = _missed(taken, module, entered, left)
        if missed > _slack(self.loaded.model.dtype):
            raise self._refusal(number, f"its output is another by {missed:.1g} of its size")
        return taken

    def down_projection(self, number: int) -> nn.Module:
        """Return the module of a block that ends its feed-forward layer."""
        return self.loaded.model.get_submodule(self.down_projection_name(number))

    def down_projection_name(self, number: int) -> str:
        """Return its name in the model."""
        try:
            self.anatomy.blocks[number].get_submodule("mlp.down_proj")
        except AttributeError as error:
            raise self._refusal(number, str(error)) from error
        return f"{self.anatomy.block_names[number]}.mlp.down_proj"

    def _refusal(self, number: int, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"block {number} of {self.loaded.spec} is not a pre-norm block with a gated feed-forward layer ({why}); "
            "its linear approximation is not known"
        )


def _taken(number: int, module: nn.Module, entered: Tensor, config: Any) -> ResidualBlock:
    attention, feed = module.get_submodule("self_attn"), module.get_submodule("mlp")
    first, second = module.get_submodule("input_layernorm"), module.get_submodule("post_attention_layernorm")
    gate, up = _gates(feed)
    output = _matrix(attention.o_proj)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    rows = output.shape[1] // heads * groups
    return ResidualBlock(
        number,
        (heads, groups),
        (_gain(first, entered), _gain(second, entered)),
        _repeated(_value(attention, rows), groups, heads),
        output,
        gate,
        up,
        _matrix(feed.down_proj),
        attention,
        second,
        feed,
    )


def _matrix(linear: Any) -> Tensor:
    matrix: Tensor = linear.weight.detach().double().cpu()
    return matrix


def _value(attention: Any, rows: int) -> Tensor:
    """Return V (rows, H); a fused projection ends with it."""
    return _matrix(attention.qkv_proj)[-rows:] if hasattr(attention, "qkv_proj") else _matrix(attention.v_proj)


def _repeated(rows: Tensor, groups: int, heads: int) -> Tensor:
    """Return each key-value head's rows once for every query head that reads it."""
    each = rows.reshape(groups, -1, *rows.shape[1:])
    return each.repeat_interleave(heads // groups, dim=0).flatten(0, 1)


def _gates(feed: Any) -> tuple[Tensor, Tensor]:
    """Return the rows of gate and up; with a bias they would not be the rows of the closed form."""
    fused = hasattr(feed, "gate_up_proj")
    layers = [feed.gate_up_proj] if fused else [feed.gate_proj, feed.up_proj]
    if any(layer.bias is not None for layer in layers):
        raise AttributeError("its gate has a bias")
    matrices = _matrix(layers[0]).chunk(2) if fused else [_matrix(layer) for layer in layers]
    return matrices[0], matrices[1]


def _gain(norm: Any, x: Tensor) -> Tensor:
    """Return the gain of a norm that divides by the root mean square: its weight, or one more than it."""
    weight: Tensor = norm.weight.detach().double().cpu()
    y = _normed(norm, x)
    for gain in (weight, 1 + weight):
        stretched = gain * x
        times = (stretched @ y) / (stretched @ stretched)
        if (y - times * stretched).norm() <= _slack(norm.weight.dtype) * y.norm():
            return gain
    raise AttributeError(f"{type(norm).__name__} is not a division by the root mean square")


def _normed(norm: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = norm(x.to(norm.weight.device, norm.weight.dtype)[None, None])[0, 0]
    return y.double().cpu()


def _missed(block: ResidualBlock, module: nn.Module, x: Tensor, left: Tensor) -> float:
    """Return how far the block's output lies from what its matrices give, relative to the terms of the sum."""
    attention: Any = block.attention
    inner = block.value @ _normed(module.input_layernorm, x)
    bias = getattr(getattr(attention, "v_proj", None), "bias", None)
    if bias is not None:
        inner = inner + _repeated(bias.detach().double().cpu(), block.heads[1], block.heads[0])
    added = block.output @ inner + _bias(attention.o_proj)
    h = _normed(block.second_norm, x + added)
    units = block.activation(block.gate @ h) * (block.up @ h)
    fed = block.down @ units + _bias(block.feed_forward.down_proj)
    size = sum(float(part.norm()) for part in (x, added, fed))
    return float((x + added + fed - left).norm()) / size


def _bias(linear: Any) -> Tensor | float:
    return 0.0 if linear.bias is None else linear.bias.detach().double().cpu()
