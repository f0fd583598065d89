"""Where two tokens are equally likely, which one wins in a plane of tiny steps: a clean line, or noise?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.decision_map import evaluated, inputs, runs
from stabilitykit.measurements.directions import Directions, count, products_of
from stabilitykit.measurements.ground import TIE_BATCH, Ground, Pair, ground
from stabilitykit.measurements.judged import array
from stabilitykit.measurements.map_readings import METRICS, MapReading
from stabilitykit.measurements.steps import UNITS, length_of
from stabilitykit.measurements.tie_solver import BATCHES as BATCHES_TO_A_TIE
from stabilitykit.measurements.tie_solver import GRADIENTS
from stabilitykit.numerics.autocorrelation import SHUFFLES
from stabilitykit.numerics.bits import spacing
from stabilitykit.numerics.local_entropy import local_entropy
from stabilitykit.numerics.plane import RULES, axis
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.noise import BATCHES
from stabilitykit.subjects.subject import Subject

Bounds = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Landscape(Measurement):
    """The map D[i, j] = z_a - z_b at x(e1_i, e2_j) = x0 + e1_i h1 + e2_j h2 of two tokens a and b around a tie.

    `plane`: two directions (2, H), or names of singular vectors at the middle; past the last one it is "v_last". `at`:
    "tie" walks to an input where the pair ties (see `tie_point`), "prompt" stays at the subject's own, a tensor (H,) is
    taken as the middle. `pair`: token ids, by default those of the two largest logits. Both axes run from -span to span
    in n points, n odd, the middle one exactly 0. `unit`: "noise" is the step across the predicted line that moves D by
    its noise floor, so that one number suits every model; "ulp", "rel", "abs" as everywhere. The inputs are one float64
    sum rounded once to the dtype, x0 + (e1 h1 + e2 h2); `rule="p32"` is the study's, rounded twice. Equal inputs are
    run once; `again` of them (None: all) a second time, in the same slot among other rows.

    D is read off the model's own logits: two rows of the head alone have other last bits. Beside it stands what
    calculus predicts, L = D(x0) + e1 dD/de1 + e2 dD/de2, D(x0) in the cell's own slot. `band_width`: the range of L
    that holds both tokens; a cell with D >= 0 is the first token's. Every statistic of texture is told of two
    references of the same size too (rows "linear" and "shuffled"); `roughness` is where the map's flips lie between.
    `flip_ratio_outside` counts the pairs on one side of L = 0 whose |L| is above `beyond` noise floors.

    Arrays: `D`, `linear`, `inputs` (number of the input), `third`, `gradient` (n, n), `entropy` (n - 4, n - 4), `e1`,
    `e2` (n,), `directions` (2, H), `x0` (H,), and the names `plane`, `pair`, `tokens`. nan: flat maps, no derivatives.
    UsageError for impossible parameters, UnsupportedError without logits, a tie, or a slope that unit "noise" needs.
    Cost: a forward with the head for each distinct input and each repeated one, the tie, the vectors there, and a noise
    floor. Source: the study's experiment 7, `Landscape.study()`.
    """

    plane: Directions = ("v1", "v2")
    span: float = 16.0
    n: int = 51
    unit: str = "noise"
    at: str | Tensor = "tie"
    pair: Pair | None = None
    again: int | None = 128
    beyond: float = 8.0
    shuffles: int = SHUFFLES
    rule: str = "p64r"
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"unrepeated": "<= 0"}
    causes: ClassVar[tuple[str, ...]] = (
        "a kernel that is not deterministic, or rows that see each other, if inputs did not repeat",
        "a dtype, kernel or path with more rounding noise, if the band grew with the noise floor",
        "a flatter model at the tie, if the band grew in input units alone",
    )

    @classmethod
    def study(cls, plane: Directions = ("v1", "v2")) -> Landscape:
        """Return the study's own question: 201 x 201 absolute steps up to 1e-8, rounded twice in float32."""
        return cls(plane, span=1e-8, n=201, unit="abs", rule="p32")

    def __post_init__(self) -> None:
        """Refuse what makes no map, in one sentence."""
        check_plane(self.plane)
        check_map_counts(self.n, self.again, self.shuffles, self.beyond)
        if self.n % 2 == 0:
            raise UsageError(f"n={self.n} has no point in the middle; give an odd number")
        if not 0 < self.span < math.inf:
            raise UsageError(f"span={self.span!r} is no length; give a positive, finite number")
        if self.unit not in ("noise", *UNITS):
            raise UsageError(f"unit {self.unit!r} is not one of noise, {', '.join(UNITS)}")
        if not isinstance(self.at, Tensor) and self.at not in ("tie", "prompt"):
            raise UsageError(f"at={self.at!r} is neither 'tie', 'prompt' nor an input (H,)")
        if self.rule not in RULES:
            raise UsageError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: all inputs distinct and found for the first time, tie, vectors and noise floor included."""
        return map_cost(subject, self.n, self.again) + self.ground_cost(subject)

    def ground_cost(self, subject: Subject) -> Cost:
        """Return what finding the middle and the directions costs, products counted as backwards."""
        tied = not isinstance(self.at, Tensor) and self.at == "tie"
        rows = min(subject.batch, TIE_BATCH)
        tie = Cost(forwards=(BATCHES_TO_A_TIE + 1) * rows, backwards=GRADIENTS)
        middle = tie if tied else Cost(forwards=subject.batch + 1)
        return middle + Cost(backwards=products_of(self.plane, subject))

    def find(self, subject: Subject) -> Finding:
        """Walk to the tie, run the plane around it, and set it against the line that calculus predicts."""
        found = self.ground(subject)
        noise = noise_of(found)
        return mapped(found, self.bounds(found, noise), noise, self)

    def ground(self, subject: Subject) -> Ground:
        """Return the middle, the directions and the pair."""
        return ground(subject, self.at, self.pair, self.plane, self.rule)

    def bounds(self, found: Ground, noise: float) -> Bounds:
        """Return the ends of both axes in input units."""
        reach = self.span * (_noise_step(found, noise) if self.unit == "noise" else length_of(self.unit, found.subject))
        return (-reach, reach), (-reach, reach)


def check_plane(plane: Directions) -> None:
    """Refuse what is not two directions."""
    if isinstance(plane, str) or count(plane) != 2:
        raise UsageError(f"plane={plane!r} does not name two directions; give for example ('v1', 'v2')")


def check_map_counts(n: int, again: int | None, shuffles: int, beyond: float) -> None:
    """Refuse counts that no map has."""
    if not isinstance(n, int) or n < 3:
        raise UsageError(f"n={n!r} points make no map; give at least 3")
    if again is not None and (not isinstance(again, int) or again < 0):
        raise UsageError(f"again={again!r} is no number of inputs; give at least 0, or None for all")
    if not isinstance(shuffles, int) or shuffles < SHUFFLES:
        raise UsageError(f"shuffles={shuffles!r} cannot tell chance from a pattern; give at least {SHUFFLES}")
    if not 0 <= beyond < math.inf:
        raise UsageError(f"beyond={beyond!r} is no number of noise floors; give at least 0")


def map_cost(subject: Subject, n: int, again: int | None) -> Cost:
    """Return the rows of a map with its baseline and its noise floor."""
    floor = 3 * subject.batch + sum(BATCHES) + 1
    return Cost(forwards=runs(n * n, again, subject.batch) + floor, backwards=1)


def noise_of(found: Ground) -> float:
    """Return the noise floor of the difference: at least a ULP of the larger logit, less than which it cannot move."""
    z = found.gap.subject.baseline[0, list(found.gap.pair)]
    return max(found.gap.noise, float(spacing(z.cpu()).max()))


def slope_of(found: Ground) -> tuple[float, float] | None:
    """Return dD/de1 and dD/de2 of exact arithmetic, None without derivatives."""
    gradient = found.gap.gradient
    if gradient is None:
        return None
    return float(found.plane.h1.double() @ gradient), float(found.plane.h2.double() @ gradient)


def _noise_step(found: Ground, noise: float) -> float:
    slope = slope_of(found)
    steepness = math.hypot(*slope) if slope else 0.0
    if not steepness:
        why = "there is no derivative" if slope is None else "the difference has no slope in this plane"
        raise UnsupportedError(f"unit 'noise' needs a slope, and {why}; give the span in 'ulp', 'rel' or 'abs'")
    return noise / steepness


def mapped(found: Ground, bounds: Bounds, noise: float, asked: Any) -> Finding:
    """Run the grid within the bounds and say what it shows; `asked` has n, again, beyond, shuffles and seed.

    UsageError for a grid that is a single input: it lies between two floats.
    """
    e1, e2 = (axis(low, high, asked.n) for low, high in bounds)
    grid = inputs(found.plane, e1, e2)
    if len(grid) == 1:
        raise UsageError(
            f"all {grid.number.size} cells of e1 from {e1[0]:g} to {e1[-1]:g} and e2 from {e2[0]:g} to {e2[-1]:g} are "
            "one input: the lattice is coarser; take a larger part"
        )
    map_ = evaluated(found.gap, grid, asked.again)
    read = MapReading(grid, map_, slope_of(found), noise, asked.beyond, asked.shuffles, asked.seed)
    gap = float(found.gap.baseline[0])
    return Finding(
        read.values() | {"gap": gap},
        read.sentence(found.tokens),
        verdict="differs" if map_.unrepeated else "pass",
        rows=read.rows(),
        arrays={
            "D": map_.D,
            **({} if read.linear is None else {"linear": read.linear}),
            "inputs": grid.number.astype(np.int32),
            "third": map_.third,
            "gradient": read.gradient.astype(np.float32),
            "entropy": local_entropy(read.classes).astype(np.float32),
            "e1": e1,
            "e2": e2,
            "directions": torch.stack([found.plane.h1, found.plane.h2]).double().numpy(),
            "x0": array(found.plane.x0),
            "plane": np.array(found.about["map_plane"], dtype=np.str_),
            "pair": np.array(found.gap.pair),
            "tokens": np.array(found.tokens, dtype=np.str_),
        },
        noise=f"{noise:.3g} logits: what equal evaluations of the middle differ by, and at least a ULP of the logit",
        about={**found.about, "texture": read.name},
    )
