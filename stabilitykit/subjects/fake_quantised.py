"""A model whose matrices compute on a grid of small integers, for a moment; its own weights are never touched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.integer_grid import Scale, on_grid
from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.generation import finite
from stabilitykit.subjects.sites import Tap

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


class FakeQuantised:
    """A model with weights and inputs of its blocks' matrices on a grid of `bits`, one scale a tensor or a row.

    The rows of a weight are its outputs', those of an input its tokens'. Embedding, head, norms, biases and whatever
    attention computes between its matrices stay as they are. `names` are the matrices' modules. Memory: a copy of their
    weights. UnsupportedError for a model whose blocks have no such modules.
    """

    def __init__(self, loaded: LoadedModel, anatomy: Anatomy, bits: int, per: Scale) -> None:
        self.loaded, self.bits, self.per = loaded, bits, per
        self._weights = {
            name: self._rounded(module)
            for block, stem in zip(anatomy.blocks, anatomy.block_names, strict=True)
            for name, module in _matrices(block, stem)
        }
        if not self._weights:
            raise UnsupportedError(f"the blocks of {loaded.spec} have no matrices in modules of their own to round")

    @property
    def names(self) -> list[str]:
        """The modules whose matrices are rounded."""
        return list(self._weights)

    def logits(self, ids: Tensor, kept: Collection[str] = ()) -> Tensor:
        """Return the logits (T, V) of one text (1, T), the modules `kept` computing as they are; one forward."""
        rounded = [name for name in self._weights if name not in kept]
        with torch.no_grad(), ExitStack() as held:
            for name in rounded:
                tap = Tap(self.loaded.model.get_submodule(name), before=True)
                held.enter_context(tap.reading(lambda x: on_grid(x, self.bits, self.per)))
            output = functional_call(
                self.loaded.model,
                {f"{name}.weight": self._weights[name] for name in rounded},
                kwargs={"input_ids": ids.to(self.loaded.model.device), "use_cache": False},
            )
        self.loaded.counter.forwards += 1
        self.loaded.counter.calls += 1
        return finite(output.logits[0].cpu())

    def _rounded(self, module: Any) -> Tensor:
        weight: Tensor = module.weight.detach()
        turned = isinstance(module, Conv1D)  # its rows are the inputs'
        grid = on_grid(weight.T if turned else weight, self.bits, self.per)
        return grid.T.contiguous() if turned else grid


def _matrices(block: nn.Module, stem: str) -> Iterator[tuple[str, Any]]:
    for name, module in block.named_modules(prefix=stem):
        if isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point():
            yield name, module
