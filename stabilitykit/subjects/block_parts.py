"""The matrices of a pre-norm decoder block in its model's own modules: which norm, which projection, which layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stabilitykit.subjects.head_layout import Heads, find_heads
from stabilitykit.subjects.stored import Checkpoint

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEEDS = ("mlp",)
_FIRST = ("input_layernorm", "ln_1", "ln_attn")
_SECOND = ("post_attention_layernorm", "ln_2", "ln_mlp")
_GATED = (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "", "down_proj"))
_PLAIN = (("c_fc", "c_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("fc1", "fc2"), ("fc_in", "fc_out"))
_ACTIVATIONS = ("activation_fn", "act_fn", "act")

SLACK = 8
"""Roundings, in eps of the dtype and relative to its terms, by which a block may miss its matrices."""


def slack(dtype: torch.dtype) -> float:
    """Return the share of its size by which a result may be off; norms compute in float32 at the most."""
    return SLACK * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm x -> gain * c(x) / s + shift, where c takes the mean away if it is `centred`; all float64 (H,)."""

    module: nn.Module
    gain: Tensor
    shift: Tensor
    centred: bool

    def centre(self, X: Tensor) -> Tensor:
        """Return X (k, H) without what the norm takes away; the map is its own transpose."""
        return X - X.mean(dim=1, keepdim=True) if self.centred else X

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the module makes of one state (H,), in its dtype, as float64."""
        return normed(self.module, x)


@dataclass(frozen=True, eq=False)
class Feed:
    """A feed-forward layer: D (act(G h + b) * (U h)) + c, or without `up` D act(G h + b) + c; float64.

    `name` is the module that D is of, inside the block.
    """

    module: nn.Module
    name: str
    gate: Tensor
    gate_shift: Tensor
    up: Tensor | None
    down: Tensor
    down_shift: Tensor

    def activation(self, x: Tensor) -> Tensor:
        """Return the layer's activation."""
        activate: Any = next(getattr(self.module, name) for name in _ACTIVATIONS if hasattr(self.module, name))
        activated: Tensor = activate(x)
        return activated

    def __call__(self, h: Tensor) -> Tensor:
        """Return what the matrices make of one state (H,) behind the norm."""
        units = self.activation(self.gate @ h + self.gate_shift)
        return self.down @ (units if self.up is None else units * (self.up @ h)) + self.down_shift


@dataclass(frozen=True, eq=False)
class Attention:
    """What attention adds to one token alone: O (V h + b) + c, V with each key-value head once for every query head."""

    module: nn.Module
    value: Tensor
    value_shift: Tensor
    output: Tensor
    output_shift: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """Return it for one state (H,) behind the norm."""
        return self.output @ (self.value @ h + self.value_shift) + self.output_shift


def attention_of(block: nn.Module) -> nn.Module:
    """Return the attention module of a block; AttributeError if none has a known name."""
    return _named(block, _ATTENTION, "attention")


def norm_names(block: nn.Module) -> tuple[str, str]:
    """Return the names of the norms in front of attention and of the feed-forward layer; one name if they share it."""
    first = _name(block, _FIRST, "norm in front of attention")
    second = next((name for name in _SECOND if isinstance(getattr(block, name, None), nn.Module)), first)
    return first, second


def norm_of(block: nn.Module, name: str, x: Tensor) -> Norm:
    """Return a norm with its gain, which it is seen to apply to a state like x (H,); AttributeError for another kind.

    The state is moved off a mean of zero, of which nothing would be seen to be taken away.
    """
    x = x + x.square().mean().sqrt()
    module = block.get_submodule(name)
    weight, shift = (getattr(module, part, None) for part in ("weight", "bias"))
    gain = torch.ones_like(x) if weight is None else weight.detach().double().cpu()
    added = torch.zeros_like(x) if shift is None else shift.detach().double().cpu()
    y = normed(module, x) - added
    dtype = torch.float32 if weight is None else weight.dtype
    for centred in (False, True):
        for scale in (gain, 1 + gain):
            found = Norm(module, scale, added, centred)
            stretched = scale * found.centre(x[None])[0]
            times = (stretched @ y) / (stretched @ stretched)
            if (y - times * stretched).norm() <= slack(dtype) * (y.norm() + added.norm()):
                return found
    raise AttributeError(f"{type(module).__name__} divides neither by the root mean square nor by the deviation")


def feed_of(block: nn.Module) -> Feed:
    """Return a block's feed-forward layer; AttributeError if it is none of the known ones."""
    module = _named(block, _FEEDS, "feed-forward layer")
    stem = next(name for name in _FEEDS if getattr(block, name, None) is module)
    if hasattr(module, "experts"):
        raise AttributeError("which of its experts compute depends on the token, so that no one map is nearest to them")
    if not any(hasattr(module, name) for name in _ACTIVATIONS):
        raise AttributeError("its feed-forward layer has no activation of a known name")
    for gate, up, down in _GATED:
        if all(hasattr(module, name) for name in (gate, down, *([up] if up else []))):
            return _gated(module, f"{stem}.{down}", [getattr(module, name) for name in (gate, up) if name])
    for up, down in _PLAIN:
        if hasattr(module, up) and hasattr(module, down):
            return _feed(module, f"{stem}.{down}", *_linear(getattr(module, up)), None)
    raise AttributeError("its feed-forward layer is neither a gated one nor two matrices")


def _gated(module: nn.Module, down: str, layers: Sequence[Any]) -> Feed:
    """With a bias the units would not be those of the closed form."""
    if any(layer.bias is not None for layer in layers):
        raise AttributeError("its gate has a bias")
    matrices = [matrix for layer in layers for matrix in _linear(layer)[0].chunk(3 - len(layers))]
    return _feed(module, down, matrices[0], torch.zeros(len(matrices[0]), dtype=torch.float64), matrices[1])


def _feed(module: nn.Module, name: str, gate: Tensor, shift: Tensor, up: Tensor | None) -> Feed:
    return Feed(module, name, gate, shift, up, *_linear(module.get_submodule(name.rpartition(".")[2])))


def _linear(layer: Any) -> tuple[Tensor, Tensor]:
    """Return matrix (out, in) and shift (out,) of a layer, of which GPT-2 keeps the transpose."""
    weight = layer.weight.detach().double().cpu()
    weight = weight.T if isinstance(layer, Conv1D) else weight
    shift = getattr(layer, "bias", None)
    return weight, torch.zeros(len(weight), dtype=torch.float64) if shift is None else shift.detach().double().cpu()


class AttentionWeights:
    """The attention matrices of a model's blocks, read by its layout of heads. AttributeError where one is missing."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._weights = Checkpoint.of(loaded)
        self._heads: dict[tuple[int, str], Heads] = {}
        for heads in find_heads(self._weights):
            self._heads.update({(heads.block, matrix): heads for matrix in heads.matrices})

    def of(self, number: int, block: nn.Module) -> Attention:
        """Return one block's."""
        value, output = (self._one(number, matrix) for matrix in "vo")
        sharing = len(output["matrix"]) // len(value["matrix"])
        return Attention(
            attention_of(block),
            value["matrix"].repeat_interleave(sharing, dim=0).flatten(0, 1),
            value["shift"].repeat_interleave(sharing, dim=0).flatten(),
            output["matrix"].transpose(0, 1).flatten(1),
            output["shift"],
        )

    def _one(self, number: int, matrix: str) -> Mapping[str, Tensor]:
        heads = self._heads.get((number, matrix))
        if heads is None:
            raise AttributeError(f"it has no attention matrix {matrix}")
        found = heads.split(self._weights[heads.name])[matrix].double()
        bias = f"{heads.name.removesuffix('.weight')}.bias"
        if bias not in self._weights.entries:
            shift = torch.zeros(found.shape[1] if matrix == "o" else found.shape[:2], dtype=torch.float64)
        elif matrix == "o":
            shift = self._weights[bias].double()
        else:
            column = replace(heads, hidden=1, transposed=False).split(self._weights[bias][:, None])
            shift = column[matrix][:, :, 0].double()
        return {"matrix": found.cpu(), "shift": shift.cpu()}


def normed(module: Any, x: Tensor) -> Tensor:
    """Return what a norm makes of one state (H,), in its dtype, as float64."""
    weight = getattr(module, "weight", None)
    given = x if weight is None else x.to(weight.device, weight.dtype)
    with torch.no_grad():
        y: Tensor = module(given[None, None])[0, 0]
    return y.double().cpu()


def _named(block: nn.Module, names: Sequence[str], what: str) -> nn.Module:
    return block.get_submodule(_name(block, names, what))


def _name(block: nn.Module, names: Sequence[str], what: str) -> str:
    found = next((name for name in names if isinstance(getattr(block, name, None), nn.Module)), None)
    if found is None:
        raise AttributeError(f"it has no {what} of a known name")
    return found
