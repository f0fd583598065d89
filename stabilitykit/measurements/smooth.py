"""What calculus says a small step does, and from which step length on the evaluated function agrees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.subject import Subject


def smooth_changes(subject: Subject, V: Tensor) -> list[float]:
    """Return |J v| for each row of V (k, H), nan where the subject has no derivatives. Cost: k forward products.

    Each v goes in at unit length, so that a change of a few ULP does not vanish in the dtype of the product.
    """
    if not len(V):
        return []
    lengths = V.double().norm(dim=1, keepdim=True)
    units = V / torch.where(lengths > 0, lengths, 1.0)
    try:
        products = [subject.jvp(rows).double().norm(dim=1).cpu() for rows in torch.split(units, subject.batch)]
    except UnsupportedError:
        return [math.nan] * len(V)
    changes: list[float] = (torch.cat(products) * lengths.flatten().cpu()).tolist()
    return changes


def secant_scan(subject: Subject, lattice: Lattice, scales: Sequence[float]) -> list[dict[str, Any]]:
    """Return one row a scale: the single step of `scale` |x0| from x0 (absolute if x0 = 0) and its secant slope.

    slope = |y(s) - y0| / |x(s) - x0| with the y0 of the row's own slot and the realised step; nan where the rounded
    input does not move. Cost: one row a scale, the last batch filled up.
    """
    if not scales:
        return []
    x0 = subject.x0.double().cpu()
    steps = torch.tensor(scales, dtype=torch.float64) * (float(x0.norm()) or 1.0)
    X = lattice.at(steps)
    Y, slots = subject(X.to(subject.x0)).double(), torch.arange(len(X)) % subject.batch
    rows = []
    for scale, s, x, y, slot in zip(scales, steps.tolist(), X.double(), Y, slots.tolist(), strict=True):
        dx, dy = float((x - x0).norm()), float((y - subject.baseline[slot].double()).norm())
        row = {"part": "scale", "scale": scale, "s_first": s, "coords_changed": int((x != x0).sum()), "input_step": dx}
        rows.append({**row, "output_jump": dy, "slope": ratio(dy, dx), "slot": slot})
    return rows


def crossover(scan: Sequence[Mapping[str, Any]], gain: float, tolerance: float) -> float:
    """Return the first scale where slope and gain agree within the tolerance, there and at the next scale; or nan.

    Below it rounding makes the slope; one agreement alone may be the accident of a slope on its way down.
    """
    agrees = [abs(row["slope"] - gain) <= tolerance * gain for row in scan]
    both = [left and right for left, right in itertools.pairwise(agrees)]
    return float(scan[both.index(True)]["scale"]) if True in both else math.nan


def ratio(part: float, whole: float) -> float:
    """Return part / whole; over nothing, infinite for something and nan for nothing."""
    if whole:
        return part / whole
    return math.inf if part > 0 else math.nan
