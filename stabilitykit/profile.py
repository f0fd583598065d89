"""How much to measure: three named sets of counts, from minutes on two cores to the counts of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """Counts the ready-made suite asks for; any test may use them as `stability.profile`.

    `runs`: repetitions of one forward. `sizes`, `lengths`: batch sizes and prompt lengths in tokens.
    `directions`: random directions searched for their first change. `angles`: rays of a fan. `singular`: how many
    singular values. `examples`: Hypothesis draws. `prompts`: how many prompts, None for all.
    """

    name: str
    runs: int
    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    directions: int
    angles: int
    singular: int | Literal["all"]
    examples: int
    prompts: int | None


# Zero events in 59, 299 or 2995 runs bound the rate below 5 %, 1 % or 0.1 % with 95 % confidence.
PROFILES = {
    "quick": Profile(
        "quick",
        runs=59,
        sizes=(2, 8),
        lengths=(1, 2, 3, 4, 5, 6, 7, 8),
        directions=20,
        angles=72,
        singular=5,
        examples=10,
        prompts=1,
    ),
    "standard": Profile(
        "standard",
        runs=299,
        sizes=(2, 3, 8, 16, 64),
        lengths=(1, 2, 3, 4, 5, 6, 7, 8, 33),
        directions=64,
        angles=360,
        singular=16,
        examples=50,
        prompts=3,
    ),
    "paper": Profile(
        "paper",
        runs=2995,
        sizes=(2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 128),
        lengths=(1, 2, 3, 4, 5, 6, 7, 8, 33, 128, 512),
        directions=256,
        angles=1000,
        singular="all",
        examples=500,
        prompts=None,
    ),
}
