"""Llama, Qwen2 and GPT-2 in 80-bit numbers: their last state as a function of the last embedding, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

Wide = np.longdouble
STEP = Wide("1e-4")
"""Of differences of fourth order: what is cut off is below 1e-15 of a derivative, what is rounded below 1e-14."""


class Extended:
    """The last token's state after the final norm; weights and angles are the model's own, everything else is wide."""

    def __init__(self, model: Any, ids: list[int]) -> None:
        self.config = model.config
        self.weights = {name: value.double().numpy().astype(Wide) for name, value in model.state_dict().items()}
        self.gpt = model.config.model_type == "gpt2"
        table = self["transformer.wte.weight" if self.gpt else "model.embed_tokens.weight"]
        self.embeddings = table[ids]
        if not self.gpt:
            angles = model.model.rotary_emb.inv_freq.double().numpy().astype(Wide)
            turned = np.arange(len(ids), dtype=Wide)[:, None] * np.concatenate([angles, angles])
            self.cos, self.sin = np.cos(turned), np.sin(turned)

    def __getitem__(self, name: str) -> Any:
        return self.weights[name]

    def jacobian(self) -> Any:
        """Return (M, H) float64: the derivative of `last` at the last embedding."""
        columns = []
        for coordinate in range(self.embeddings.shape[1]):
            at = {}
            for steps in (-2, -1, 1, 2):
                h = self.embeddings.copy()
                h[-1, coordinate] += steps * STEP
                at[steps] = self.last(h)
            columns.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * STEP))
        return np.array(columns).T.astype(np.float64)

    def last(self, h: Any) -> Any:
        """Return the last state (M,) of embeddings (T, H), to which GPT-2 adds its positions'."""
        if self.gpt:
            h = h + self["transformer.wpe.weight"][: len(h)]
        for layer in range(self.config.num_hidden_layers):
            h = self._gpt_block(h, f"transformer.h.{layer}.") if self.gpt else self._block(h, f"model.layers.{layer}.")
        if self.gpt:
            return self._layer_norm(h[-1:], "transformer.ln_f.")[0]
        return self._rms_norm(h[-1:], "model.norm.weight")[0]

    def _block(self, h: Any, at: str) -> Any:
        x = self._rms_norm(h, f"{at}input_layernorm.weight")
        q, k, v = (self._linear(x, f"{at}self_attn.{name}_proj") for name in "qkv")
        heads, shared = self.config.num_attention_heads, self.config.num_key_value_heads
        q, k = self._rotated(_split(q, heads)), self._rotated(_split(k, shared))
        k, v = (np.repeat(one, heads // shared, axis=0) for one in (k, _split(v, shared)))
        h = h + self._linear(_attended(q, k, v), f"{at}self_attn.o_proj")
        x = self._rms_norm(h, f"{at}post_attention_layernorm.weight")
        gate, up = (self._linear(x, f"{at}mlp.{name}_proj") for name in ("gate", "up"))
        return h + self._linear(gate / (1 + np.exp(-gate)) * up, f"{at}mlp.down_proj")

    def _gpt_block(self, h: Any, at: str) -> Any:
        q, k, v = np.split(self._conv(self._layer_norm(h, f"{at}ln_1."), f"{at}attn.c_attn"), 3, axis=1)
        heads = [_split(one, self.config.num_attention_heads) for one in (q, k, v)]
        h = h + self._conv(_attended(*heads), f"{at}attn.c_proj")
        x = self._conv(self._layer_norm(h, f"{at}ln_2."), f"{at}mlp.c_fc")
        root = np.sqrt(Wide(2) / (4 * np.arctan(Wide(1))))
        x = x / 2 * (1 + np.tanh(root * (x + Wide(0.044715) * x**3)))
        return h + self._conv(x, f"{at}mlp.c_proj")

    def _rms_norm(self, x: Any, name: str) -> Any:
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + Wide(self.config.rms_norm_eps)) * self[name]

    def _layer_norm(self, x: Any, at: str) -> Any:
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + Wide(self.config.layer_norm_epsilon))
        return x * self[f"{at}weight"] + self[f"{at}bias"]

    def _linear(self, x: Any, name: str) -> Any:
        return x @ self[f"{name}.weight"].T + self.weights.get(f"{name}.bias", Wide(0))

    def _conv(self, x: Any, name: str) -> Any:
        return x @ self[f"{name}.weight"] + self[f"{name}.bias"]

    def _rotated(self, x: Any) -> Any:
        first, second = np.split(x, 2, axis=2)
        return x * self.cos + np.concatenate([-second, first], axis=2) * self.sin


def _split(x: Any, heads: int) -> Any:
    """Return (heads, T, width) of (T, heads * width)."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _attended(q: Any, k: Any, v: Any) -> Any:
    """Return causal attention of heads (heads, T, width) as (T, heads * width)."""
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(Wide(q.shape[2]))
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    mixed = weights / weights.sum(axis=2, keepdims=True) @ v
    return mixed.transpose(1, 0, 2).reshape(len(mixed[0]), -1)
