"""Singular triplets of a subject, computed once: kept in memory, and shared with other workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from stabilitykit.measurements.derived import memory_of, shared, subject_key
from stabilitykit.numerics import spectrum
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.spectrum import Triplets
from stabilitykit.subjects.subject import Subject

TOLERANCE = 1e-5

Wanted = int | Literal["all"]

_memory: dict[str, Triplets] = {}
_of_functions: WeakKeyDictionary[object, dict[str, Triplets]] = WeakKeyDictionary()


def triplets_of(subject: Subject, k: Wanted, J: LinearMap | None = None) -> Triplets:
    """Return the k largest singular triplets of the subject's Jacobian to TOLERANCE, or all of them, from J if given.

    Computed once for a subject and numeric environment, k by k, so that asking for many does not move a last bit of the
    first. Batch shape and path do not change the map, so what is kept is that of `subject.linear`. A subject without a
    digest of its weights, such as a bare function, is known by the object alone and shares nothing.
    """
    memory = memory_of(subject, _memory, _of_functions)
    key = f"{subject_key(subject.linear)}-{k}"
    if key not in memory:

        def compute() -> Triplets:
            return computed(J or subject.linear_map(), k)

        memory[key] = shared(subject, key, compute, _packed, _unpacked)
    return memory[key]


def held(subject: Subject, J: LinearMap, k: Wanted) -> Triplets:
    """Return `triplets_of`, measured anew on J: a model may have changed under a description that is the same.

    Kept triplets whose residuals have grown beyond their own, or the tolerance, are not those of J: J's own are.
    `products` are those spent here. Cost: 2 k products, or those of computing them.
    """
    begin = J.products
    kept = triplets_of(subject, k, J)
    if J.products > begin:
        return kept
    now = spectrum.remeasured(J, kept)
    allowed = torch.clamp(2 * kept.residual, min=TOLERANCE * float(kept.sigma[0]))
    return now if bool((now.residual <= allowed).all()) else computed(J, k)


def computed(J: LinearMap, k: Wanted, tolerance: float = TOLERANCE, max_products: int | None = None) -> Triplets:
    """Return the triplets of a map, not kept."""
    if k == "all":
        return spectrum.dense(J)
    return spectrum.top(J, k, tolerance=tolerance, max_products=max_products)


def _packed(found: Triplets) -> dict[str, Any]:
    arrays = {name: getattr(found, name).numpy() for name in ("sigma", "u", "v", "residual")}
    return {**arrays, "spent": np.array([found.products, found.converged])}


def _unpacked(stored: Mapping[str, Any]) -> Triplets:
    arrays = {name: torch.from_numpy(stored[name]) for name in ("sigma", "u", "v", "residual")}
    products, converged = stored["spent"].tolist()
    return Triplets(**arrays, products=products, converged=bool(converged))
