"""The matrix that tokens enter by and the one they leave by: whether they are one, and how their rows lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.numerics.bits import same_bits
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.pairwise import Pairs, pairs, spread
from stabilitykit.numerics.rounding import Floats

Row = Mapping[str, Any]

STRATA = (1000, 10_000)
"""Ids at which a sample of tokens is cut: vocabularies tend to number common tokens first."""
BINS = 48
_ROWS = 8192
"""Rows that are held in float64 at a time."""


@dataclass(frozen=True, slots=True)
class Tying:
    """How embedding and head stand to each other: `storage` (one piece of memory), `bits` (equal ones) or `apart`.

    `differing_rows` and `differing_elements` are nan where the two have different shapes or dtypes.
    """

    kind: str
    embedding_digest: str
    head_digest: str
    differing_rows: float
    differing_elements: float


def tying(embedding: Tensor, head: Tensor) -> Tying:
    """Compare the embedding (V, H) with the head (V, H), bit for bit. Cost: one pass, and a digest of each."""
    if _one_storage(embedding, head):
        both = digest(embedding)
        return Tying("storage", both, both, 0, 0)
    digests = digest(embedding), digest(head)
    if embedding.shape != head.shape or embedding.dtype != head.dtype:
        return Tying("apart", *digests, math.nan, math.nan)
    rows = elements = 0
    for ours, theirs in zip(torch.split(embedding, _ROWS), torch.split(head, _ROWS), strict=True):
        differ = ~same_bits(ours, theirs.to(ours.device))
        rows += int(differ.any(dim=1).sum())
        elements += int(differ.sum())
    return Tying("apart" if elements else "bits", *digests, rows, elements)


def _one_storage(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def sampled(vocabulary: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return up to `size` different ids in order: a third from each stratum, all of one that has fewer. From PCG64."""
    generator = np.random.Generator(np.random.PCG64(seed))
    edges = [0, *(edge for edge in STRATA if edge < vocabulary), vocabulary]
    found: list[NDArray[np.int64]] = []
    for place, low in enumerate(edges[:-1]):
        high = edges[place + 1]
        wanted = (size - sum(len(one) for one in found)) // (len(edges) - 1 - place)
        found.append(low + generator.choice(high - low, min(wanted, high - low), replace=False))
    return np.sort(np.concatenate(found))


def row_lengths(W: Tensor) -> dict[str, Any]:
    """Return how long the rows of a matrix (V, H) are, and how far apart all of them, no row with itself.

    `rms_distance` is that of all V (V - 1) pairs, by 2 sum |w - mean|^2 / (V - 1). Two passes in float64.
    """
    lengths, total = [], torch.zeros(W.shape[1], dtype=torch.float64)
    for block in torch.split(W, _ROWS):
        wide = block.double().cpu()
        lengths.append(torch.linalg.vector_norm(wide, dim=1).numpy())
        total += wide.sum(0)
    centre = total / len(W)
    off = math.fsum(float((block.double().cpu() - centre).square().sum()) for block in torch.split(W, _ROWS))
    norms = {f"norm_{key}": one for key, one in spread(np.concatenate(lengths)).items() if key != "count"}
    apart = math.sqrt(2 * off / (len(W) - 1)) if len(W) > 1 else math.nan
    return {"rows": len(W), "width": W.shape[1], **norms, "rms_distance": apart}


def sample_rows(found: Mapping[str, Pairs]) -> Iterator[Row]:
    """Yield how the distances of a sample's pairs are spread, in each matrix."""
    for name, distances in found.items():
        for kind in ("cosine", "euclidean"):
            yield {"part": "sample", "matrix": name, "distance": kind, **spread(getattr(distances, kind))}


def distances_of(matrices: Mapping[str, Tensor], ids: NDArray[np.int64]) -> dict[str, Pairs]:
    """Return the distances between some rows of each matrix; what is one object is computed once."""
    found: dict[int, Pairs] = {}
    for W in matrices.values():
        if id(W) not in found:
            found[id(W)] = pairs(W[torch.from_numpy(ids).to(W.device)].double().cpu().numpy())
    return {name: found[id(W)] for name, W in matrices.items()}


def histograms(found: Mapping[str, Pairs], kind: str) -> dict[str, NDArray[Any]]:
    """Return edges (b + 1,), and of how many pairs the embedding's distance lies in one bin, the head's in another."""
    values = {name: getattr(one, kind) for name, one in found.items()}
    kept = np.logical_and.reduce([np.isfinite(one) for one in values.values()])
    embedding, head = (one[kept] for one in values.values())
    if not embedding.size:
        return {}
    edges = np.histogram_bin_edges(np.concatenate([embedding, head]), BINS)
    joint = np.histogram2d(embedding, head, bins=(edges, edges))[0].astype(np.int64)
    return {f"{kind}_edges": edges, f"{kind}_joint": joint}


def correlation(first: Floats, second: Floats) -> float:
    """Return Pearson's correlation of two sets of distances, nan where one has a single value."""
    kept = np.isfinite(first) & np.isfinite(second)
    if kept.sum() < 2 or not np.ptp(first[kept]) or not np.ptp(second[kept]):
        return math.nan
    return float(np.corrcoef(first[kept], second[kept])[0, 1])
