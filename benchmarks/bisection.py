"""The study's way to a boundary: bisect s as if the output changed once, then walk float by float. To compare with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import stabilitykit as sk


def evaluated(subject: sk.CausalLMSubject, x: Tensor) -> Tensor:
    """Return the last token's last hidden state (1, H) as the study reads it: whole prompt, all states, all logits."""
    embeddings = subject.embeddings.clone()[None]
    embeddings[0, -1] = x
    subject.counter.forwards += 1
    with torch.no_grad():
        return subject.model(inputs_embeds=embeddings, output_hidden_states=True).hidden_states[-1][:, -1]


def bisection(
    subject: sk.Subject, direction: Tensor, s_max: float = 1e-6, tolerance: float = 1e-15
) -> tuple[float, int]:
    """Return the largest float32 step found without a change, and the whole forwards it took.

    Stage 1 halves [0, s_max] with float32 midpoints until it is narrower than `tolerance`, at most 100 times; stage 2
    walks s up by float32 neighbours until the output changes. One whole prompt at batch 1 a step.
    """
    forwards = 0

    def output(x: Tensor) -> Tensor:
        return evaluated(subject, x) if isinstance(subject, sk.CausalLMSubject) else subject.evaluate(x[None])

    y0 = output(subject.x0)

    def changed(s: float) -> bool:
        nonlocal forwards
        forwards += 1
        return not sk.bits_equal(output(sk.perturb(subject.x0, direction, s)), y0)

    low = _halved(changed, s_max, tolerance)
    s = torch.tensor(low, dtype=torch.float32)
    while not changed(float(following := torch.nextafter(s, torch.tensor(math.inf)))):
        s = following
    return float(s), forwards


def _halved(changed: Callable[[float], bool], high: float, tolerance: float) -> float:
    low = 0.0
    for _ in range(100):
        if high - low < tolerance:
            break
        middle = float(torch.tensor((low + high) / 2, dtype=torch.float32))
        low, high = (low, middle) if changed(middle) else (middle, high)
    return low
