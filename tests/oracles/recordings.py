"""Recordings made by hand, whose every bit a test chooses, and a model that computes like another machine."""

import contextlib
from dataclasses import replace

import numpy as np
import torch

from stabilitykit.traces.recording import Generation, Recording
from stabilitykit.traces.stages import Stage

STAGES = (
    Stage("embed", "layers.0", before=True, part="embed"),
    Stage("module:layers.0.mlp", "layers.0.mlp", block=0, part="mlp"),
    Stage("block:0", "layers.0", block=0, part="block"),
    Stage("module:layers.1.mlp", "layers.1.mlp", block=1, part="mlp"),
    Stage("block:1", "layers.1", block=1, part="block"),
    Stage("post_norm", "norm", part="norm"),
    Stage("logits", "", part="logits"),
)
H, M = 6, 9


def generation(tokens=(1, 2, 3, 4), *, dtype=torch.float32, seed=0, ids=(5, 6), text="<b>a prompt", predicted=None):
    """Return a generation with random states; the tokens are what it predicted unless others are given."""
    random = torch.Generator().manual_seed(seed)
    n = len(tokens)
    widths = {"logits": M, "module:layers.0.mlp": 8, "module:layers.1.mlp": 8}
    states = {
        stage.name: torch.randn(n, widths.get(stage.name, H), generator=random, dtype=torch.float64).to(dtype)
        for stage in STAGES
    }
    top = states["logits"].topk(4)
    return Generation(
        kind="given",
        text=text,
        ids=tuple(ids),
        tokens=np.array(tokens, dtype=np.int64),
        predicted=np.array(tokens if predicted is None else predicted, dtype=np.int64),
        top_ids=top.indices.numpy(),
        top_logits=top.values,
        normaliser=np.zeros(n),
        digests=np.zeros((n, len(STAGES), 16), dtype=np.uint8),
        states=states,
    )


def recording(*generations, dtype="float32", digests=None, config="c" * 64, mode="free"):
    """Return a recording of generations."""
    return Recording(
        model={
            "spec": "hand-made",
            "architecture": "Toy",
            "dtype": dtype,
            "digests": digests or {dtype: "0" * 64},
            "config": config,
            "tokenizer": None,
        },
        device="cpu",
        environment={},
        probe="p",
        mode=mode,
        level="module",
        stages=STAGES,
        generations=generations,
        observer={"steps": 0},
        seconds={"plain": 0.0, "recorded": 0.0},
    )


def changed(one, stage, step, change):
    """Return a generation in which one stage's state of one step is what `change` makes of it."""
    states = {name: state.clone() for name, state in one.states.items()}
    states[stage][step] = change(states[stage][step].clone())
    return replace(one, states=states)


def with_bits(value, integer, dtype):
    """Return a number of a given pattern."""
    return torch.tensor(value, dtype=integer).view(dtype)


@contextlib.contextmanager
def other_machine(loaded, block, scale):
    """Let one block's output come out a little larger: other bits of the same weights on the same input."""

    def louder(_block, _inputs, output):
        return output * (1 + scale) if isinstance(output, torch.Tensor) else (output[0] * (1 + scale), *output[1:])

    handle = loaded.model.get_submodule(block).register_forward_hook(louder)
    try:
        yield
    finally:
        handle.remove()
