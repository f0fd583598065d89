"""The planted defect of `defective` in tiny models with layer norms and two-matrix layers, in sequence or not."""

from __future__ import annotations

import math

import torch
from oracles.defective import BLOCKS, DECAYS, EXPLODES, READ, STEP, TRIGGERS, WRITTEN, H
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import stabilitykit as sk
from stabilitykit.subjects.tiny import byte_tokenizer, tiny

PLAIN = ("gpt2", "gpt_neox", "phi", "falcon")
PARALLEL = ("gpt_neox", "phi", "falcon")
_UP = ("c_fc", "dense_h_to_4h", "fc1")
_DOWN = ("c_proj", "dense_4h_to_h", "fc2", "dense")
_PLANTED = [WRITTEN, READ]


def defective_plain(family: str, *, decay: bool = True) -> sk.LoadedModel:
    """Return the model. What is written sums to 0 over all other coordinates, so that the mean taken away is 0."""
    model = tiny(family, num_hidden_layers=BLOCKS)
    stack = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == BLOCKS)
    with torch.no_grad():
        for block in stack:
            _quiet(block)
        _embed(model)
        _unit(stack[EXPLODES].mlp, READ, STEP)
        if decay:
            _unit(stack[DECAYS].mlp, WRITTEN, -0.8 * STEP)
    return sk.adopt(model, byte_tokenizer(), spec=f"defective {family}")


def _embed(model) -> None:
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight[:] = _silent(module.weight.T).T
    embedding = model.get_input_embeddings().weight
    for token in TRIGGERS:
        embedding[token] /= 8
        embedding[token, READ] = 4.0


def _quiet(block) -> None:
    for name, module in block.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, nn.Linear | Conv1D):
            W = module.weight.T if isinstance(module, Conv1D) else module.weight
            if leaf in _DOWN:
                W[:] = _silent(W * 0.25)
            else:
                W[:, _PLANTED] = 0.0
            if module.bias is not None and leaf in _DOWN:
                module.bias[:] = _silent(module.bias[:, None])[:, 0]


def _silent(W: Tensor) -> Tensor:
    """Return W (H, n) without the planted coordinates, and with columns that sum to 0."""
    rest = [k for k in range(H) if k not in _PLANTED]
    W = W.clone()
    W[_PLANTED] = 0.0
    W[rest] -= W[rest].mean(dim=0)
    return W


def _unit(feed, reads: int, writes: float) -> None:
    """Let unit 0 alone read one coordinate, at gain 1, and write along WRITTEN what is `writes` where it is alone."""
    up = next(getattr(feed, name) for name in _UP if hasattr(feed, name))
    down = next(getattr(feed, name) for name in _DOWN if hasattr(feed, name))
    _rows(up)[0] = 0.0
    _rows(up)[0, reads] = 1.0
    if up.bias is not None:
        up.bias[0] = 0.0
    _rows(down)[:, 0] = 0.0
    _rows(down)[WRITTEN, 0] = writes / math.sqrt(H - 1)


def _rows(layer) -> Tensor:
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight
