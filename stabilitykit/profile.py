"""How much to measure: three named sets of counts, from minutes on two cores to the counts of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """Counts the ready-made suite asks for; any test may use them as `stability.profile`.

    `runs`: repetitions of one forward. `sizes`, `lengths`: batch sizes and prompt lengths in tokens. `directions`:
    random directions searched for their first change. `regimes`: random directions stepped along, and steps a decade.
    `angles`: rays of a fan. `singular`: how many singular values. `examples`: Hypothesis draws. `prompts`: how many
    prompts, None for all. `gains`: directions along which the gain is taken, an index past the last meaning the last;
    `smoothing`: noise draws that it is averaged over; `noise`: draws of each kind of noise. `epsilons`: steps, relative
    to |x0|, followed from block to block; `opened`: how many blocks are taken apart, None for all; `fates`: rays, and
    changed inputs of each that are followed. `stairs`: distinct inputs of a staircase. `turns`: shifts of a rotation.
    `chain`: depth and dim of a chain of matrices. `rows`, `tries`: rows a kernel is given at once, and inputs of each
    kind. `vectors`: how many singular vectors are searched along. `beyond`: inputs tried past a first change.
    `processes`: fresh processes that are asked. `grid`: points on each axis of a map, in each of the `planes`.
    `flips`: directions that a tie is scanned along, even steps on each side, and distinct inputs next to it.
    `margins`: prompts that are continued (None for all), and tokens of each; `generation`: the same for recordings,
    which are compared with those of fresh processes in the settings `devices`; `drift`: tokens with states. `spectra`:
    which singular values of the weights are taken, and in how many blocks, None for all. `readout`: prompts whose last
    states are held against the head (None for all), and tokens that follow each. `defects`: tokens of the vocabulary
    that are sampled, and whether eigenpairs are computed. `passage`: tokens of the passage that are predicted, None for
    all, and how many of them give the noise. `suite`: questions, roles they are asked in, and tokens of each answer;
    `sample`: tokens whose distances are compared in embedding and head. `carried`: prompts of which each block's
    rounding is carried to the end (None for all), and tokens that follow each. `kept`: prompts whose perplexity is
    taken (None for all), and choices of as many other down-projections that those of exploding blocks are set against.
    """

    name: str
    runs: int
    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    directions: int
    regimes: tuple[int, int]
    angles: int
    singular: int | Literal["all"]
    vectors: int | Literal["all"]
    beyond: int
    examples: int
    prompts: int | None
    gains: tuple[str, ...]
    smoothing: int
    noise: int
    epsilons: tuple[float, ...]
    opened: int | None
    fates: tuple[int, int]
    stairs: int
    turns: int
    chain: tuple[int, int]
    rows: tuple[int, ...]
    tries: int
    processes: int
    grid: int
    planes: tuple[tuple[str, str], ...]
    flips: tuple[tuple[str, ...], int, int]
    margins: tuple[int | None, int]
    generation: tuple[int | None, int]
    devices: tuple[str, ...]
    drift: int
    spectra: tuple[str, int | None]
    readout: tuple[int | None, int]
    defects: tuple[int, bool]
    passage: tuple[int | None, int]
    suite: tuple[int | None, int | None, int]
    sample: int
    carried: tuple[int | None, int]
    kept: tuple[int | None, int]


# Zero events in 59, 299 or 2995 runs bound the rate below 5 %, 1 % or 0.1 % with 95 % confidence.
PROFILES = {
    "quick": Profile(
        "quick",
        runs=59,
        sizes=(2, 8),
        lengths=(1, 2, 8),
        directions=8,
        regimes=(2, 4),
        angles=72,
        singular=5,
        vectors=64,
        beyond=8,
        examples=10,
        prompts=1,
        gains=("v1", "v2", "v5"),
        smoothing=8,
        noise=8,
        epsilons=(1e-8, 1e-7, 1e-6, 1e-5, 1e-4),
        opened=1,
        fates=(4, 8),
        stairs=64,
        turns=6,
        chain=(12, 256),
        rows=(1, 2, 8),
        tries=1,
        processes=1,
        grid=17,
        planes=(("v1", "v2"),),
        flips=(("v1", "v2"), 8, 4),
        margins=(2, 6),
        generation=(2, 6),
        devices=("cpu-ref",),
        drift=6,
        spectra=("all", 2),
        readout=(2, 6),
        defects=(16, False),
        passage=(48, 8),
        suite=(4, 1, 2),
        sample=384,
        carried=(1, 1),
        kept=(2, 1),
    ),
    "standard": Profile(
        "standard",
        runs=299,
        sizes=(2, 3, 8, 16, 64),
        lengths=(1, 2, 3, 4, 5, 6, 7, 8, 33),
        directions=64,
        regimes=(6, 8),
        angles=360,
        singular=16,
        vectors=192,
        beyond=32,
        examples=50,
        prompts=3,
        gains=("v1", "v2", "v5", "v_middle", "v_last"),
        smoothing=200,
        noise=100,
        epsilons=(1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        opened=4,
        fates=(64, 32),
        stairs=256,
        turns=32,
        chain=(12, 1024),
        rows=(1, 2, 3, 8, 16, 64),
        tries=4,
        processes=2,
        grid=101,
        planes=(("v1", "v2"),),
        flips=(("v1", "v2", "v3", "v4", "v5"), 128, 16),
        margins=(None, 64),
        generation=(None, 96),
        devices=("cpu-aten", "cpu-mkl", "cpu-ref"),
        drift=48,
        spectra=("norm", None),
        readout=(None, 24),
        defects=(512, True),
        passage=(None, 64),
        suite=(None, 2, 12),
        sample=1500,
        carried=(None, 24),
        kept=(None, 8),
    ),
    "paper": Profile(
        "paper",
        runs=2995,
        sizes=(2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 128),
        lengths=(1, 2, 3, 4, 5, 6, 7, 8, 33, 128, 512),
        directions=256,
        regimes=(30, 16),
        angles=1000,
        singular="all",
        vectors="all",
        beyond=128,
        examples=500,
        prompts=None,
        gains=(
            *("v1", "v2", "v3", "v4", "v5"),
            *("v50", "v100", "v200", "v500", "v1000", "v2000", "v4000", "v_last"),
        ),
        smoothing=4000,
        noise=1000,
        epsilons=tuple(10.0 ** (half / 2) for half in range(-22, -1)),
        opened=None,
        fates=(256, 64),
        stairs=501,
        turns=64,
        chain=(12, 4096),
        rows=(1, 2, 3, 4, 7, 8, 15, 16, 33, 64, 128),
        tries=16,
        processes=20,
        grid=201,
        planes=(("v1", "v2"), ("v1", "v10"), ("v1", "v_last")),
        flips=(("v1", "v2", "v3", "v4", "v5"), 1000, 64),
        margins=(None, 256),
        generation=(None, 1000),
        devices=("cpu-threads1", "cpu-aten", "cpu-mkl", "cpu-mkl-strict", "cpu-ref", "cpu-tp2", "cpu-tp3"),
        drift=96,
        spectra=("all", None),
        readout=(None, 100),
        defects=(2048, True),
        passage=(None, 256),
        suite=(None, None, 50),
        sample=3000,
        carried=(None, 96),
        kept=(None, 39),
    ),
}
