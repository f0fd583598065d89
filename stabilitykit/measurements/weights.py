"""What are the weights like, block by block: sizes, tails, spectra, and what a narrower dtype would make of them?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.weight_rows import place, spectral, statistics
from stabilitykit.measurements.weight_trends import depth_rows, outlier_rows
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.stored import Checkpoint
from stabilitykit.subjects.weight_roles import Role, chosen

Row = Mapping[str, Any]

SPECTRA = ("none", "norm", "all")


@dataclass(frozen=True, eq=False)
class WeightStatistics(Measurement[Checkpoint]):
    """Describe every weight: matrices, norms, biases, embedding and head, a tensor at a time.

    Of each: mean, std, var, median, min, max, range; the same of |w| with its percentiles 1 to 99; skewness and excess
    kurtosis (population, 0 for a Gaussian); counts of signs and decades; Frobenius norm, rms, max |w| / rms; the share
    that bfloat16 and float16 hold exactly, and how many a cast makes infinite or 0. `spectra` adds singular values:
    `norm` the spectral norm and stable rank, `all` nuclear norm, least value and condition too, of the matrices of
    `spectra_blocks` blocks, evenly spaced with the first and the last, and of what lies outside if None, all blocks.
    `blocks` chooses blocks (and leaves out what is outside), `names` tensors by a pattern such as "*mlp*".

    Rows (`part`): weight; depth, the trend of a statistic over the blocks with a permutation test of `shuffles`;
    outlier, a block that stands apart from all others in a weight's std, kurtosis or max |w| / rms, by a t test that
    finds any with a chance of `outlier` where there is none.
    Arrays `histograms` (weights, 130), `widths` (weights,), as `numerics.census` has them. Verdict `invalid` where an
    element is not finite; tensors of other dtypes are counted and left out. Cost: no forward; two or three passes over
    each tensor, about 15 ns an element; `all` m n min(m, n) multiplications a matrix. Source: the study's experiment 9.
    """

    blocks: Sequence[int] | None = None
    names: str = "*"
    spectra: str = "norm"
    spectra_blocks: int | None = None
    outlier: float = 0.01
    shuffles: int = 1999
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("not_finite", "elements", "lower", "elements that are infinite or NaN"),
        Metric("max_abs", "", "lower", "largest |w|"),
        Metric("max_over_rms", "ratio", "lower", "largest |w| over the root mean square of its tensor"),
        Metric("kurtosis", "", "lower", "largest excess kurtosis of a matrix: how heavy its tails are"),
        Metric("spectral_norm", "ratio", "lower", "largest singular value of any matrix looked at"),
        Metric("condition", "ratio", "lower", "largest over least singular value, of the worst matrix looked at"),
        Metric("exact_bfloat16", "share", "neither", "weights that bfloat16 holds exactly"),
        Metric("exact_float16", "share", "neither", "weights that float16 holds exactly"),
        Metric("overflow_float16", "elements", "lower", "weights that a cast to float16 makes infinite"),
        Metric("underflow_float16", "elements", "lower", "weights other than 0 that a cast to float16 makes 0"),
        Metric("overflow_bfloat16", "elements", "lower", "weights that a cast to bfloat16 makes infinite"),
        Metric("underflow_bfloat16", "elements", "lower", "weights other than 0 that a cast to bfloat16 makes 0"),
        Metric("outliers", "weights", "lower", "statistics of a weight that stand apart from those of other blocks"),
        Metric("tensors", "tensors", "neither", "weights that were described"),
        Metric("parameters", "elements", "neither", "elements of these"),
        Metric("left_out", "tensors", "neither", "tensors of a dtype that is not described"),
    )
    needs: ClassVar[type[Measurable]] = Checkpoint
    causes: ClassVar[tuple[str, ...]] = (
        "a few large weights in a norm or an output matrix, which carry large activations",
        "a checkpoint that was cast through float16",
        "a block that training did not reach, or that was merged or pruned",
    )

    def __post_init__(self) -> None:
        """Refuse what describes nothing."""
        if self.spectra not in SPECTRA:
            raise UsageError(f"spectra={self.spectra!r} is not one of {', '.join(SPECTRA)}")
        if self.spectra_blocks is not None and self.spectra_blocks < 1:
            raise UsageError(f"spectra_blocks={self.spectra_blocks} looks at none; give at least 1, or spectra='none'")
        if not 0 < self.outlier < 1 or self.shuffles < 1:
            raise UsageError("outlier is a chance between 0 and 1, shuffles a count of at least 1")

    def cost(self, subject: Checkpoint) -> Cost:
        """Nothing runs through the model."""
        return Cost()

    def find(self, subject: Checkpoint) -> Finding:
        """Read each tensor once, describe it, and compare the blocks."""
        every = chosen(subject, self.blocks, self.names)
        weights = {name: role for name, role in every.items() if subject.entries[name].floating}
        if not weights:
            raise UnsupportedError(f"{subject.name}: none of {len(every)} tensors is in a float dtype of the kit")
        left_out = len(every) - len(weights)
        deep = self._decomposed([role.block for role in weights.values() if role.block is not None])
        rows: list[Row] = []
        histograms, widths = [], []
        with bar(sum(subject.entries[name].size for name in weights), "weights", "element") as progress:
            for name, role in weights.items():
                tensor = subject[name]
                found, census = statistics(tensor)
                how = self.spectra if not found["not_finite"] and (deep is None or role.block in deep) else "none"
                rows.append({**_about(name, role, tensor.shape, subject), **found, **spectral(tensor, how)})
                width, counts = census.histogram()
                histograms.append(counts)
                widths.append(width)
                progress.update(tensor.numel())
        outliers = outlier_rows(rows, self.outlier)
        broken = [row for row in rows if row["not_finite"]]
        return Finding(
            {**self._values(rows), "outliers": len(outliers), "left_out": left_out},
            _sentence(rows, outliers, left_out),
            verdict="invalid" if broken else "measured",
            rows=(*rows, *depth_rows(rows, self.shuffles, self.seed), *outliers),
            arrays={"histograms": np.stack(histograms), "widths": np.array(widths)},
            worst=_worst(rows),
        )

    def _decomposed(self, blocks: Sequence[int]) -> set[int | None] | None:
        """Return the blocks whose matrices are decomposed, None for all and what is outside."""
        if self.spectra_blocks is None:
            return None
        known = sorted(set(blocks))
        return {known[round(at)] for at in np.linspace(0, len(known) - 1, min(self.spectra_blocks, len(known)))}

    def _values(self, rows: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        values: dict[str, float | Reading] = {"tensors": len(rows), "parameters": sum(row["params"] for row in rows)}
        for name in ("not_finite", "overflow_float16", "underflow_float16", "overflow_bfloat16", "underflow_bfloat16"):
            values[name] = sum(row.get(name, 0) for row in rows)
        for name in ("max_abs", "max_over_rms", "kurtosis", "spectral_norm", "condition"):
            known = [row for row in rows if not math.isnan(row[name]) and (name != "kurtosis" or row["dims"] > 1)]
            if known:
                row = max(known, key=lambda row: float(row[name]))
                values[name] = Reading(schema[name], row[name], place=place(row))
        for name in ("exact_bfloat16", "exact_float16"):
            kept = sum(row.get(name, 0) * row["params"] for row in rows)
            values[name] = kept / max(sum(row["params"] for row in rows), 1)
        return values


def _about(name: str, role: Role, shape: Sequence[int], subject: Checkpoint) -> dict[str, Any]:
    return {
        "part": "weight",
        "table": "weight_statistics",
        "name": name,
        "layer": role.block,
        "weight": role.inside,
        "kind": role.kind,
        "shape": " x ".join(map(str, shape)),
        "dims": len(shape),
        "params": math.prod(shape),
        "dtype": subject.entries[name].dtype,
    }


def _worst(rows: Sequence[Row]) -> Worst | None:
    known = [row for row in rows if not math.isnan(row["max_over_rms"])]
    if not known:
        return None
    row = max(known, key=lambda row: float(row["max_over_rms"]))
    return Worst(row["name"], "largest |w|", f"{row['max_abs']:.6g}", "rms", f"{row['rms']:.6g}")


def _sentence(rows: Sequence[Row], outliers: Sequence[Row], left_out: int) -> str:
    broken = [row for row in rows if row["not_finite"]]
    if broken:
        count = sum(row["not_finite"] for row in broken)
        return f"{count} elements of {len(broken)} weights are not finite, first in {broken[0]['name']}."
    total = sum(row["params"] for row in rows)
    kept = sum(row.get("exact_bfloat16", 0) * row["params"] for row in rows) / max(total, 1)
    lost = sum(row.get("overflow_float16", 0) + row.get("underflow_float16", 0) for row in rows)
    worst = _worst(rows)
    largest = (
        f" The largest |w| beside its own tensor is in {worst.where}: {worst.left}, rms {worst.right}." if worst else ""
    )
    apart = f" {len(outliers)} statistics stand apart from those of other blocks." if outliers else ""
    others = f" {left_out} tensors of other dtypes are left out." if left_out else ""
    return (
        f"{len(rows)} weights with {total} elements: bfloat16 holds {100 * kept:.3g}% of them exactly, float16 makes "
        f"{lost} infinite or 0.{largest}{apart}{others}"
    )
