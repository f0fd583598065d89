"""How far is the prompt itself from another next token: to first order, and by an input that was seen to flip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stabilitykit.measurements.flip_lines import tokens_of
from stabilitykit.numerics.perturbation import perturb
from stabilitykit.subjects.subject import Subject

_PER_OCTAVE, _OCTAVES = 2, (-2, 5)
_ROUNDS = 2
_BETWEEN = 8
TRIED = _PER_OCTAVE * (_OCTAVES[1] - _OCTAVES[0]) + 1 + _ROUNDS * _BETWEEN
"""Most inputs that one direction takes."""


@dataclass(frozen=True)
class Outward:
    """The first flip found going outward along one direction: the realised length, and on both sides of it the step.

    `flip_eps` is nominal; inf where no token changed up to `tried`.
    """

    label: str
    slope: float
    estimate: float
    flip_eps: float
    last_same: float
    realised: float
    alignment: float
    token: int
    third: bool
    tried: float

    def row(self) -> dict[str, Any]:
        """Return it as one row."""
        return {("direction" if name == "label" else name): value for name, value in vars(self).items()}


def outward(
    subject: Subject, pair: tuple[int, int], ray: tuple[str, Tensor, float], gap: float, radius: float
) -> Outward:
    """Go outward along `ray` (label, direction, slope of the gap), from a quarter to 32 times `radius`; narrow down.

    The flip is the first of the inputs tried, narrowed twice to a ninth of the interval before it: an upper bound
    of the distance to another token along this direction, never the proof that nothing nearer flips.
    """
    label, direction, slope = ray
    x, norm = subject.x0.cpu(), float(direction.double().norm())
    octaves = torch.arange(_OCTAVES[0] * _PER_OCTAVE, _OCTAVES[1] * _PER_OCTAVE + 1, dtype=torch.float64)
    steps = radius / norm * 2 ** (octaves / _PER_OCTAVE)
    start = int(subject.baseline[0].argmax())
    last, first, token = 0.0, math.inf, start
    for _ in range(_ROUNDS + 1):
        X = perturb(x, direction.cpu(), steps)
        tokens = tokens_of(subject, X, pair)[1]
        flipped = [place for place, found in enumerate(tokens) if found != start]
        if flipped:
            first, token = float(steps[flipped[0]]), int(tokens[flipped[0]])
            steps = steps[: flipped[0]]
        last = max([last, *steps.tolist()])
        if math.isinf(first):
            break
        steps = torch.linspace(last, first, _BETWEEN + 2, dtype=torch.float64)[1:-1]
    moved = (
        perturb(x, direction.cpu(), first).double() - x.double() if math.isfinite(first) else torch.full((1,), math.nan)
    )
    realised = float(moved.norm())
    return Outward(
        label=label,
        slope=slope,
        estimate=gap / -slope if slope < 0 else math.inf,
        flip_eps=first * norm,
        last_same=last * norm,
        realised=realised,
        alignment=float(moved @ direction.double().cpu()) / (realised * norm) if realised == realised else math.nan,
        token=token,
        third=token not in pair,
        tried=float(2.0 ** _OCTAVES[1]) * radius,
    )
