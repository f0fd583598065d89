"""The study's own procedures, counted: what each asks of a model, and how many forwards that is. To compare with.

Each runs on a sample of its work, at batch 1, whole prompt, one input at a time, nothing remembered, and says by
formula how many forwards the whole of it takes. H is the width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from bisection import bisection

import stabilitykit as sk

START, STEP = 1e-6 + 1815 * 2e-13, 6e-14


@dataclass(frozen=True)
class Procedure:
    """One script of the study: forwards for all of its work at width H, and a sample of that work.

    `sample` does some of the work and returns how many of its units it did, of `units(H)` in all: forwards, counted by
    the subject, times units over units done must come near the formula. Without a sample the formula stands alone.
    """

    answers: str
    forwards: Callable[[int], float]
    units: Callable[[int], int] = lambda H: 1
    sample: Callable[[sk.Subject], int] | None = None
    jacobians: int = 1


def procedures() -> dict[str, Procedure]:
    """Return the experiments by the study's names; counts are those of its scripts, 32 forwards a bisected boundary."""
    noise = 2 + 5 + 10 + 100 + 1000 + 2000 + 4000
    return {
        "exp1 layerwise": Procedure("LayerProfile", lambda H: 26, lambda H: 13, jumps),
        "exp1 iterative": Procedure("LayerProfile", lambda H: 1001, lambda H: 1001, walk),
        "exp1 layer 0": Procedure("Fate", lambda H: 3003, lambda H: 3003, walk, jacobians=3),
        "exp2 archive": Procedure("DirectionalGain", lambda H: 469, lambda H: 234, gains),
        "exp2 v1": Procedure("DirectionalGain, noise", lambda H: 28 * (2 + 2 * 2000) + 1),
        "exp2 v2": Procedure("DirectionalGain, noise", lambda H: 28 * (2 + 2 * noise) + 1),
        "exp5": Procedure("SubmoduleProfile", lambda H: 3),
        "exp6 part 1": Procedure("Tie", lambda H: 502, jacobians=0),
        "exp6 part 2": Procedure("FlipScan", lambda H: 10_010),
        "exp11": Procedure("Rotation", lambda H: 640, lambda H: 320, rotations),
        "exp12": Procedure("StabilityFan", lambda H: 32_000, lambda H: 1000, boundaries),
        "exp13": Procedure("StabilitySpectrum", lambda H: 32 * H, lambda H: H, boundaries),
        "exp14": Procedure("Staircase", lambda H: 501, lambda H: 501, walk),
        "exp15": Procedure("BoundaryJump", lambda H: 1000 + H),
        "perturbation tests": Procedure("NoiseTest", lambda H: 17 + 65, jacobians=0),
    }


def jumps(subject: sk.Subject) -> int:
    """Two forwards a jump: the start of each pair is run again."""
    for jump in range(13):
        run(subject, START)
        run(subject, START + STEP * 10**jump)
    return 13


def walk(subject: sk.Subject) -> int:
    """One forward a step of the grid, equal inputs too."""
    for index in range(26):
        run(subject, START + STEP * index)
    return 26


def gains(subject: sk.Subject) -> int:
    """Two forwards a cell: the unperturbed one again in each."""
    for power in range(1, 11):
        subject.evaluate(subject.copies(1))
        run(subject, 10.0**-power)
    return 10


def rotations(subject: sk.Subject) -> int:
    """Two forwards a shift and jump: the start again for each jump."""
    for shift in range(6):
        for step in (START, START + STEP):
            run(subject, step, shift * 64)
    return 6


def boundaries(subject: sk.Subject) -> int:
    """Bisection and walk in the plane of v1 and v2."""
    for direction in rays(subject, 4):
        bisection(subject, direction)
    return 4


def rays(subject: sk.Subject, count: int) -> Iterator[torch.Tensor]:
    """Yield directions all around in the plane of v1 and v2."""
    vectors = sk.singular_vectors(subject, 2)
    for index in range(count):
        turn = torch.tensor(2 * torch.pi * index / count)
        yield torch.cos(turn) * vectors[0] + torch.sin(turn) * vectors[1]


def run(subject: sk.Subject, step: float, shift: int = 0) -> torch.Tensor:
    """One forward of x0 + step * v1, the direction turned by `shift` places."""
    direction = sk.singular_vectors(subject, 1)[0].roll(shift)
    return subject.evaluate(sk.perturb(subject.x0, direction, step, "p32")[None])
