"""Ways to disturb an input, from the honest model of rounding to shifts that leave it unrecognisable."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.steps import check_unit
from stabilitykit.numerics.bits import format_of, nudge, spacing
from stabilitykit.numerics.rounding import Floats


@dataclass(frozen=True)
class Perturbation(ABC):
    """One kind and size of noise; `drawn` says whether two draws of it differ."""

    drawn: ClassVar[bool] = True

    @abstractmethod
    def apply(self, x0: Tensor, random: np.random.Generator) -> Tensor:
        """Return the disturbed input (H,), on the CPU in the dtype of x0."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name with the size, for rows and figures."""


@dataclass(frozen=True)
class _Scaled(Perturbation):
    """Noise of `scale` units in each coordinate; `unit`: see `coordinate_length`."""

    scale: float
    unit: str = "rel"

    def __post_init__(self) -> None:
        """Refuse a unit that is none and a scale that is no number."""
        check_unit(self.unit)
        if not math.isfinite(self.scale):
            raise UsageError(f"scale={self.scale!r} is not a finite number")

    def apply(self, x0: Tensor, random: np.random.Generator) -> Tensor:
        """Return x0 plus the scaled noise, rounded once."""
        noise = torch.from_numpy(self.draw(x0.numel(), random)) * (self.scale * coordinate_length(self.unit, x0))
        return (x0.cpu().double() + noise).to(x0.dtype)

    @abstractmethod
    def draw(self, size: int, random: np.random.Generator) -> Floats:
        """Return noise of scale 1."""

    @property
    def label(self) -> str:
        """Return kind and size."""
        return f"{type(self).__name__}({self.scale:g} {self.unit})"


@dataclass(frozen=True)
class Gaussian(_Scaled):
    """Independent normal noise of standard deviation `scale`; with `rel`, |noise| is about scale |x0|."""

    def draw(self, size: int, random: np.random.Generator) -> Floats:
        """Return standard normal draws."""
        return random.standard_normal(size)


@dataclass(frozen=True)
class Uniform(_Scaled):
    """Independent noise, uniform between -scale and scale; its length is scale |x0| / sqrt 3 with `rel`."""

    def draw(self, size: int, random: np.random.Generator) -> Floats:
        """Return draws from (-1, 1)."""
        return random.uniform(-1, 1, size)


@dataclass(frozen=True)
class Constant(_Scaled):
    """The same shift of every coordinate."""

    drawn: ClassVar[bool] = False

    def draw(self, size: int, random: np.random.Generator) -> Floats:
        """Return ones."""
        return np.ones(size)


@dataclass(frozen=True)
class Coordinate(_Scaled):
    """A shift of one coordinate, `Coordinate(1.0, index=0)`."""

    index: int = 0
    drawn: ClassVar[bool] = False

    def draw(self, size: int, random: np.random.Generator) -> Floats:
        """Return the unit vector of the coordinate."""
        if not 0 <= self.index < size:
            raise UsageError(f"coordinate {self.index} does not exist: the input has {size} coordinates")
        unit = np.zeros(size)
        unit[self.index] = 1
        return unit

    @property
    def label(self) -> str:
        """Return kind and size."""
        return f"Coordinate({self.scale:g} {self.unit}, index {self.index})"


@dataclass(frozen=True)
class UlpNoise(Perturbation):
    """Every coordinate moved by exactly `steps` floats, up or down at random: what one rounding does, for 1."""

    steps: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no count of floats."""
        if not isinstance(self.steps, int) or self.steps < 0:
            raise UsageError(f"steps={self.steps!r} is not a count of floats")

    def apply(self, x0: Tensor, random: np.random.Generator) -> Tensor:
        """Return x0 with every coordinate nudged."""
        signs = torch.from_numpy(2 * random.integers(0, 2, size=x0.numel()) - 1)
        return nudge(x0.cpu(), self.steps * signs)

    @property
    def label(self) -> str:
        """Return kind and size."""
        return f"UlpNoise({self.steps})"


@dataclass(frozen=True)
class RoundTrip(Perturbation):
    """A constant added to every coordinate and subtracted again, each time rounded: what is lost beside it.

    The size of the change is about the spacing of `constant`, not the constant.
    """

    constant: float
    drawn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        if not math.isfinite(self.constant):
            raise UsageError(f"constant={self.constant!r} is not a finite number")

    def apply(self, x0: Tensor, random: np.random.Generator) -> Tensor:
        """Return x0 + c - c, both operations rounded to the dtype, c as the dtype has it."""
        # A float64 sum of two narrower numbers, rounded, is their sum rounded: so this is the dtype's own arithmetic.
        c = torch.tensor(self.constant, dtype=torch.float64).to(x0.dtype).double()
        there = (x0.cpu().double() + c).to(x0.dtype)
        return (there.double() - c).to(x0.dtype)

    @property
    def label(self) -> str:
        """Return kind and size."""
        return f"RoundTrip({self.constant:g})"


@dataclass(frozen=True)
class DtypeRoundTrip(Perturbation):
    """Rounding to another dtype and back."""

    dtype: str = "bfloat16"
    drawn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse a name that is no floating-point dtype."""
        floating(self.dtype)

    def apply(self, x0: Tensor, random: np.random.Generator) -> Tensor:
        """Return x0 rounded to the other dtype."""
        return x0.cpu().to(floating(self.dtype)).to(x0.dtype)

    @property
    def label(self) -> str:
        """Return kind and size."""
        return f"DtypeRoundTrip({self.dtype})"


def floating(name: str) -> torch.dtype:
    """Return the dtype of that name; UsageError for one that has no lattice."""
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"{name!r} is no dtype; give a name such as 'bfloat16'")
    format_of(dtype)
    return dtype


def coordinate_length(unit: str, x0: Tensor) -> float:
    """Return how long one unit of a coordinate is: `abs` 1, `rel` the root mean square of x0, `ulp` median spacing."""
    if unit == "abs":
        return 1.0
    if unit == "ulp":
        return float(spacing(x0.cpu()).median())
    return float(x0.double().norm()) / math.sqrt(x0.numel())


_POWERS = tuple(2.0**power for power in range(-10, 6))
SETS: dict[str, tuple[Perturbation, ...]] = {
    "sizes": (
        UlpNoise(1),
        UlpNoise(16),
        Uniform(0.01),
        Gaussian(0.01),
        Gaussian(0.1),
        Constant(0.01),
        DtypeRoundTrip("bfloat16"),
    ),
    "round trips": tuple(RoundTrip(c) for c in _POWERS),
    "added": tuple(
        kind
        for c in _POWERS
        for kind in (Uniform(c / 2, "abs"), Gaussian(c, "abs"), Constant(c, "abs"), Coordinate(c, "abs"))
    ),
}
"""Named sets: sizes for any dtype, and the constants and sizes of the study's two perturbation tests."""
