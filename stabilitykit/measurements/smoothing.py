"""The gain after averaging over noise in the input: paired differences, and the length of their mean without bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.gain_cells import Ray
from stabilitykit.measurements.responses import distinct
from stabilitykit.measurements.smooth import ratio
from stabilitykit.measurements.steps import UNITS, length_of
from stabilitykit.numerics.paired import mean_length
from stabilitykit.numerics.resolution import cosine
from stabilitykit.subjects.subject import Subject

KINDS = ("isotropic", "along")
_SERIES = (1, 2, 5)


@dataclass(frozen=True)
class Noise:
    """Uniform noise r_i: `isotropic`, each coordinate by itself in (-w, w); or `along` the direction, c_i d.

    w = `scale` in `unit`: "eps" the step's own length, else as everywhere. The first n draws are the same whatever
    the step, the sign and the direction, so that only these differ between cells.
    """

    kind: str
    scale: float
    unit: str
    seed: int

    def __post_init__(self) -> None:
        """Refuse what is no noise."""
        if self.kind not in KINDS:
            raise UsageError(f"noise {self.kind!r} is not one of {', '.join(KINDS)}, or None")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"noise_scale={self.scale!r} draws nothing; give a positive number")
        if self.unit not in ("eps", *UNITS):
            raise UsageError(f"noise_unit {self.unit!r} is not one of eps, {', '.join(UNITS)}")

    def draws(self, ray: Ray, n: int, nominal: float, subject: Subject) -> Tensor:
        """Return the noise (n, H) float64 of a step of that length."""
        width = self.scale * (nominal if self.unit == "eps" else length_of(self.unit, subject))
        random = np.random.Generator(np.random.PCG64(self.seed))
        d = ray.lattice.direction.double()
        if self.kind == "along":
            return torch.from_numpy(random.uniform(-width, width, size=(n, 1))) * d
        return torch.from_numpy(random.uniform(-width, width, size=(n, d.numel())))


def counts(samples: int | Sequence[int]) -> list[int]:
    """Return the numbers of draws to report: those given, or 2, 5, 10, 20, 50 .. up to `samples`; UsageError below 3.

    All are prefixes of one stream.
    """
    if isinstance(samples, int):
        series = (digit * 10**power for power in range(len(str(samples))) for digit in _SERIES)
        wanted = [n for n in series if 2 <= n < samples] + [samples]
    else:
        wanted = sorted(set(samples))
    if not wanted or wanted[0] < 1 or wanted[-1] < 3:
        raise UsageError(f"samples={samples!r}: an interval needs at least 3 draws")
    return wanted


def smoothed(
    subject: Subject, ray: Ray, nominal: Sequence[float], noise: Noise, samples: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """Return for each step (of that length) one row a number of draws.

    D_i = [f(x0 + (s d + r_i)) - y0] - [f(x0 + r_i) - y0], each y0 of its own slot, the same r_i in both arms. An input
    that recurs, in whichever arm or step, is run once. `n_distinct` counts inputs of both arms. Cost: at most 2 n rows
    a step, n of which all steps share if the noise does not scale with them.
    """
    n, x0 = samples[-1], subject.x0.cpu().double()
    arms = []
    for length in nominal:
        r = noise.draws(ray, n, length, subject)
        step = length / ray.length * ray.lattice.direction.double()
        arms += [(x0 + (step + r)).to(subject.x0.dtype), (x0 + r).to(subject.x0.dtype)]
    inputs, which = distinct(torch.cat(arms))
    slots = torch.arange(len(inputs)) % subject.batch
    changes = subject(inputs.to(subject.x0.device)).double().cpu() - subject.baseline.double().cpu()[slots]
    number = torch.tensor(which).reshape(len(nominal), 2, n)
    found = []
    for length, (moved, still) in zip(nominal, number, strict=True):
        D = changes[moved] - changes[still]
        deltas = inputs[moved].double() - inputs[still].double()
        found.append([_row(D[:k], deltas[:k], number_of(moved[:k], still[:k]), length, ray) for k in samples])
    return found


def number_of(*arms: Tensor) -> int:
    """Return how many distinct inputs the arms hold together."""
    return len(torch.unique(torch.cat(arms)))


def _row(D: Tensor, deltas: Tensor, n_distinct: int, nominal: float, ray: Ray) -> dict[str, Any]:
    """Return one row; the average step says what the average of the rounded inputs is: noise can restore a lost one."""
    estimate = mean_length(D)
    mean_step = deltas.mean(dim=0)
    return {
        "samples": len(D),
        "n_distinct": n_distinct,
        "realised_norm": float(mean_step.norm()),
        "realised_ratio": ratio(float(mean_step.norm()), nominal),
        "alignment": cosine(mean_step, ray.lattice.direction.double()),
        "gain_raw": estimate.raw / nominal,
        "gain_smoothed": estimate.length / nominal,
        "std_error": estimate.error / nominal,
        "low": estimate.low / nominal,
        "high": estimate.high / nominal,
    }
