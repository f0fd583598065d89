"""Which experts a mixture chooses: a discrete decision, which the smallest change can turn, and with it the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.anatomy import PROBE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def routers(model: PreTrainedModel) -> list[str]:
    """Names of the modules that choose experts, in the order they run, as in `model.named_modules()`.

    Found by what they return in a forward of 3 tokens: a tuple that holds integers (3, k), the experts of each token,
    and floating-point numbers of the same shape, their weights. The innermost such module counts. [] where none returns
    that: dense models, and mixtures that choose outside of a module of its own. Cost: that forward.
    """
    choosing: list[str] = []

    def note(name: str, output: Any) -> None:
        if _indices(output) is not None:
            choosing.append(name)

    ids = torch.tensor([PROBE], device=model.get_input_embeddings().weight.device)
    names = [name for name, _ in model.named_modules() if name]
    with _read(model, names, note), torch.no_grad():
        model.base_model(input_ids=ids, use_cache=False)
    return [name for name in dict.fromkeys(choosing) if not any(other.startswith(f"{name}.") for other in choosing)]


def chosen_experts(model: nn.Module, name: str, output: Any, batch: int = 1) -> Tensor:
    """The experts that router `name` chose for the last token of each row, (B, k) int64 in ascending order.

    `output` is what the module returned in a forward of `batch` rows. The order is dropped, so two rows differ exactly
    if other experts ran. UnsupportedError for an output without indices, or of another number of rows.
    """
    chosen = _indices(output)
    if chosen is None or not chosen.numel() or chosen.shape[:-1].numel() % batch:
        raise UnsupportedError(
            f"{type(model).__name__}: module {name!r} returned no experts for a batch of {batch}; name one of routers()"
        )
    return chosen.reshape(batch, -1, chosen.shape[-1])[:, -1].long().sort(dim=-1).values


@contextmanager
def watched(model: nn.Module, names: Sequence[str], batch: int = 1) -> Iterator[dict[str, Tensor]]:
    """Inside, every forward of `batch` rows leaves `chosen_experts` of each named router in the yielded dictionary."""
    chosen: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        chosen[name] = chosen_experts(model, name, output, batch)

    with _read(model, names, note):
        yield chosen


def _indices(output: Any) -> Tensor | None:
    """The integers of a module's output that come with weights of the same shape (..., k); None if there are none."""
    tensors = [item for item in output if isinstance(item, Tensor)] if isinstance(output, tuple) else []
    weighed = {item.shape for item in tensors if item.is_floating_point() and item.dim() > 1}
    found = [item for item in tensors if item.dtype in (torch.int64, torch.int32) and item.shape in weighed]
    return found[0] if found else None


@contextmanager
def _read(model: nn.Module, names: Sequence[str], note: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `note(name, output)` whenever one of the named modules returns."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: note(name, output)

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
