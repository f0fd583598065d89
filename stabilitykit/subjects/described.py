"""What identifies a causal subject beside its input: the model, the prompt, and how both are run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.precision import true_float64

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


def described(subject: CausalLMSubject) -> dict[str, Any]:
    """Return these facts, JSON-plain, with the proofs that the subject rests on."""
    return {
        **({"input": "not a token's embedding"} if subject.moved else {}),
        "model": subject.loaded.spec,
        "model_digest": subject.loaded.digest,
        "architecture": type(subject.model).__name__,
        "layers": subject.depth,
        "attention": getattr(subject.model.config, "_attn_implementation", None),
        "experts": subject.experts,
        "prompt": subject.prompt if isinstance(subject.prompt, str) else "",
        "token_ids": list(subject.ids),
        "site": subject.site,
        "path": subject.path,
        "rows": subject.rows,
        "arithmetic": "true float64" if subject.arithmetic is true_float64 else name_of(subject.x0.dtype),
        "proofs": asdict(subject.proofs),
    }
