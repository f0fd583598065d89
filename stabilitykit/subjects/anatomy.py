"""Where a language model keeps its embedding, blocks, final norm and head, found by structure and by one forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache

from stabilitykit.errors import InvalidError, StabilityError, UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.not_finite import origin, outputs_of
from stabilitykit.subjects.sites import Stopped, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = (1, 2, 3)  # token ids that every vocabulary has


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of one model; blocks are numbered from 0 and all names are those of `model.named_modules()`.

    `base` maps ids or embeddings to `.last_hidden_state` (B, T, hidden_size) and `head` maps that to logits, before
    whatever cap or scale the model adds. `max_positions` is None where the architecture sets no limit. `past` is the
    name under which `base` returns its cache and takes it back, None if it keeps none. `notes` says what is unusual, a
    sentence each.
    """

    base: nn.Module
    embedding: nn.Module
    blocks: list[nn.Module]
    block_names: list[str]
    final_norm: nn.Module
    final_norm_name: str
    head: nn.Module
    hidden_size: int
    layers: int
    max_positions: int | None
    past: str | None
    notes: tuple[str, ...] = ()


def find(model: PreTrainedModel) -> Anatomy:
    """Take a causal language model apart.

    Blocks: the shallowest list of modules as long as the configuration's layer count. Final norm: the last module
    outside the blocks whose output is the last hidden state, bit for bit, in a forward of 3 tokens. UnsupportedError
    says which part is missing, or that the model is an encoder; InvalidError that its mask is lost, or names the module
    whose output is the first that is not finite. Cost: that forward, and block 0 twice with a backward.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedError(f"{_kind(model)} is an encoder-decoder; load a decoder-only language model instead")
    config = model.config.get_text_config()
    layers = int(_required(model, "layer count in its configuration", getattr(config, "num_hidden_layers", None)))
    hidden = int(_required(model, "hidden size in its configuration", getattr(config, "hidden_size", None)))
    embedding = _required(model, "input embedding", model.get_input_embeddings())
    head = _required(model, "output head", model.get_output_embeddings())
    stem = _find_blocks(model, layers)
    base, first = _base(model, stem), model.get_submodule(f"{stem}.0")
    ids = torch.tensor([PROBE], device=embedding.weight.device)
    outputs, last, past = _probe(model, base, ids)
    with _refusing(model, "on embeddings"), torch.no_grad():
        X = embedding(ids)
        _state_after(first, base, X.clone())
    if _sees_later_tokens(base, X, first):
        raise _looks_ahead(model)
    norm = _find_norm(model, stem, outputs, last)
    block_names = [f"{stem}.{k}" for k in range(layers)]
    return Anatomy(
        base=base,
        embedding=embedding,
        blocks=[model.get_submodule(name) for name in block_names],
        block_names=block_names,
        final_norm=model.get_submodule(norm),
        final_norm_name=norm,
        head=head,
        hidden_size=hidden,
        layers=layers,
        max_positions=getattr(config, "max_position_embeddings", None),
        past=past,
        notes=tuple(_peculiarities(block_names, outputs, (1, len(PROBE), hidden))),
    )


def _looks_ahead(model: nn.Module) -> StabilityError:
    """Return what to say of a model whose first token sees the last: an encoder may, a decoder is broken."""
    if any(getattr(module, "is_causal", None) is True for module in model.modules()):
        return InvalidError(
            f"{_kind(model)} has lost its mask: its attention is causal, yet its first token's state depends on the "
            "last token; look at the mask that reaches the kernel"
        )
    return UnsupportedError(
        f"{_kind(model)} is an encoder: its first token's state depends on the last token; load a decoder-only "
        "language model instead"
    )


def _kind(model: nn.Module) -> str:
    return type(model).__name__


def _required(model: nn.Module, part: str, found: Any) -> Any:
    if found is None:
        raise UnsupportedError(f"{_kind(model)} has no {part}; load a decoder-only language model with a head")
    return found


def _find_blocks(model: nn.Module, layers: int) -> str:
    """Name of the shallowest ModuleList of this length; of two equally shallow ones, that with more parameters."""
    lists: list[tuple[int, int, str]] = [
        (name.count("."), -sum(p.numel() for p in module.parameters()), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    ]
    if not lists:
        raise UnsupportedError(f"{_kind(model)} has no list of {layers} blocks, its configuration's layer count")
    return min(lists)[2]


def _find_norm(model: nn.Module, stem: str, outputs: list[tuple[str, Tensor]], last: Tensor) -> str:
    same = [
        name
        for name, output in outputs
        if not name.startswith(f"{stem}.")
        and not isinstance(model.get_submodule(name), nn.Dropout | nn.Identity)
        and torch.equal(output, last)
    ]
    if not same:
        raise UnsupportedError(f"{_kind(model)} has no final norm: only a block gives its last hidden state")
    return same[-1]


def _base(model: PreTrainedModel, stem: str) -> nn.Module:
    """The model without its head: what it names as its base, or else the part of it that holds the blocks."""
    base: nn.Module = model.base_model
    return model.get_submodule(stem.split(".")[0]) if base is model else base


def _probe(model: PreTrainedModel, base: nn.Module, ids: Tensor) -> tuple[list[tuple[str, Tensor]], Tensor, str | None]:
    """Every module's output tensor in order of completion, the last hidden state (1, 3, hidden size), the cache's name.

    Attention models return their cache as `past_key_values`, state-space models under other names.
    """
    with _refusing(model, f"on token ids in {name_of(model.dtype)}"), outputs_of(model) as outputs, torch.no_grad():
        result = base(input_ids=ids, use_cache=True)
    caches = [name for name, value in vars(result).items() if isinstance(value, Cache)]
    last = _required(model, "last hidden state", getattr(result, "last_hidden_state", None))
    if not bool(torch.isfinite(last).all()):
        raise InvalidError(f"{_kind(model)} gives no finite state: {origin(outputs)}; nothing is measured")
    return outputs, last, caches[0] if caches else None


def _sees_later_tokens(base: nn.Module, X: Tensor, block: nn.Module) -> bool:
    """Whether the first token's state after a block has a non-zero derivative by the last token: never if causal.

    A difference of two forwards would not do: a mixture's grouped experts let later tokens reach earlier roundings.
    False where there is no derivative to look at.
    """
    try:
        with torch.enable_grad():
            X = X.detach().clone().requires_grad_()
            state = _state_after(block, base, X.clone())
            (gradient,) = torch.autograd.grad(state.flatten()[0], X)
    except RuntimeError:
        return False
    return bool((gradient[0, -1].abs() > 0).any())


def _state_after(block: nn.Module, base: nn.Module, X: Tensor) -> Tensor:
    try:
        with Tap(block).stopping():
            base(inputs_embeds=X, use_cache=False)
    except Stopped as stopped:
        return stopped.state
    raise UnsupportedError(f"{_kind(base)} does not run its first block in its forward")


@contextmanager
def _refusing(model: nn.Module, what: str) -> Iterator[None]:
    """UnsupportedError instead of what a model raises if it cannot run `what`; it has no class of its own for that."""
    try:
        yield
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(f"{_kind(model)} does not run {what} ({reason}); nothing can be measured") from error


def _peculiarities(block_names: list[str], outputs: list[tuple[str, Tensor]], shape: tuple[int, ...]) -> Iterator[str]:
    called = [(name, tuple(output.shape)) for name, output in outputs if name in set(block_names)]
    if [name for name, _ in called] != block_names:
        yield "the blocks are not called once each in order"
    if odd := [(name, found) for name, found in called if found != shape]:
        yield f"{odd[0][0]} returns shape {odd[0][1]} where the hidden state has {shape}"
