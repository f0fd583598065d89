"""One ray's thresholds between the regimes, how they would vary, and the rows that tell of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stabilitykit.measurements.scan import Ray
from stabilitykit.measurements.thresholds import Floats, Indices, interval, settles

STABLE, CHAOTIC, SIGNAL = NAMES = ("stable", "chaotic", "signal")


@dataclass(frozen=True)
class Band:
    """One ray with its thresholds: `errors` (P,) are what `Regimes` compares with the tolerance, `redraws` (R, P)."""

    ray: Ray
    errors: Floats
    tolerance: float
    redraws: Indices

    @cached_property
    def names(self) -> list[str]:
        """The regime of each point by itself."""
        follows = self.errors <= self.tolerance
        pairs = zip(self.ray.changed, follows, strict=True)
        return [(SIGNAL if good else CHAOTIC) if changed else STABLE for changed, good in pairs]

    @cached_property
    def values(self) -> dict[str, float]:
        """The thresholds, by the names of the readings."""
        signal = self._signal(self.ray.steps, self.errors)
        return {
            "eps_stable": self.ray.stable,
            "eps_signal": float(signal),
            "chaotic_decades": float(self._decades(signal)),
            "eps_linear_end": self.ray.linear_end,
        }

    @cached_property
    def replicas(self) -> dict[str, Floats]:
        """The thresholds of each redraw of the points, (R,) each; what does not hang on the points is constant."""
        signal = self._signal(self.ray.steps[self.redraws], self.errors[self.redraws])
        stable = np.full(len(signal), self.ray.stable)
        return {"eps_stable": stable, "eps_signal": signal, "chaotic_decades": self._decades(signal)}

    @property
    def islands(self) -> list[float]:
        """Steps beyond the first change at which the output had its old bits again."""
        return [float(step) for step in self.ray.steps[~self.ray.changed] if step > self.ray.first]

    def _signal(self, steps: Floats, errors: Floats) -> Floats:
        # Where the output does not change there is nothing to follow.
        return np.maximum(settles(steps, errors, self.tolerance), self.ray.first)

    def _decades(self, signal: Floats) -> Floats:
        return np.log10(signal / self.ray.first) if math.isfinite(self.ray.first) else np.zeros_like(signal)

    def ray_row(self) -> dict[str, Any]:
        """Return the row of the ray: its thresholds and counts."""
        ray = self.ray
        low, high = interval(self.replicas["eps_signal"])
        return {
            "part": "ray",
            "direction": ray.label,
            **self.values,
            "eps_signal_low": low,
            "eps_signal_high": high,
            **{name: self.names.count(name) for name in NAMES},
            "islands": len(self.islands),
            "last_island": max(self.islands, default=math.nan),
            "s_last_same": ray.s_last_same,
            "s_first_changed": ray.s_first_changed,
            "exact": ray.exact,
            "verdict": "measured",
        }

    def point_rows(self, length: float) -> list[dict[str, Any]]:
        """Return a row for each point, with gains in output units per input unit; `length`: see `Plan`."""
        ray = self.ray
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = {
                "eps": ray.steps,
                "eps_in_units": ray.steps / length,
                "decade": ray.decades,
                "regime": np.array(self.names),
                "certified": ray.certified,
                "coords_moved": ray.moved,
                "realised_norm": ray.realised,
                "alignment": ray.cosine,
                "output_change": ray.change,
                "true_change": ray.true_change,
                "error": ray.difference,
                "gain_nominal": ray.change / ray.steps,
                "gain_realised": ray.change / ray.realised,
                "gain_true": ray.true_change / ray.realised,
                "rounding_share": self.errors,
            }
        plain = {name: values.tolist() for name, values in columns.items()}
        return [
            {"part": "point", "direction": ray.label, **dict(zip(plain, values, strict=True))}
            for values in zip(*plain.values(), strict=True)
        ]
