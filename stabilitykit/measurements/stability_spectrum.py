"""Is the first change nearer along the directions that the output reacts to most? Every singular vector is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stabilitykit import strategies
from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding
from stabilitykit.measurements.directions import products_for, singular
from stabilitykit.measurements.radii import Rows, readings_of, sentence_of
from stabilitykit.measurements.rays import RaySearch, Row, check_count, search
from stabilitykit.measurements.smooth import smooth_changes
from stabilitykit.numerics.correlation import partial_spearman, rank_interval, spearman
from stabilitykit.numerics.spectrum import Triplets
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class StabilitySpectrum(RaySearch):
    """FirstChange along right singular vectors v_i of the Jacobian, each radius next to its sigma_i.

    `indices`: "all", a number of vectors spread evenly from the first to the last, or their 1-based numbers. With
    `both_signs` also along -v_i. A vector with sigma_i < sigma_1 min(H eps, sqrt(eps)) is `null`: numerically
    arbitrary within its kind, so all of these count as equally insensitive. `control` random unit vectors (by `seed`)
    say what directions without a meaning give; `gain` is |J d|.

    Readings: Spearman's correlation of the radius with sigma and with the lattice radius, and that with sigma at fixed
    lattice radius, over all rays along singular vectors, with 95 % intervals for as many independent samples as there
    are vectors; the readings of FirstChange over the same rays; medians of the control. nan where there are too few.
    UsageError for indices that do not exist. Cost: the dense Jacobian (M reverse products) unless the indices are
    small; one whole forward a ray and a few tens of first blocks; a forward product for each control.
    Source: the study's experiment 13, of +v_i alone and without the question.
    """

    indices: Literal["all"] | int | Sequence[int] = "all"
    both_signs: bool = True
    control: int = 64
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("vectors", "vectors", "neither", "number of singular vectors"),
        Metric("null_vectors", "vectors", "neither", "of these numerically null, so arbitrary among themselves"),
        Metric("sigma_1", "output/input", "lower", "largest singular value"),
        Metric("spearman_sigma", "", "neither", "rank correlation of radius and sigma"),
        Metric("spearman_lattice", "", "neither", "rank correlation of radius and lattice radius"),
        Metric("partial_sigma", "", "neither", "rank correlation of radius and sigma at fixed lattice radius"),
        Metric("sign_ratio", "", "neither", "median of larger over smaller radius along +v and -v"),
        Metric("control", "rays", "neither", "number of random directions"),
        Metric("control_radius", "input", "higher", "median radius along random directions"),
        Metric("control_rho", "", "higher", "median rho along random directions"),
        Metric("radius_over_control", "", "neither", "median radius along singular vectors over that of the control"),
        *RaySearch.metrics,
    )

    def __post_init__(self) -> None:
        """Refuse indices that cannot exist for any subject."""
        super().__post_init__()
        check_count("control", self.control, 0)
        given = self.indices
        listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if given != "all" and not (listed and all(type(index) is int and index >= 1 for index in listed)):
            raise UsageError(f"indices={given!r}: give 'all', how many, or a list of numbers from 1 on")

    def cost(self, subject: Subject) -> Cost:
        """Return the expected rows, products counted as backwards."""
        wanted = self.numbers(subject)
        products = products_for([max(wanted)], subject)
        rays = len(wanted) * (1 + self.both_signs) + self.control
        return self.expected(subject, rays) + Cost(backwards=products + self.control)

    def numbers(self, subject: Subject) -> list[int]:
        """Return the 1-based numbers of the vectors asked about; UsageError beyond the last one."""
        count = min(subject.x0.numel(), subject.baseline.shape[1])
        if self.indices == "all":
            return list(range(1, count + 1))
        if isinstance(self.indices, int):
            many = min(self.indices, count)
            return sorted({1 + round(place * (count - 1) / max(many - 1, 1)) for place in range(many)})
        wanted = list(self.indices)
        if max(wanted) > count:
            raise UsageError(f"v{max(wanted)} does not exist: this subject has {count} singular vectors")
        return wanted

    def find(self, subject: Subject) -> Finding:
        """Search along the vectors and the controls, and correlate."""
        wanted = self.numbers(subject)
        known = singular(subject, max(wanted))
        directions, labels, about = self._rays(subject, known, wanted)
        found = search(subject, directions, labels, self)
        rows = tuple({**first, **row} for first, row in zip(about, found.rows, strict=True))
        along, control = ([row for row in rows if row["kind"] == kind] for kind in ("singular", "random"))
        values = _correlations(along, len(wanted)) | {
            "vectors": len(wanted),
            "null_vectors": sum(row["null"] for row in along) // (1 + self.both_signs),
            "sigma_1": float(known.sigma[0]),
            "sign_ratio": _sign_ratio(along) if self.both_signs else math.nan,
            **_against_random(along, control),
            **readings_of(along),
        }
        columns = ("index", "sign", "sigma", "gain", "null")
        return Finding(
            values,
            f"{_sentence(values, len(wanted))} {sentence_of(along)}",
            rows=rows,
            arrays={**found.arrays, **{name: np.array([row[name] for row in rows]) for name in columns}},
            noise=subject.noise_floor().sentence,
        )

    def _rays(self, subject: Subject, known: Triplets, wanted: Sequence[int]) -> tuple[Tensor, list[str], list[Row]]:
        """Return the directions, their labels, and the first columns of their rows."""
        floor = null_below(known.sigma, subject)
        signs = (1, -1) if self.both_signs else (1,)
        rows: list[Row] = [
            {"kind": "singular", "index": i, "sign": sign, "sigma": float(known.sigma[i - 1])}
            for i in wanted
            for sign in signs
        ]
        rows = [{**row, "gain": row["sigma"], "null": row["sigma"] < floor} for row in rows]
        labels = [f"{'-' if row['sign'] < 0 else ''}v{row['index']}" for row in rows]
        vectors = [row["sign"] * known.v[row["index"] - 1] for row in rows]
        drawn = [recipe.expand() for recipe in strategies.gaussians(self.control, subject.x0.numel(), self.seed)]
        gains = smooth_changes(subject, torch.stack(drawn)) if drawn else []
        rows += [
            {"kind": "random", "index": 0, "sign": 1, "sigma": math.nan, "gain": gain, "null": False} for gain in gains
        ]
        labels += [f"random {place}" for place in range(len(drawn))]
        return torch.stack([*vectors, *drawn]), labels, rows


def null_below(sigma: Tensor, subject: Subject) -> float:
    """Return sigma_1 min(H eps, sqrt(eps)): below it, rounding of the products decides the vector.

    H eps is the usual rank tolerance; in narrow dtypes it passes 1 and would call even v1 arbitrary, so it is capped
    at sqrt(eps), the bound that the products themselves are held to.
    """
    eps = torch.finfo(subject.x0.dtype).eps
    return float(sigma[0]) * min(subject.x0.numel() * eps, math.sqrt(eps))


def _correlations(rows: Rows, vectors: int) -> dict[str, float | Reading]:
    """Return the three rank correlations with intervals; null vectors are tied, rays without a lattice are left out."""
    schema = {metric.name: metric for metric in StabilitySpectrum.metrics}
    kept = [row for row in rows if not math.isnan(row["lattice_radius"])]
    radius, lattice = ([row[name] for row in kept] for name in ("radius", "lattice_radius"))
    sigma = [0.0 if row["null"] else row["sigma"] for row in kept]
    found = {
        "spearman_sigma": (spearman(radius, sigma), 0),
        "spearman_lattice": (spearman(radius, lattice), 0),
        "partial_sigma": (partial_spearman(radius, sigma, lattice), 1),
    }
    return {
        name: Reading(schema[name], value, *rank_interval(value, vectors, fixed=fixed))
        for name, (value, fixed) in found.items()
    }


def _sign_ratio(rows: Rows) -> float:
    pairs = [sorted((one["radius"], other["radius"])) for one, other in zip(rows[::2], rows[1::2], strict=True)]
    ratios = [large / small for small, large in pairs if small > 0]
    return float(np.median(ratios)) if ratios else math.nan


def _against_random(along: Rows, control: Rows) -> dict[str, float | Reading]:
    radius, rho = (
        float(np.median([row[name] for row in control])) if control else math.nan for name in ("radius", "rho")
    )
    median = float(np.median([row["radius"] for row in along]))
    over = median / radius if control and radius else math.nan
    return {"control": len(control), "control_radius": radius, "control_rho": rho, "radius_over_control": over}


def _sentence(values: dict[str, float | Reading], vectors: int) -> str:
    partial, lattice = values["partial_sigma"], values["spearman_lattice"]
    assert isinstance(partial, Reading)
    assert isinstance(lattice, Reading)
    if math.isnan(partial.value):
        return f"Too few vectors ({vectors}), or too much alike, to say whether the radius goes with sigma."
    low, high = float(partial.low or 0.0), float(partial.high or 0.0)
    side = "nearer" if high < 0 else "farther" if low > 0 else "neither nearer nor farther"
    return (
        f"The first change is {side} along the directions the output reacts to most: over {vectors} singular vectors "
        f"the rank correlation of radius and sigma at fixed lattice radius is {partial.value:.2f} "
        f"(95 %: {low:.2f} to {high:.2f}); that of radius and lattice radius is {lattice.value:.2f}."
    )
