"""The study's tables for two recordings: at which decimal, and by how many ULP, coordinates differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stabilitykit.numerics.decimals import apart_at, by_decade, by_ulp
from stabilitykit.traces.aligned import NORM, Aligned
from stabilitykit.traces.drift_rows import not_numbers


def precision_rows(pair: Aligned) -> Iterator[Mapping[str, Any]]:
    """Yield a row for the embedding, each block and the norm, in the step that is looked into.

    `decimal_q`, `decade_k`, `above_k` and `ulp_2^k` are those of `numerics.decimals`; the last is empty for two dtypes.
    """
    for stage in pair.stages:
        if stage.name not in ("embed", NORM) and not stage.name.startswith("block:"):
            continue
        a, b = pair.pair(stage.name, pair.step)
        same = pair.same_dtype(stage.name)
        found = pair.difference(stage.name, pair.step)
        yield {
            "part": "precision",
            **pair.place(pair.step),
            "stage": stage.name,
            "block": stage.block,
            "elements": a.numel(),
            "changed_bits": found.differing_bits if same else None,
            "changed_values": found.differing_values,
            **not_numbers(a, b, found),
            **apart_at(a, b),
            **by_decade(a, b),
            **(by_ulp(a, b) if same else {}),
        }
