"""How unevenly do the attention heads stretch: the singular values of Q, K, V and O of every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.head_trends import layer_rows, order_rows, trend_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.rounding import Floats
from stabilitykit.numerics.stacked_spectra import null, ratios, rounding_floor, singular_values
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.head_layout import Heads, find_heads
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.stored import Checkpoint

Row = Mapping[str, Any]

COMPARED = ("top10", "first_last", "least10")
"""The ratios that stand beside those of random elements."""


@dataclass(frozen=True, eq=False)
class HeadSpectra(Measurement[Checkpoint]):
    """Take the singular values s_1 >= ... >= s_r of every head's matrices, r = min(width, hidden).

    Q_h, K_g and V_g (width, hidden) map a state to what the head compares and carries, O_h (hidden, width) writes it
    back; k and v heads stand once, and `kv_head` of a q or o row names the one it reads. Top-10 is the share of sum s
    in the 10 largest, Least-10 that in the 10 smallest, First/Last s_1 / s_r; `numerics.stacked_spectra` has the rest.
    Each is set against `null_draws` matrices of independent Gaussian elements of the same shape: excess = value / null.
    `deficient` is a head whose s_r rounding of its elements to their dtype could have made.

    Rows (`part`): head; layer, the means over the heads of a matrix; trend, Spearman's correlation of these means with
    depth, and of the heads of one layer with their number, each with a permutation test of `shuffles`; order, in how
    many layers Q or K lies beyond both V and O. Array `spectra` (heads, r), nan beyond a head's own r. `blocks` chooses
    layers. Biases and rotary positions take no part. UnsupportedError for heads that cannot be told apart, InvalidError
    for a weight that is not finite. Cost: no forward; each attention weight is read once, and heads width^2 hidden
    multiplications in float64; memory for one weight. Source: the openboundlabs study of Llama-3-8B.
    """

    blocks: Sequence[int] | None = None
    null_draws: int = 32
    shuffles: int = 1999
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("first_last", "ratio", "lower", "largest s_1 / s_r of any head's matrix"),
        Metric("top10", "share", "lower", "largest share of the sum in the 10 largest singular values"),
        Metric("least10", "share", "higher", "smallest share of the sum in the 10 smallest"),
        Metric("s1", "ratio", "lower", "largest singular value of any head's matrix"),
        Metric("excess_first_last", "ratio", "lower", "largest First/Last over that of random elements"),
        Metric("entropy_rank", "dimensions", "higher", "smallest number of dimensions that the squares spread over"),
        Metric("deficient", "heads", "lower", "matrices whose smallest singular value is within rounding of zero"),
        Metric("q_layers", "layers", "neither", "layers whose mean First/Last of Q lies above those of V and O"),
        Metric("k_layers", "layers", "neither", "layers whose mean First/Last of K lies above those of V and O"),
        Metric("layers", "layers", "neither", "layers with attention heads that were looked at"),
        Metric("heads", "matrices", "neither", "head matrices that were decomposed"),
    )
    needs: ClassVar[type[Measurable]] = Checkpoint
    causes: ClassVar[tuple[str, ...]] = (
        "a head that was pruned, or that training left without use",
        "weights that were merged from a low-rank update, or quantised with few levels",
        "a fused projection cut in another order than the model's own",
    )

    def __post_init__(self) -> None:
        """Refuse what has no null."""
        if self.null_draws < 1 or self.shuffles < 1:
            raise UsageError("null_draws and shuffles count random matrices and orders; give at least 1 of each")

    def cost(self, subject: Checkpoint) -> Cost:
        """Nothing runs through the model."""
        return Cost()

    def find(self, subject: Checkpoint) -> Finding:
        """Read, decompose, compare with random elements, and look along depth and heads."""
        weights = chosen_heads(find_heads(subject), self.blocks)
        rows: list[Row] = []
        spectra: list[Floats] = []
        with bar(len(weights), "head spectra", "weight") as progress:
            for heads in weights:
                tensor = subject[heads.name]
                for matrix, stack in heads.split(tensor).items():
                    s = singular_values(stack, f"weight {heads.name!a}")
                    rows += self._rows(heads, matrix, s, stack)
                    spectra += list(s)
                progress.update()
        layers = layer_rows(rows)
        order = order_rows(layers)
        return Finding(
            self._values(rows, order, layers),
            _sentence(rows, order),
            rows=(*rows, *layers, *trend_rows(rows, layers, self.shuffles, self.seed), *order),
            arrays={"spectra": _padded(spectra)},
            worst=_worst(rows),
        )

    def _rows(self, heads: Heads, matrix: str, s: Floats, stack: torch.Tensor) -> list[Row]:
        """Return a row for each head of one matrix; the shape is that of the head as the model has it."""
        shape = (int(stack.shape[1]), int(stack.shape[2]))
        means, _ = null((min(shape), max(shape)), self.null_draws, self.seed)
        floor = rounding_floor(s, shape, torch.finfo(stack.dtype).eps)
        found = {name: values.tolist() for name, values in ratios(s).items()}
        sharing = heads.queries // heads.keys
        rows: list[Row] = []
        for head in range(len(s)):
            values = {name: column[head] for name, column in found.items()}
            rows.append(
                {
                    "part": "head",
                    "table": "head_spectra",
                    "layer": heads.block,
                    "matrix": matrix,
                    "head": head,
                    "kv_head": head // sharing if matrix in ("q", "o") else head,
                    "rows": shape[0],
                    "cols": shape[1],
                    "dtype": str(stack.dtype).removeprefix("torch."),
                    "s1": float(s[head, 0]),
                    "s_last": float(s[head, -1]),
                    **values,
                    "rounding_floor": float(floor[head]),
                    "deficient": bool(s[head, -1] <= floor[head]),
                    **{f"null_{name}": means[name] for name in COMPARED},
                    **{f"excess_{name}": values[name] / means[name] for name in COMPARED},
                }
            )
        return rows

    def _values(self, rows: Sequence[Row], order: Sequence[Row], layers: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        values: dict[str, float | Reading] = {}
        for name in ("first_last", "top10", "least10", "s1", "excess_first_last", "entropy_rank"):
            readings = [Reading(schema[name], row[name], place=_place(row)) for row in rows]
            values[name] = max(readings, key=lambda reading: reading.badness)
        beyond = {row["matrix"]: row["layers"] for row in order if row["statistic"] == "first_last"}
        values |= {f"{matrix}_layers": beyond[matrix] for matrix in ("q", "k") if matrix in beyond}
        counts = {"layers": len({row["layer"] for row in layers}), "heads": len(rows)}
        return {**values, **counts, "deficient": sum(row["deficient"] for row in rows)}


def chosen_heads(weights: Sequence[Heads], blocks: Sequence[int] | None) -> list[Heads]:
    """Return the weights of these blocks, all for None; UsageError for a block without attention heads."""
    if blocks is None:
        return list(weights)
    if unknown := set(blocks) - {heads.block for heads in weights}:
        raise UsageError(f"blocks={list(blocks)} names {min(unknown)}, which has no attention heads")
    return [heads for heads in weights if heads.block in set(blocks)]


def _place(row: Row) -> dict[str, str]:
    return {"layer": str(row["layer"]), "matrix": row["matrix"], "head": str(row["head"])}


def _extreme(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: (np.isnan(row["first_last"]), row["excess_first_last"]))


def _worst(rows: Sequence[Row]) -> Worst:
    row = _extreme(rows)
    where = f"{row['matrix'].upper()} of head {row['head']} in layer {row['layer']}"
    return Worst(where, "s_1", f"{row['s1']:.6g}", "s_r", f"{row['s_last']:.6g}")


def _sentence(rows: Sequence[Row], order: Sequence[Row]) -> str:
    row = _extreme(rows)
    deficient = sum(one["deficient"] for one in rows)
    beyond = {one["matrix"]: one for one in order if one["statistic"] == "first_last"}
    counted = ", ".join(f"{name.upper()} in {one['layers']}" for name, one in beyond.items())
    total = next((one["of"] for one in beyond.values()), 0)
    compared = f" The mean First/Last lies above those of V and O for {counted} of {total} layers." if beyond else ""
    return (
        f"Of {len(rows)} head matrices {row['matrix'].upper()} of head {row['head']} in layer {row['layer']} stretches "
        f"most unevenly: First/Last {row['first_last']:.3g}, random elements {row['null_first_last']:.3g}."
        f"{compared} {deficient} are rank-deficient within the rounding of their elements."
    )


def _padded(spectra: Sequence[Floats]) -> Floats:
    padded = np.full((len(spectra), max(map(len, spectra))), np.nan)
    for place, s in enumerate(spectra):
        padded[place, : len(s)] = s
    return padded
