"""Whether a model in memory is still what it was: a look at every weight that takes milliseconds, and its modes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

SAMPLED = 64
"""Elements of a weight that are read, at equal distances; torch counts most writes to the others."""


def fingerprint(model: nn.Module) -> Mapping[str, str]:
    """Return a text for each weight, buffer and module: places, counted writes and a sample; mode and hooks.

    Equal ones prove nothing about elements that were written past torch's count; `weight_digest` does. Cost:
    milliseconds, and on a GPU a copy of the samples.
    """
    found = {f"weight {name!r}": _of_tensor(one) for name, one in (*model.named_parameters(), *model.named_buffers())}
    return found | {f"module {name!r}": _of_module(module) for name, module in model.named_modules()}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the first part that is not the same in both, as `weight 'lm_head.weight'`; "" if all are."""
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), "")


def _of_tensor(tensor: Tensor) -> str:
    local = tensor.detach()
    if hasattr(local, "to_local"):  # one process's share of a sharded weight
        local = local.to_local()
    writes = 0 if tensor.is_inference() else tensor._version
    if local.is_meta or not local.numel():
        return f"{tuple(local.shape)} {writes}"
    sample = local.reshape(-1)[:: max(1, local.numel() // SAMPLED)].cpu().contiguous().view(torch.uint8)
    return f"{local.data_ptr()} {writes} {hashlib.sha256(sample.numpy().tobytes()).hexdigest()}"


def _of_module(module: nn.Module) -> str:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return f"{id(module)} {module.training} {[list(one) for one in hooks]}"
