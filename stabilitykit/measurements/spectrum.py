"""How much does the model stretch the smallest changes, and along which directions?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.triplet_store import TOLERANCE, computed, held, triplets_of
from stabilitykit.numerics import spectrum
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.numerics.spectrum import Triplets
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.subject import Subject

_SHOWN = 16
"""Singular values that become readings of their own; the rows hold all of them."""


@dataclass(frozen=True, eq=False)
class SingularSpectrum(Measurement):
    """Singular values of the Jacobian J = dy/dx at x0: sigma_1 is the local Lipschitz constant of exact arithmetic.

    `k` values from products alone (block Krylov with full reorthogonalisation), or "all" from the dense J in float64.
    Readings: sigma_i and residual_i (output units per input unit; a true singular value lies within the residual),
    `gap` = (sigma_1 - sigma_2) / sigma_1, `adjoint_defect` of the two products. Arrays: `sigma` (k,), `residual` (k,),
    `v` (k, H), `u` (k, M). UsageError for an impossible k, InvalidError for non-finite products or an adjoint defect
    over its bound, UnsupportedError where the dense J does not fit. With the default tolerance and budget, triplets
    that another check has computed are taken, and only their residuals measured: 2 k products. Cost: 4 to 9 rounds of
    2 k + 6 rows, at most `max_products` (None: 20 k + 60); "all": min(M, H). Source: Golub, Luk & Overton 1981; the
    study's experiment 2 computed the dense J for five of its vectors.
    """

    k: int | Literal["all"] = 5
    tolerance: float = TOLERANCE
    max_products: int | None = None

    causes: ClassVar[tuple[str, ...]] = (
        "a prompt whose last token sits where the model is steep",
        "a norm with large gains after a small residual",
        "weights that changed: compare the model digest",
    )

    def __post_init__(self) -> None:
        """Refuse a k that is neither a count nor "all"."""
        if self.k != "all" and (not isinstance(self.k, int) or self.k < 1):
            raise UsageError(f"k={self.k!r} is neither a positive count nor 'all'")

    def schema(self) -> tuple[Metric, ...]:
        """One sigma and one residual a shown index, then the gap and the adjoint defect."""
        return (*_indexed(_SHOWN if self.k == "all" else min(self.k, _SHOWN)), _GAP, _ADJOINT)

    def cost(self, subject: Subject) -> Cost:
        """Upper bound: M or H products for "all", the fewer, else the budget, and three that prove them adjoint."""
        least = min(subject.baseline.shape[1], subject.x0.numel())
        if self.k == "all":
            return Cost(backwards=least + 3)
        most = spectrum.budget(self.k) if self.max_products is None else self.max_products
        return Cost(forwards=most // 2 + 3, backwards=most // 2)

    def find(self, subject: Subject) -> Finding:
        """Compute the triplets, after the products have proved that they belong to one map."""
        J = subject.linear_map()
        stated = checked_linearisation(subject, J)
        triplets = held(subject, J, self.k) if self._usual else self._computed(J)
        shown = min(len(triplets.sigma), _SHOWN)
        values = {f"sigma_{i + 1}": float(triplets.sigma[i]) for i in range(shown)}
        values |= {f"residual_{i + 1}": float(triplets.residual[i]) for i in range(shown)}
        values |= {"gap": triplets.gap} | ({"adjoint_defect": float(stated["adjoint_defect"])} if stated else {})
        return Finding(
            values=values,
            sentence=_sentence(triplets),
            rows=tuple(
                {"index": i + 1, "sigma": float(s), "residual": float(r)}
                for i, (s, r) in enumerate(zip(triplets.sigma, triplets.residual, strict=True))
            ),
            arrays={name: getattr(triplets, name).numpy() for name in ("sigma", "residual", "u", "v")},
            about={"linearisation": stated} if stated else {},
        )

    def triplets(self, subject: Subject) -> Triplets:
        """Return the triplets themselves, for measurements that need the vectors."""
        return triplets_of(subject, self.k) if self._usual else self._computed(subject.linear_map())

    def _computed(self, J: LinearMap) -> Triplets:
        return computed(J, self.k, self.tolerance, self.max_products)

    @property
    def _usual(self) -> bool:
        return self.max_products is None and self.tolerance == TOLERANCE


_GAP = Metric("gap", "", "neither", "relative distance of the first two singular values; near 0 v1 is arbitrary")
_ADJOINT = Metric("adjoint_defect", "", "lower", "how far the two kinds of products are from being adjoint")


def _indexed(count: int) -> tuple[Metric, ...]:
    return tuple(
        metric
        for i in range(1, count + 1)
        for metric in (
            Metric(f"sigma_{i}", "output/input", "lower", f"singular value {i} of the Jacobian"),
            Metric(f"residual_{i}", "output/input", "lower", f"distance within which a true value lies to sigma_{i}"),
        )
    )


def checked_linearisation(subject: Subject, J: LinearMap) -> Mapping[str, Any]:
    """Return what the subject states of products of J, nothing if it states nothing; InvalidError over its bound."""
    stated = subject.linearisation(J)
    if not stated:
        return {}
    defect, bound = float(stated["adjoint_defect"]), float(stated["adjoint_bound"])
    if not defect <= bound:
        raise InvalidError(
            f"{subject.name}: forward and reverse products are not adjoint, defect {defect:.3g} over its bound "
            f"{bound:.3g}; the spectrum of neither is the model's"
        )
    return stated


def _sentence(triplets: Triplets) -> str:
    sigma, residual = float(triplets.sigma[0]), float(triplets.residual[0])
    unfinished = "" if triplets.converged else " The product budget ended before the tolerance was met."
    return (
        f"A tiny change of the last embedding grows at most {sigma:.6g} times (residual {residual:.2g}, "
        f"{triplets.products} products): the local Lipschitz constant of exact arithmetic.{unfinished}"
    )
