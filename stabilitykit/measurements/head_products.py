"""What a head compares and what it carries, as one matrix each: the singular values of Q'K and OV of every head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.head_spectra import chosen_heads
from stabilitykit.measurements.head_trends import layer_rows, trend_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.rounding import Floats
from stabilitykit.numerics.stacked_spectra import product_values, ratios
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.head_layout import Heads, find_heads
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.stored import Checkpoint

Row = dict[str, Any]

COMPARED = ("top10", "first_last", "entropy_rank")
"""The ratios that stand beside those of products of random elements."""


@dataclass(frozen=True, eq=False)
class HeadProducts(Measurement[Checkpoint]):
    """Take the singular values of Q_h' K_g (what scores of a head see) and O_h V_g (what it moves), (hidden, hidden).

    Both have the rank of the head's width at most, and as many values are taken. They do not depend on the basis inside
    the head, as those of Q and K alone do: a rotation of Q_h and K_g together changes nothing. Rotary positions turn
    the two against each other, so `qk` is that of tokens in one place. A kv head stands once for each q head that reads
    it. Ratios are those of HeadSpectra; each is set against `null_draws` products of two matrices of independent
    Gaussian elements of the same shapes: excess = value / null.

    Rows (`part`): head; layer, the means over heads; trend, as in HeadSpectra. Array `spectra` (rows, width). `blocks`
    chooses layers. UnsupportedError and InvalidError as in HeadSpectra. Cost: no forward; a block's attention weights
    are held at once. Source: ours, after the openboundlabs study of Llama-3-8B.
    """

    blocks: Sequence[int] | None = None
    null_draws: int = 16
    shuffles: int = 1999
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("qk_entropy_rank", "dimensions", "higher", "smallest number of dimensions that a head compares by"),
        Metric("ov_entropy_rank", "dimensions", "higher", "smallest number of dimensions that a head carries"),
        Metric("qk_excess", "ratio", "lower", "largest First/Last of Q'K over that of random elements"),
        Metric("ov_excess", "ratio", "lower", "largest First/Last of OV over that of random elements"),
        Metric("qk_s1", "ratio", "lower", "largest singular value of Q'K of any head"),
        Metric("ov_s1", "ratio", "lower", "largest singular value of OV of any head"),
        Metric("heads", "matrices", "neither", "products that were decomposed"),
    )
    needs: ClassVar[type[Measurable]] = Checkpoint
    causes: ClassVar[tuple[str, ...]] = ("a head that looks at one direction alone, such as that of the first token",)

    def __post_init__(self) -> None:
        """Refuse what has no null."""
        if self.null_draws < 1 or self.shuffles < 1:
            raise UsageError("null_draws and shuffles count random matrices and orders; give at least 1 of each")

    def cost(self, subject: Checkpoint) -> Cost:
        """Nothing runs through the model."""
        return Cost()

    def find(self, subject: Checkpoint) -> Finding:
        """Read block by block, decompose, and compare with random elements."""
        rows: list[Row] = []
        spectra: list[Floats] = []
        by_block: dict[int, list[Heads]] = {}
        for heads in chosen_heads(find_heads(subject), self.blocks):
            by_block.setdefault(heads.block, []).append(heads)
        with bar(len(by_block), "head products", "block") as progress:
            for block, weights in by_block.items():
                for matrix, s, shape in _products(subject, block, weights):
                    rows += self._rows(block, matrix, s, shape, weights[0])
                    spectra.append(s)
                progress.update()
        layers = layer_rows(rows)
        return Finding(
            self._values(rows),
            _sentence(rows),
            rows=(*rows, *layers, *trend_rows(rows, layers, self.shuffles, self.seed)),
            arrays={"spectra": np.concatenate(spectra)},
            worst=_worst(rows),
        )

    def _rows(self, block: int, matrix: str, s: Floats, shape: tuple[int, int], heads: Heads) -> list[Row]:
        null = _null(shape, self.null_draws, self.seed)
        found = {name: values.tolist() for name, values in ratios(s).items()}
        sharing = heads.queries // heads.keys
        rows: list[Row] = []
        for head in range(len(s)):
            values = {name: column[head] for name, column in found.items()}
            rows.append(
                {
                    "part": "head",
                    "table": "head_products",
                    "layer": block,
                    "matrix": matrix,
                    "head": head,
                    "kv_head": head // sharing,
                    "width": shape[0],
                    "hidden": shape[1],
                    "s1": float(s[head, 0]),
                    "s_last": float(s[head, -1]),
                    **values,
                    **{f"null_{name}": null[name] for name in COMPARED},
                    **{f"excess_{name}": values[name] / null[name] for name in COMPARED},
                }
            )
        return rows

    def _values(self, rows: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        values: dict[str, float | Reading] = {"heads": len(rows)}
        for matrix in ("qk", "ov"):
            own = [row for row in rows if row["matrix"] == matrix]
            for name, column in (("entropy_rank", "entropy_rank"), ("excess", "excess_first_last"), ("s1", "s1")):
                metric = schema[f"{matrix}_{name}"]
                readings = [Reading(metric, row[column], place=_place(row)) for row in own]
                values[metric.name] = max(readings, key=lambda reading: reading.badness)
        return values


def _products(subject: Checkpoint, block: int, weights: Sequence[Heads]) -> list[tuple[str, Floats, tuple[int, int]]]:
    stacks: dict[str, Tensor] = {}
    for heads in weights:
        stacks |= heads.split(subject[heads.name])
    sharing = len(stacks["q"]) // len(stacks["k"])
    keys, values = (stacks[matrix].repeat_interleave(sharing, dim=0) for matrix in "kv")
    pairs = {"qk": (stacks["q"], keys), "ov": (stacks["o"].mT, values)}
    return [
        (matrix, product_values(left, right, f"attention of block {block}"), (int(left.shape[1]), int(left.shape[2])))
        for matrix, (left, right) in pairs.items()
    ]


@lru_cache(64)
def _null(shape: tuple[int, int], draws: int, seed: int) -> dict[str, float]:
    """Return the mean ratios of A'B for independent Gaussian A and B of this shape."""
    random = np.random.Generator(np.random.PCG64((seed, *shape)))
    left, right = (torch.from_numpy(random.standard_normal((draws, *shape))) for _ in range(2))
    return {name: float(values.mean()) for name, values in ratios(product_values(left, right)).items()}


def _place(row: Row) -> dict[str, str]:
    return {"layer": str(row["layer"]), "matrix": row["matrix"], "head": str(row["head"])}


def _narrowest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: (not np.isnan(row["entropy_rank"]), row["entropy_rank"]))


def _worst(rows: Sequence[Row]) -> Worst:
    row = _narrowest(rows)
    where = f"{row['matrix'].upper()} of head {row['head']} in layer {row['layer']}"
    return Worst(where, "s_1", f"{row['s1']:.6g}", "s_r", f"{row['s_last']:.6g}")


def _sentence(rows: Sequence[Row]) -> str:
    said = []
    for matrix, verb in (("qk", "compares"), ("ov", "carries")):
        own = [row for row in rows if row["matrix"] == matrix]
        row = _narrowest(own)
        said.append(
            f"head {row['head']} of layer {row['layer']} {verb} least: over {row['entropy_rank']:.3g} dimensions of "
            f"{row['width']}, products of random elements {row['null_entropy_rank']:.3g}"
        )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."
