"""Everything that a measurement could leave changed behind it: settings of the process, and the user's model."""

from __future__ import annotations

import decimal
import locale
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.weights import weight_digest

_CUDA = torch.backends.cuda
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
_PYTEST = "PYTEST_CURRENT_TEST"  # pytest's own, another one for each phase of a test

SETTINGS: Mapping[str, Callable[[], object]] = {
    "threads": torch.get_num_threads,
    "threads between operations": torch.get_num_interop_threads,
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "anomaly mode": torch.is_anomaly_enabled,
    "deterministic algorithms": lambda: (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    ),
    "matmul precision": torch.get_float32_matmul_precision,
    "TF32": lambda: (_CUDA.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
    "reduced precision": lambda: _CUDA.matmul.allow_bf16_reduced_precision_reduction,
    "cudnn": lambda: tuple(getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    "oneDNN": lambda: (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
    "attention kernels": lambda: tuple(
        getattr(_CUDA, f"{name}_sdp_enabled")() for name in ("flash", "mem_efficient", "math", "cudnn")
    ),
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    "flush of denormals": lambda: bool((torch.tensor([1e-45]) * 1 == 0).item()),
    "modes around torch functions": lambda: torch._C._len_torch_function_stack(),
    "modes around dispatch": lambda: torch._C._len_torch_dispatch_stack(),
    "random state of torch": lambda: digest(torch.get_rng_state()),
    "random state of numpy": lambda: repr(np.random.get_state(legacy=True)[1].tobytes()),
    "random state of Python": random.getstate,
    "print options of torch": lambda: repr(torch._tensor_str.PRINT_OPTS),
    "print options of numpy": lambda: repr(np.get_printoptions()),
    "errors of numpy": np.geterr,
    "warning filters": lambda: list(warnings.filters),
    "environment": lambda: {name: value for name, value in os.environ.items() if name != _PYTEST},
    "working directory": os.getcwd,
    "umask": lambda: _umask(),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "decimal context": lambda: repr(decimal.getcontext()),
    "recursion limit": sys.getrecursionlimit,
    "import path": lambda: list(sys.path),
    "standard streams": lambda: (id(sys.stdout), id(sys.stderr), id(sys.stdin)),
    "signal handlers": lambda: {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)},
    "verbosity of transformers": lambda: (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
    ),
    "level of logging": lambda: (logging.root.level, logging.root.manager.disable),
}


def settings() -> dict[str, object]:
    """Return every setting of this process."""
    return {name: read() for name, read in SETTINGS.items()}


def of_model(loaded: LoadedModel) -> dict[str, object]:
    """Return all of a model that its user could see changed: weights, places, modes, hooks, configuration."""
    model = loaded.model
    modules = dict(model.named_modules())
    return {
        "weights": weight_digest(model),
        "places of weights": {name: (id(one), one.data_ptr()) for name, one in _tensors(model)},
        "requires_grad": {name: one.requires_grad for name, one in model.named_parameters()},
        "gradients": [name for name, one in model.named_parameters() if one.grad is not None],
        "modules": {name: id(module) for name, module in modules.items()},
        "train mode": {name: module.training for name, module in modules.items()},
        "hooks": {name: [len(getattr(module, one)) for one in _HOOKS] for name, module in modules.items()},
        "attributes": {name: sorted(map(str, vars(module))) for name, module in modules.items()},
        "configuration": (repr(model.config.to_dict()), _implementations(model)),
        "generation configuration": repr(getattr(model, "generation_config", None)),
        "tokenizer": repr(loaded.tokenizer),
    }


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    """Return what differs between two of these, in one sentence; None if nothing does."""
    names = [name for name in before if before[name] != after[name]]
    if not names:
        return None
    first = f"{before[names[0]]!r:.120} became {after[names[0]]!r:.120}"
    return f"left changed: {', '.join(names)} ({names[0]}: {first})"


def _tensors(model: nn.Module) -> Any:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _implementations(model: nn.Module) -> tuple[object, ...]:
    return tuple(getattr(model.config, f"_{name}_implementation", None) for name in ("attn", "experts"))


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found
