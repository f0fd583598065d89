"""What two recordings must have in common to be held against each other: weights, configuration, tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.weights import dtype_named, weight_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stabilitykit.subjects.models import LoadedModel

NARROWER = {"float64": ("float32", "bfloat16", "float16"), "float32": ("bfloat16", "float16")}
"""Dtypes that weights can be rounded to: those of a narrower recording are recognised as the same weights."""

# How a model is run or was stored, not which function it is; private fields are of that kind as well.
ASIDE = {"architectures", "dtype", "torch_dtype", "transformers_version", "name_or_path", "quantization_config"}
ASIDE |= {"attn_implementation", "experts_implementation", "use_cache", "output_hidden_states", "output_attentions"}


def identity(loaded: LoadedModel) -> dict[str, Any]:
    """Return what names the model whatever it runs on, JSON-plain.

    `digests` has that of the weights in their own dtype and, of wider ones, in each dtype they may be rounded to;
    `config` is one over the configuration without what says how it is run; `tokenizer` over the tokenizer, None
    without one. Cost: one hash of the weights for each narrower dtype.
    """
    dtype = name_of(loaded.model.dtype)
    narrower = {name: weight_digest(loaded.model, dtype_named(name)) for name in NARROWER.get(dtype, ())}
    return {
        "spec": loaded.spec,
        "architecture": type(loaded.model).__name__,
        "dtype": dtype,
        "digests": {dtype: loaded.digest, **narrower},
        "config": _config(loaded.model.config),
        "tokenizer": _tokenizer(loaded.tokenizer),
    }


def _config(config: Any) -> str:
    fields = json.loads(config.to_json_string(use_diff=False))
    return _hashed(_without(fields))


def _without(value: Any) -> Any:
    """Return nested fields without those of `ASIDE`, at any depth: a multimodal model has configurations inside."""
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in ASIDE and key[:1] != "_"}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    if tokenizer is None:
        return None
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _hashed([text, sorted(tokenizer.special_tokens_map.items(), key=str)])


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
