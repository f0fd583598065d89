"""Directions with their entries elsewhere, pairs of inputs along each, and which coordinates tell a pair apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.walks import walks
from stabilitykit.numerics.bits import bits_equal, same_bits
from stabilitykit.numerics.perturbation import perturb
from stabilitykit.numerics.rounding import round_to_keys
from stabilitykit.subjects.subject import Subject

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Turn:
    """A direction (H,) float64 of the length of the original: turned by `shift` places, or a control of another kind.

    `kind`: shift, permutation, signs or random; `shift` is then the number of the control.
    """

    kind: str
    shift: int
    direction: Tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """The inputs x(e) and x(e + gap) along one turn, and the coordinates in which rounding must tell them apart."""

    turn: Turn
    gap: float
    left: Tensor
    right: Tensor
    predicted: Mask

    @property
    def input_changed(self) -> Mask:
        """The coordinates in which the inputs as they are differ in any bit."""
        return (~same_bits(self.left, self.right)).numpy()


@dataclass(frozen=True, eq=False)
class Change:
    """What a pair of unequal inputs does: masks of the last token's state after block 0 and of the output, the jump.

    `block0` is None without blocks.
    """

    block0: Mask | None
    output: Mask
    jump: float
    slot: int


def turns(direction: Tensor, shifts: Sequence[int], controls: int, seed: int) -> list[Turn]:
    """Return the shifted directions, then `controls` of each other kind, drawn from the seed."""
    d = direction.double().cpu()
    random = np.random.Generator(np.random.PCG64(seed))
    found = [Turn("shift", shift, d.roll(shift)) for shift in shifts]
    for number in range(controls):
        order, signs = random.permutation(len(d)), random.integers(0, 2, size=len(d)) * 2 - 1
        drawn = torch.from_numpy(random.standard_normal(len(d)))
        found += [
            Turn("permutation", number, d[torch.from_numpy(order)]),
            Turn("signs", number, d * torch.from_numpy(signs)),
            Turn("random", number, drawn * (d.norm() / drawn.norm())),
        ]
    return found


def paired(x0: Tensor, turn: Turn, magnitude: float, gap: float) -> Pair:
    """Return the pair at `magnitude` and `magnitude` + gap with its prediction: the rounding alone, in integers."""
    x, d = x0.detach().cpu().double().numpy(), turn.direction.numpy()
    low, high = (round_to_keys(x + s * d, x0.dtype) for s in (magnitude, magnitude + gap))
    left, right = perturb(x0, turn.direction, torch.tensor([magnitude, magnitude + gap], dtype=torch.float64))
    return Pair(turn, gap, left, right, low != high)


def changes(subject: Subject, pairs: Sequence[Pair]) -> list[Change | None]:
    """Run both sides of each pair in one slot and return what differs; None for a pair of equal inputs, not run.

    Cost: 2 rows a pair through the whole subject, and 2 through the first block if there is one.
    """
    unequal = [pair for pair in pairs if not bits_equal(pair.left, pair.right)]
    paths = [torch.stack([pair.left, pair.right]) for pair in unequal]
    outputs = walks(subject, paths, label="rotation")
    states = (
        walks(subject, paths, lambda X: _last(subject.first_blocks(X)), "rotation, block 0") if subject.depth else []
    )
    found = iter(
        Change(
            block0=_differs(states[k].outputs) if states else None,
            output=_differs(walk.outputs),
            jump=float((walk.outputs[1].double() - walk.outputs[0].double()).norm()),
            slot=walk.slot,
        )
        for k, walk in enumerate(outputs)
    )
    return [None if bits_equal(pair.left, pair.right) else next(found) for pair in pairs]


def _last(state: Tensor) -> Tensor:
    """Return the last token's state: before it a causal model cannot change."""
    return state[:, -1] if state.dim() == 3 else state.flatten(1)


def _differs(rows: Tensor) -> Mask:
    return (~same_bits(rows[0], rows[1])).cpu().numpy()


def histogram(masks: Sequence[Mask], shifts: Sequence[int] | None = None) -> tuple[NDArray[np.int64], list[int]]:
    """Return how many masks hold each place, each first turned back by its shift, and how many places each holds."""
    turned = [np.roll(mask, -shift) for mask, shift in zip(masks, shifts or [0] * len(masks), strict=True)]
    places = len(turned[0]) if turned else 0
    counts = np.array(turned, dtype=np.int64).reshape(len(turned), places).sum(axis=0, dtype=np.int64)
    return np.asarray(counts), [int(mask.sum()) for mask in masks]


def share(flags: Sequence[bool]) -> float:
    """Return the share of true flags, nan of none."""
    return sum(flags) / len(flags) if flags else math.nan
