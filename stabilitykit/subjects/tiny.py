"""Random models of many architectures, built in a moment, with the same weight bits on every machine.

They stand in for real models where only the shape of an architecture matters; their logits mean nothing.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from stabilitykit.errors import UsageError
from stabilitykit.subjects.weights import dtype_named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BOS, EOS, VOCABULARY = 256, 257, 258  # a byte is its own token id
WINDOW = 8  # of the families with sliding attention: short enough for a test prompt to leave it
BITS = 24  # of a draw: exact in float32, rounded in bfloat16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
_HEADS = {"head_dim": 16}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {**_HEADS, "query_pre_attn_scalar": 16, "sliding_window": WINDOW},
    "gpt2": {"n_inner": 128},
    "gpt_neox": {},
    "mixtral": _EXPERTS,
    "mistral": {"sliding_window": WINDOW},
    "qwen3": _HEADS,
    "phi3": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "gemma3n": {
        **_HEADS,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": WINDOW,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "adapter_rank": 8,
        "chunk_size": 8,
    },
    "mamba": {"state_size": 8, "max_position_embeddings": None},
    "gpt_oss": {**_HEADS, **_EXPERTS, "sliding_window": WINDOW, "rope_parameters": _YARN},
    "gemma": _HEADS,
    "gemma3": {
        **_HEADS,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": WINDOW,
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.125,
        "logits_scaling": 2.0,
    },
    "qwen3_moe": {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "olmo": {},
    "olmo2": {},
    "phi": {},
    "starcoder2": {"sliding_window": WINDOW},
    "smollm3": {"no_rope_layer_interval": 2},  # block 1 without rotary positions
    "stablelm": {},
    "cohere": {},
    "falcon": {"ffn_hidden_size": 128},
    "gptj": {"rotary_dim": 8, "n_inner": 128},
    "bloom": {"max_position_embeddings": None},
    "mpt": {"max_seq_len": 512, "expansion_ratio": 2},
    "bert": {},  # an encoder, which is no causal language model
}
_MODEL_TYPES = {"gemma3n": "gemma3n_text", "gemma3": "gemma3_text"}  # the language model alone, without ears and eyes


def tiny(
    family: str = "llama",
    *,
    dtype: str = "float32",
    attention: str | None = None,
    experts: str | None = None,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """A random causal language model of one of `FAMILIES` in evaluation mode, frozen, on the CPU.

    Hidden size 64, 3 or 4 blocks, 258 tokens, 512 positions; `config` overrides any field of its configuration.
    A weight is an odd 24-bit integer of its own PCG64 stream, seeded by family and name, times a power of two: exact in
    float32, never zero, and the same bits on every machine. UsageError for an unknown family or dtype. About 0.02 s.
    """
    if family not in FAMILIES:
        raise UsageError(f"tiny family {family!r} is not one of {', '.join(FAMILIES)}; choose one of these")
    fields = {**_COMMON, **FAMILIES[family], **config}
    chosen = AutoConfig.for_model(_MODEL_TYPES.get(family, family), **fields)
    options = {"attn_implementation": attention, "experts_implementation": experts}
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away, and so are their draws
        model = AutoModelForCausalLM.from_config(
            chosen, dtype=dtype_named(dtype), **{key: value for key, value in options.items() if value}
        )
    _draw_weights(model, f"{family}/{seed}")
    model.eval()
    model.requires_grad_(False)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose token ids are the bytes of the text, with `<s>` = 256 and `</s>` = 257, never added by itself.

    Decoding an encoded text gives the text back.
    """
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


def _letters() -> list[str]:
    """The 256 printable letters that byte-level tokenizers write for bytes: themselves, or the next ones from 256."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replacements = iter(range(256, 512))
    return [chr(byte if byte in printable else next(replacements)) for byte in range(256)]


def _draw_weights(model: nn.Module, seed: str) -> None:
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    for name, weight in model.named_parameters():
        weight.data = _weight(f"{seed}/{name}", weight.detach(), is_embedding=weight is embedding)


def _weight(stream: str, initial: Tensor, is_embedding: bool) -> Tensor:
    """Draws of `initial`'s shape and dtype around 1 where the architecture starts at 1 (norms), else around 0."""
    ones, zeros = bool((initial == 1).all()), bool((initial == 0).all())
    if ones or zeros:
        spread = 2.0**-3
    elif is_embedding:
        spread = 2.0**-1
    else:  # the power of two nearest to a unit gain over the last axis
        spread = 2.0 ** round(math.log2(math.sqrt(3 / initial.shape[-1])))
    draws = _odd_integers(stream, initial.numel()) * (spread * 2.0**-BITS) + float(ones)
    return torch.from_numpy(draws).reshape(initial.shape).float().to(initial.dtype)


def _odd_integers(name: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`count` odd integers below 2**24 in magnitude; the raw stream of PCG64 is fixed across versions of NumPy."""
    stream = np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()))
    top = (stream.random_raw(count) >> np.uint64(64 - BITS)).astype(np.float64)
    return 2.0 * top - float(2**BITS - 1)
