"""T10: derivatives and singular values of models against the same formulas in extended precision, without torch."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
from torture.campaign import Campaign
from torture.extended import Extended

import stabilitykit as sk
from stabilitykit.subjects import oracle
from stabilitykit.subjects.tiny import tiny

IDS = [17, 200, 3, 91, 45, 128]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
CONFIGS = [
    {"family": "llama", "num_hidden_layers": 2, **SMALL},
    *({"family": "llama", "seed": seed, "num_hidden_layers": 1 + seed % 3} for seed in range(7)),
    *({"family": "llama", "seed": seed, "num_key_value_heads": 4, "num_attention_heads": 8} for seed in range(8, 11)),
    *({"family": "qwen2", "seed": seed, "num_hidden_layers": 1 + seed % 3} for seed in range(5)),
    *({"family": "gpt2", "seed": seed, "num_hidden_layers": 1 + seed % 3} for seed in range(4)),
]
NARROW, WIDE = 1e-4, 1e-9
"""Relative errors that float32 and true float64 may have."""


@functools.cache
def truth(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Jacobian (M, H) by differences of fourth order in extended precision, and its singular values."""
    J = Extended(tiny(**CONFIGS[number]), IDS).jacobian()
    return J, np.linalg.svd(J, compute_uv=False)


def run(number: int) -> str | None:
    """Compare columns, rows and singular values of one model, in float32 and in true float64."""
    subject = sk.CausalLMSubject(sk.adopt(tiny(**CONFIGS[number])), IDS)
    for one, allowed in ((subject, NARROW), (subject.in_float64(), WIDE)):
        for name, error in _errors(one, *truth(number)).items():
            if not error <= allowed:
                return f"{CONFIGS[number]} in {one.x0.dtype}: {name} are off by {error:.3g}, at most {allowed:g} is due"
    return None


def _errors(subject: sk.CausalLMSubject, J: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    eye = torch.eye(len(J), dtype=subject.x0.dtype)
    columns, rows = subject.jvp(eye).double().numpy().T, subject.vjp(eye).double().numpy()
    result = sk.SingularSpectrum(k=5, tolerance=1e-5 if subject.x0.dtype == torch.float32 else 1e-8).measure(subject)
    found = np.array([result.readings[f"sigma_{index}"].value for index in range(1, 6)])
    return {
        "columns of the Jacobian": _largest(columns - J, J, 0),
        "its rows": _largest(rows - J, J, 1),
        "its singular values": float(np.max(np.abs(found - sigma[:5]) / sigma[:5])),
    }


def _largest(error: np.ndarray, of: np.ndarray, axis: int) -> float:
    return float(np.max(np.linalg.norm(error, axis=axis) / np.linalg.norm(of, axis=axis)))


def _rounding(number: int) -> str | None:
    """Take a plain `.double()` for the oracle: its norms and angles round to float32."""
    with patch.object(oracle, "true_float64", nullcontext), patch.object(oracle, "require_smooth", lambda _: None):
        return run(number)


def _turned(number: int) -> str | None:
    real = sk.CausalLMSubject.jvp
    with patch.object(sk.CausalLMSubject, "jvp", lambda *given: real(*given).roll(1, dims=1)):
        return run(number)


CAMPAIGNS = [
    Campaign(
        "T10", "columns, rows and singular values of the Jacobian against extended precision", "models",
        full=len(CONFIGS), ci=1, trial=run,
        planted={"a float64 that rounds inside": _rounding, "coordinates that are off by one": _turned},
        note="80-bit numbers and differences of fourth order; 1e-4 in float32, 1e-9 in true float64",
    ),
]  # fmt: skip
