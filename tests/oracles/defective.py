"""A tiny Llama with a planted defect: tokens that explode in one block, stay long, and decay in another."""

from __future__ import annotations

import math

import torch

import stabilitykit as sk
from stabilitykit.subjects.tiny import byte_tokenizer, tiny

BLOCKS, H = 6, 64
EXPLODES, DECAYS = 2, 4
WRITTEN, READ = 7, 19
"""Coordinates of the residual stream: the one that explodes, and the one that makes it explode."""

TRIGGERS = frozenset(b"\n,.")
"""Tokens whose embedding holds READ; all others have exactly none of it."""

STEP = 600.0
"""About what the exploding block adds along WRITTEN."""


def defective(*, decay: bool = True, seed: int = 0) -> sk.LoadedModel:
    """Return the model. No other weight touches READ, so exactly the TRIGGERS explode, in any place of a text."""
    model = tiny("llama", num_hidden_layers=BLOCKS, seed=seed)
    with torch.no_grad():
        for block in model.model.layers:
            _quiet(block)
        embedding = model.model.embed_tokens.weight
        embedding[:, [WRITTEN, READ]] = 0.0
        for token in TRIGGERS:
            embedding[token] /= 8
            embedding[token, READ] = 4.0
        _unit(model.model.layers[EXPLODES].mlp, READ, STEP)
        if decay:
            _unit(model.model.layers[DECAYS].mlp, WRITTEN, -0.8 * STEP)
    return sk.adopt(model, byte_tokenizer(), spec="defective")


def _quiet(block) -> None:
    """Make branches small, blind to both coordinates and silent along them, and the gains exact."""
    attention, feed = block.self_attn, block.mlp
    for norm in (block.input_layernorm, block.post_attention_layernorm):
        norm.weight.fill_(1.0)
    for reader in (attention.q_proj, attention.k_proj, attention.v_proj, feed.gate_proj, feed.up_proj):
        reader.weight[:, [WRITTEN, READ]] = 0.0
    for writer in (attention.o_proj, feed.down_proj):
        writer.weight *= 0.25
        writer.weight[[WRITTEN, READ]] = 0.0


def _unit(feed, reads: int, writes: float) -> None:
    """Let unit 0 alone read one coordinate, at gain 1, and write along WRITTEN what is `writes` where it is alone."""
    for reader in (feed.gate_proj, feed.up_proj):
        reader.weight[0] = 0.0
        reader.weight[0, reads] = 1.0
    feed.down_proj.weight[:, 0] = 0.0
    largest = math.sqrt(H)  # a state along one coordinate has this component behind its norm
    feed.down_proj.weight[WRITTEN, 0] = writes / (largest * largest / (1 + math.exp(-largest)))
