"""How the states inside a model change between two inputs, as evaluated and in true float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.measurements.pairs import Pair
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.comparison import compare
from stabilitykit.subjects.precision import SMALL
from stabilitykit.subjects.subject import Subject

States = Mapping[str, Tensor]
Column = dict[str, float | int]

EXACT = ("gain_exact", "relative_l2_exact", "gain_ratio", "excess", "rounding_share", "forward_error")
"""Columns that need true float64; nan without it."""


@dataclass(frozen=True)
class Sides:
    """States at each site of the references, `before`, and of the inputs, `after`: (U, M), one row a pair."""

    before: States
    after: States

    @property
    def sites(self) -> list[str]:
        """The sites that gave a vector a row and token on both sides."""
        return [site for site in self.after if site in self.before]


def run(subject: Subject, pairs: Sequence[Pair], sites: Sequence[str]) -> Sides:
    """Run every pair, reference and input in the same slot of the same batch shape, all sites from one forward each.

    InvalidError for a non-finite state. Cost: 2 B ceil(U / B) rows; where all references are x0, B (ceil(U / B) + 1).
    """
    before: dict[str, list[Tensor]] = {}
    after: dict[str, list[Tensor]] = {}
    x0 = subject.x0.cpu()
    base: States | None = None
    if not pairs:
        empty = {site: rows[:0] for site, rows in _states(subject, [], sites).items()}
        return Sides(empty, empty)
    with bar(math.ceil(len(pairs) / subject.batch), "states", "batch") as progress:
        for start in range(0, len(pairs), subject.batch):
            chunk = pairs[start : start + subject.batch]
            if all(bits_equal(pair.reference.to(x0), x0) for pair in chunk):
                base = base or _states(subject, [], sites)
                found = base
            else:
                found = _states(subject, [pair.reference for pair in chunk], sites)
            for kept, states in ((before, found), (after, _states(subject, [pair.x for pair in chunk], sites))):
                for site, rows in states.items():
                    kept.setdefault(site, []).append(rows[: len(chunk)])
            progress.update()
    return Sides(*({site: torch.cat(parts) for site, parts in side.items()} for side in (before, after)))


def in_true_float64(subject: Subject, pairs: Sequence[Pair], sites: Sequence[str]) -> tuple[Sides | None, str]:
    """Return the same pairs in true float64, the very same rounded inputs widened; or None and why not.

    Cost: as `run`, the oracle's baseline, and its self-test.
    """
    try:
        return run(subject.in_float64(), pairs, sites), ""
    except UnsupportedError as error:
        return None, str(error)


def columns(
    site: str, pairs: Sequence[Pair], native: Sides, exact: Sides | None, tau: float, scale: float
) -> list[Column]:
    """Return the measures of one site, a dictionary for each pair.

    With dh = h(x) - h(reference) as evaluated and dh64 in true float64: those of `Comparison`; `gain_realised` = |dh| /
    |dx|; `gain_exact` = |dh64| / |dx|; `gain_ratio` = |dh| / |dh64|; `excess` = |h(x) - h64(x)| / |dh64|;
    `rounding_share` = |dh - dh64| / |dh64|, 1 where a change was absorbed; `forward_error` = |h(x) - h64(x)| /
    |h64(x)|.
    What divides by dh64 is nan where |dx| is under 1e-10 of `scale`, |x0|: the oracle has not proved that far down.
    """
    if not pairs:
        return []
    before, after = native.before[site], native.after[site]
    measures = compare(before, after, tau)
    dx = torch.stack([pair.delta.norm() for pair in pairs])
    gain = measures.l2 / dx
    if exact is None or site not in exact.sites:
        oracle = [dict.fromkeys(EXACT, math.nan) for _ in pairs]
    else:
        oracle = _oracle((before, after), (exact.before[site], exact.after[site]), dx, scale)
    return [{**measures.row(u), "gain_realised": float(gain[u]), **oracle[u]} for u in range(len(pairs))]


def _oracle(native: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], dx: Tensor, scale: float) -> list[Column]:
    before, after = (rows.double() for rows in native)
    true, size = exact[1] - exact[0], torch.linalg.vector_norm
    unknown = torch.where(dx < SMALL * scale, math.nan, 1.0)
    change, error = size(true, dim=1) * unknown, size(after - exact[1], dim=1)
    found = {
        "gain_exact": change / dx,
        "relative_l2_exact": change / size(exact[0], dim=1),
        "gain_ratio": size(after - before, dim=1) / change,
        "excess": error / change,
        "rounding_share": size(after - before - true, dim=1) / change,
        "forward_error": error / size(exact[1], dim=1),
    }
    return [{name: float(values[u]) for name, values in found.items()} for u in range(len(dx))]


def _states(subject: Subject, inputs: Sequence[Tensor], sites: Sequence[str]) -> States:
    """Return the states of one batch, filled up with x0, on the CPU."""
    X = subject.copies(subject.batch)
    if inputs:
        X[: len(inputs)] = torch.stack(list(inputs)).to(X)
    read = subject.states(X, sites)
    found = {site: rows.cpu() for site, rows in read.items() if rows.dtype.is_floating_point}
    for site, rows in found.items():
        if not bool(torch.isfinite(rows).all()):
            raise InvalidError(f"{subject.name}: the state at {site} is not finite; nothing is measured")
    return found
