"""What does each component of the last state say: the columns of the head, their entropy, and those that stick out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.spread_rows import column_rows
from stabilitykit.numerics.columns import distances, entropies, gram, principal, robust_z
from stabilitykit.numerics.rounding import Floats
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import matrix_of_head

Row = Mapping[str, Any]

_NAMED = 12
"""Columns whose tokens are listed, the furthest out first."""


@dataclass(frozen=True, eq=False)
class BasisVectors(Measurement[LoadedModel]):
    """Take the head W (V, d) by columns: column j is what one unit of component j adds to every token's logit.

    Its entropy is that of softmax(W[:, j]), in nats, beside ln V; it depends on the column's length, which stands next
    to it. A column is an outlier where its length is more than `beyond` robust deviations from the median,
    |x - median| / (1.4826 MAD). The study's way is kept beside it: the d x d distances between columns, each column
    standardised, on the principal axes `pc1` and `pc2`; `far_pc1` and `far_pc2` are those with |pc - mean| >
    `deviations` sd, and `pc2_beyond_50` counts |pc2| > 50, which means something for d = 4096 only.

    Rows (`part`): basis, a row a column; column, the `tokens` largest and smallest weights of the outliers (of the
    longest column where there is none), at most 12. Arrays: `norm`, `robust_z`, `entropy`, `pc` (d, 2). In float64.
    UnsupportedError for a head without a matrix. Cost: no forward; V d^2 products, V d exponentials. Source: part 002.
    """

    beyond: float = 6.0
    deviations: float = 4.0
    tokens: int = 10

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("outliers", "columns", "lower", "columns of the head whose length is an outlier"),
        Metric("outlier_share", "share", "lower", "the same over all columns"),
        Metric("max_robust_z", "deviations", "lower", "largest distance of a column's length from the median"),
        Metric("far_pc1", "columns", "lower", "columns far out on the first principal axis of the distances"),
        Metric("far_pc2", "columns", "lower", "columns far out on the second one"),
        Metric("pc2_beyond_50", "columns", "neither", "columns with |pc2| > 50, the bound of the study"),
        Metric("min_entropy", "nats", "higher", "smallest entropy of a column's softmax"),
        Metric("max_entropy", "nats", "higher", "largest entropy of a column's softmax"),
        Metric("max_entropy_gap", "share", "lower", "largest (ln V - entropy) / ln V of a column"),
        Metric("log_vocabulary", "nats", "neither", "ln V, the entropy of a column that says nothing"),
        Metric("components", "components", "neither", "columns of the head"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = ("a component that carries no token, such as that of the high-norm states",)

    def __post_init__(self) -> None:
        """Refuse bounds that cannot be meant."""
        for name in ("beyond", "deviations"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name)!r} must be positive")
        if self.tokens < 1:
            raise UsageError(f"tokens={self.tokens} is too few; give at least 1")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return nothing: no row goes through the model."""
        return Cost()

    def find(self, subject: LoadedModel) -> Finding:
        """Compare the columns."""
        W = matrix_of_head(subject)
        products = gram(W)
        norms, nats = np.sqrt(np.diag(products)), entropies(W)
        z = robust_z(norms)
        axes = principal(distances(products))
        far = _far(axes.scores, self.deviations)
        out = np.abs(z) > self.beyond
        rows = list(_rows(norms, z, nats, math.log(len(W)), axes.scores, out, far))
        order = np.argsort(-np.abs(z), kind="stable")
        named = [int(j) for j in order if out[j]][:_NAMED] or [int(order[0])]
        for j in named:
            rows += column_rows(subject, W[:, j].double().cpu(), j, self.tokens, {})
        return Finding(
            self._values(z, nats, math.log(len(W)), axes.scores, out, far),
            _sentence(z, nats, math.log(len(W)), out, named),
            rows=tuple(rows),
            arrays={"norm": norms, "robust_z": z, "entropy": nats, "pc": axes.scores},
            about={"pc_shares": [float(share) for share in axes.shares]},
        )

    def _values(
        self, z: Floats, nats: Floats, most: float, scores: Floats, out: Any, far: Any
    ) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        furthest, lowest = int(np.abs(z).argmax()), int(nats.argmin())

        def placed(name: str, value: float, component: int) -> Reading:
            return Reading(schema[name], value, place={"component": str(component)})

        return {
            "outliers": int(out.sum()),
            "outlier_share": float(out.mean()),
            "max_robust_z": placed("max_robust_z", float(np.abs(z[furthest])), furthest),
            "far_pc1": int(far[:, 0].sum()),
            "far_pc2": int(far[:, 1].sum()),
            "pc2_beyond_50": int((np.abs(scores[:, 1]) > 50).sum()),
            "min_entropy": placed("min_entropy", float(nats[lowest]), lowest),
            "max_entropy": placed("max_entropy", float(nats.max()), int(nats.argmax())),
            "max_entropy_gap": placed("max_entropy_gap", float((most - nats[lowest]) / most), lowest),
            "log_vocabulary": most,
            "components": len(z),
        }


def _far(scores: Floats, deviations: float) -> Any:
    """Return which scores (d, 2) lie further than so many sd from their axis' mean."""
    return np.abs(scores - scores.mean(axis=0)) > deviations * scores.std(axis=0)


def _rows(norms: Floats, z: Floats, nats: Floats, most: float, scores: Floats, out: Any, far: Any) -> Iterator[Row]:
    for j in range(len(norms)):
        yield {
            "part": "basis",
            "component": j,
            "norm": float(norms[j]),
            "robust_z": float(z[j]),
            "entropy": float(nats[j]),
            "entropy_gap": most - float(nats[j]),
            "pc1": float(scores[j, 0]),
            "pc2": float(scores[j, 1]),
            "outlier": bool(out[j]),
            "far_pc1": bool(far[j, 0]),
            "far_pc2": bool(far[j, 1]),
        }


def _sentence(z: Floats, nats: Floats, most: float, out: Any, named: Sequence[int]) -> str:
    furthest = ", ".join(f"{j} ({z[j]:.0f})" for j in named[:6])
    count = int(out.sum())
    some = f"{count} of {len(z)} columns of the head are outliers by their length"
    listed = f"{some}, in deviations from the median: {furthest}." if count else f"{some}."
    gap = (most - float(nats.min())) / most
    return f"{listed} The entropies of single columns lie up to {gap:.2%} below ln V."
