"""What a decision map is told in: its metrics, its numbers, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stabilitykit.measurements.decision_map import DecisionMap, Inputs
from stabilitykit.numerics.autocorrelation import shuffled
from stabilitykit.numerics.grid import Mask, gradient, normalised_flip_ratio
from stabilitykit.numerics.mixed_band import Band, Fit, fit, mixed_band
from stabilitykit.numerics.rounding import Floats
from stabilitykit.numerics.texture import FLAT, Texture, called, roughness, texture
from stabilitykit.results.metric import Metric

METRICS = (
    Metric("band_width", "logit", "lower", "range of the linear prediction in which both tokens occur"),
    Metric("band_width_eps", "input", "lower", "the same as a distance in the plane"),
    Metric("band_over_noise", "", "lower", "the same over the noise floor of the difference"),
    Metric("band_share", "share", "neither", "share of the cells that lie in it"),
    Metric("flip_ratio", "share", "neither", "pairs of neighbouring cells with different tokens"),
    Metric("flip_ratio_normalised", "", "neither", "the same over what independent cells have: 0 one block, 1 chance"),
    Metric(
        "flip_ratio_outside",
        "",
        "lower",
        "the same of pairs on one side of the predicted line, beyond the noise around it",
    ),
    Metric("roughness", "", "neither", "where the flips lie between the linear map, 0, and the shuffled one, 1"),
    Metric("crossings", "per line", "neither", "changes of sign of the difference along a row or column"),
    Metric("regions_first", "regions", "neither", "connected regions of the first token, joined by sides"),
    Metric("regions_second", "regions", "neither", "those of the second, joined by sides and corners"),
    Metric("regions_per_1000", "regions", "neither", "both in 1000 cells"),
    Metric("largest_region", "share", "neither", "share of the cells in the largest region"),
    Metric("moran", "", "neither", "Moran's I: 1 for blocks, about 0 for chance, -1 for a checkerboard"),
    Metric("moran_z", "", "neither", "the same in standard deviations from shuffled maps"),
    Metric(
        "moran_p", "", "neither", "share of shuffled maps as far from chance: small says pattern, large says nothing"
    ),
    Metric("local_entropy", "bit", "neither", "mean entropy of windows of 5 x 5 cells"),
    Metric("entropy_ratio", "", "neither", "the same over what independent cells of this share have"),
    Metric("gradient", "logit/input", "neither", "mean length of the map's gradient"),
    Metric("gradient_linear", "logit/input", "neither", "length of the derivative's gradient in the plane"),
    Metric("gradient_ratio", "", "lower", "the map's mean gradient over the derivative's"),
    Metric("gradient_cv", "", "neither", "standard deviation of the map's gradient over its mean"),
    Metric("linear_agreement", "share", "higher", "cells with the token that the derivative predicts"),
    Metric("linear_r2", "", "higher", "share of the map's variance that the derivative predicts, unfitted"),
    Metric("linear_rms_over_noise", "", "lower", "RMS deviation from the prediction over the noise floor"),
    Metric("linear_max_over_noise", "", "lower", "largest deviation from the prediction over the noise floor"),
    Metric("noise_gap", "logit", "lower", "noise floor of the difference, at least a ULP of the larger logit"),
    Metric("gap", "logit", "neither", "difference of the two logits in the middle"),
    Metric("share_first", "share", "neither", "cells where the first token's logit is larger or equal"),
    Metric("share_equal", "share", "neither", "cells where both logits are equal"),
    Metric("share_third", "share", "lower", "cells where another token has the largest logit"),
    Metric("cells", "cells", "neither", "cells of the map"),
    Metric("inputs", "inputs", "neither", "distinct inputs among them"),
    Metric("repeated", "inputs", "neither", "inputs run a second time, in their slot among other rows"),
    Metric("unrepeated", "inputs", "lower", "of those, inputs that had other bits the second time"),
)


@dataclass(frozen=True)
class MapReading:
    """A map with its prediction, and all that is said of the two.

    `slope` (2,) is dD/de1 and dD/de2 of exact arithmetic, None without derivatives; `noise` the floor of D.
    """

    grid: Inputs
    found: DecisionMap
    slope: tuple[float, float] | None
    noise: float
    beyond: float
    shuffles: int
    seed: int

    @cached_property
    def classes(self) -> Mask:
        """True where the first token's logit is larger or equal."""
        return np.asarray(self.found.D >= 0)

    @cached_property
    def linear(self) -> Floats | None:
        """D(x0) of each cell's slot, plus what the derivative adds."""
        if self.slope is None:
            return None
        return self.found.base + self.slope[0] * self.grid.e1[:, None] + self.slope[1] * self.grid.e2[None, :]

    @cached_property
    def gradient(self) -> Floats:
        """Length of the map's gradient in each cell."""
        return gradient(self.found.D, self.grid.e1, self.grid.e2)

    @cached_property
    def textures(self) -> dict[str, Texture]:
        """The map's own texture and those of both references."""
        maps = {"measured": (self.classes, self.found.D)}
        if self.linear is not None:
            maps["linear"] = (self.linear >= 0, self.linear)
        mixed = shuffled(self.classes, self.seed)
        maps["shuffled"] = (mixed, np.where(mixed, 1.0, -1.0))
        return {name: texture(*found, shuffles=self.shuffles, seed=self.seed) for name, found in maps.items()}

    @cached_property
    def place(self) -> float:
        """Where the map lies between its references."""
        return roughness(self.textures["measured"], self.textures.get("linear"), self.textures["shuffled"])

    @property
    def name(self) -> str:
        """What the map is called."""
        return called(self.textures["measured"], self.place)

    @cached_property
    def band(self) -> Band:
        """The band in which both tokens occur."""
        nothing = Band(math.nan, math.nan, math.nan, math.nan, False)
        return nothing if self.linear is None else mixed_band(self.linear, self.classes)

    @property
    def steepness(self) -> float:
        """Length of the derivative's gradient in the plane."""
        return math.nan if self.slope is None else math.hypot(*self.slope)

    @cached_property
    def fit(self) -> Fit:
        """How well the derivative predicts the map."""
        return Fit(*[math.nan] * 4) if self.linear is None else fit(self.found.D, self.linear)

    def outside(self) -> float:
        """Return the flip ratio of pairs on one side of the predicted line, more than `beyond` noise floors from it."""
        if self.linear is None:
            return math.nan
        sides = np.sign(self.linear) * (np.abs(self.linear) > self.beyond * self.noise)
        return normalised_flip_ratio(self.classes, sides.astype(np.int8))

    def values(self) -> dict[str, float]:
        """Return every reading."""
        own, band, slopes = asdict(self.textures["measured"]), self.band, self.gradient
        mean = float(slopes.mean())
        return {
            **own,
            "roughness": self.place,
            "flip_ratio_outside": self.outside(),
            "band_width": band.width,
            "band_width_eps": _over(band.width, self.steepness),
            "band_over_noise": _over(band.width, self.noise),
            "band_share": band.share,
            "gradient": mean,
            "gradient_linear": self.steepness,
            "gradient_ratio": _over(mean, self.steepness),
            "gradient_cv": float(slopes.std()) / mean if mean else math.nan,
            "linear_agreement": self.fit.agreement,
            "linear_r2": self.fit.r2,
            "linear_rms_over_noise": _over(self.fit.rms, self.noise),
            "linear_max_over_noise": _over(self.fit.largest, self.noise),
            "noise_gap": self.noise,
            "share_equal": float((self.found.D == 0).mean()),
            "share_third": float(self.found.third.mean()),
            "cells": self.classes.size,
            "inputs": len(self.grid),
            "repeated": self.found.repeated,
            "unrepeated": self.found.unrepeated,
        }

    def rows(self) -> tuple[Mapping[str, Any], ...]:
        """Return the statistics of the map and of its two references."""
        return tuple({"map": name, **asdict(found)} for name, found in self.textures.items())

    def sentence(self, tokens: tuple[str, str]) -> str:
        """Return what the map shows."""
        first, second = (repr(token) for token in tokens)
        if self.name == FLAT:
            only = first if self.textures["measured"].share_first else second
            return f"The map is flat: every cell has the larger logit for {only}, so no line and no band is in it."
        return f"{self._line(first, second)} {self._texture()}{self._limits()}"

    def _line(self, first: str, second: str) -> str:
        if self.linear is None:
            return f"{first} and {second} both occur; without a derivative nothing says where their line should be."
        if not self.band.width:
            return f"One straight line parts {first} from {second}, as the derivative predicts."
        at_least = "at least " if self.band.open else ""
        return (
            f"{first} and {second} mix in a band {at_least}{self.band.width:.3g} logits wide, "
            f"{_over(self.band.width, self.noise):.3g} noise floors or {_over(self.band.width, self.steepness):.3g} of "
            "input across, where the derivative predicts a line."
        )

    def _texture(self) -> str:
        if math.isnan(self.place):
            return "Its texture has no place between a line and chance."
        words = {"smooth": "as few flips as the predicted line", "random": "as many flips as its own cells shuffled"}
        said = words.get(self.name, "more flips than the line and fewer than its own cells shuffled")
        return f"The map has {said} ({self.place:.2g}, where 0 is the line and 1 chance)."

    def _limits(self) -> str:
        said = ""
        if len(self.grid) < self.classes.size / 4:
            said += (
                f" Only {len(self.grid)} of {self.classes.size} cells have inputs of their own: the grid is finer than "
                "floats are."
            )
        if self.found.third.any():
            said += f" In {float(self.found.third.mean()):.3g} of the cells a third token leads."
        if self.found.unrepeated:
            said += f" {self.found.unrepeated} of {self.found.repeated} inputs had other bits when they were run again."
        return said


def _over(part: float, whole: float) -> float:
    """Return part / whole; over nothing 0 for nothing, infinite for something."""
    if whole or math.isnan(part):
        return part / whole if whole else math.nan
    return math.inf if part > 0 else 0.0
