"""What is assumed where nothing is said: every reported number and every baseline was made with it."""

import importlib
import inspect
import math
import pkgutil

from stabilitykit import numerics

DEFAULTS = {
    "autocorrelation.moran": {"shuffles": 199, "seed": 0},
    "autocorrelation.shuffled": {"seed": 0},
    "bits.Format": {"infinite": True},
    "calibration.exact_interval": {"confidence": 0.95},
    "calibration.calibration": {"confidence": 0.95},
    "clusters.clustered": {"confidence": 0.95, "seed": 0},
    "columns.principal": {"axes": 2},
    "comparison.compare": {"tau": 0.0},
    "components.beyond_normal": {"level": 0.05},
    "correlation.rank_interval": {"fixed": 0, "confidence": 0.95},
    "distribution.distribution": {"confidence": 0.95, "seed": 0},
    "enlarged.enlarged": {"times": 1, "first": True},
    "forecast.forecast": {"confidence": 0.95},
    "forecast.any_of": {"axis": -1},
    "integer_grid.on_grid": {"bits": 8},
    "lattice.Lattice.cells": {"s_max": math.inf, "start": 0.0},
    "lattice.Lattice.samples": {"start": 0.0},
    "linear_map.LinearMap": {"rows": 64},
    "local_entropy.local_entropy": {"window": 5},
    "local_entropy.expected_entropy": {"window": 5},
    "local_entropy.entropy_ratio": {"window": 5},
    "paired.mean_length": {"confidence": 0.95},
    "permutation.trend": {"draws": 9999, "seed": 0, "together": 1},
    "permutation.association": {"draws": 9999, "seed": 0, "together": 1},
    "projection.plane_of": {"axes": 2},
    "sequential.first_event": {"confidence": 0.95},
    "sequential.anytime_bound": {"confidence": 0.95},
    "sequential.sentence": {"confidence": 0.95},
    "spectrum.Triplets": {"converged": True},
    "spectrum.top": {"tolerance": 1e-05, "seed": 0},
    "stacked_spectra.null": {"seed": 0},
    "statistics.rate_bound": {"confidence": 0.95},
    "statistics.trials_for": {"confidence": 0.95},
    "statistics.wilson": {"confidence": 0.95},
    "statistics.sentence": {"confidence": 0.95},
    "survival.survival": {"confidence": 0.95},
    "texture.texture": {"shuffles": 199, "seed": 0},
}
ZEROS = {"differences.Difference"}  # equal tensors: see test_differences.py


def test_a_default_stays():
    found = {}
    for info in pkgutil.iter_modules(numerics.__path__):
        module = importlib.import_module(f"stabilitykit.numerics.{info.name}")
        own = [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__]
        methods = [one for kind in own if inspect.isclass(kind) for one in vars(kind).values()]
        for one in [*own, *filter(inspect.isfunction, methods)]:
            given = inspect.signature(one).parameters.items() if callable(one) else ()
            numbers = {name: way.default for name, way in given if isinstance(way.default, int | float)}
            if numbers and not one.__qualname__.endswith("__"):
                found[f"{info.name}.{one.__qualname__}"] = numbers
    assert {name: numbers for name, numbers in found.items() if name not in ZEROS} == DEFAULTS
