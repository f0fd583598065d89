"""Steps of every size along a ray: what the subject's output does, and what the true function does at that input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.ray import Boundary, first_change
from stabilitykit.measurements.responses import distinct
from stabilitykit.measurements.thresholds import Floats, Indices, departs
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects import lanes
from stabilitykit.subjects.subject import Subject, rows_differ

Flags = NDArray[np.bool_]

MAX_CELLS = 512
"""Distinct inputs tried in order before a ray's first change is left to the scanned steps."""

TANGENT = 1e-6
"""Step of the central difference that gives J d in float64, relative to |x0|."""


class Plan(NamedTuple):
    """Where to step: `points` in each decade of `decades`, in units of `length`, jittered by `seed`."""

    length: float
    decades: tuple[int, int]
    points: int
    seed: int
    tolerance: float

    def steps(self, ray: int) -> Floats:
        """Return (P,) ascending lengths: each decade is cut in equal parts, with one point anywhere in each part."""
        random = np.random.Generator(np.random.PCG64([1, self.seed, ray]))
        parts = np.arange(self.bins.size) + random.random(self.bins.size)
        return np.asarray(self.length * 10.0 ** (self.decades[0] + parts / self.points))

    @property
    def bins(self) -> Indices:
        """The decade of each point, named by the exponent at its lower end."""
        return np.repeat(np.arange(*self.decades), self.points)


@dataclass(frozen=True)
class Ray:
    """All that was tried along one ray, (P,) each, by ascending step; at most one point is the certified first change.

    `steps` are nominal lengths s |d|; `realised` is |x(s) - x0| after rounding, `cosine` the one between that and d,
    `moved` counts coordinates. `change` is |Delta|, `true_change` |Delta64| and `difference` |Delta - Delta64|, nan
    without a twin. `s_last_same` and `s_first_changed`, in units of |d| = `norm`, enclose the first change; `exact`
    says that nothing below was left out. `linear_end`: see `Regimes`.
    """

    label: str
    steps: Floats
    decades: Indices
    realised: Floats
    cosine: Floats
    moved: Indices
    changed: Flags
    change: Floats
    true_change: Floats
    difference: Floats
    certified: Flags
    s_last_same: float
    s_first_changed: float
    norm: float
    exact: bool
    linear_end: float

    @property
    def stable(self) -> float:
        """Length of the last step before the output changes."""
        return self.s_last_same * self.norm

    @property
    def first(self) -> float:
        """Length of the first step that changes it; inf if none does."""
        return self.s_first_changed * self.norm

    @property
    def strata(self) -> Indices:
        """Numbers of what was drawn together: the points of a decade, and the certified point by itself."""
        return np.where(self.certified, self.decades.max() + 1, self.decades)


def scan(
    subject: Subject, twin: Subject | None, lattices: Sequence[Lattice], labels: Sequence[str], plan: Plan
) -> list[Ray]:
    """Search each ray's first change up to the plan's last step, then try its steps. `twin`: the true function."""
    tops = [float(plan.steps(index)[-1]) / _norm(lattice) for index, lattice in enumerate(lattices)]
    searches = (first_change(lattice, top, MAX_CELLS) for lattice, top in zip(lattices, tops, strict=True))
    edges = lanes.run(subject, searches)
    rays = []
    with bar(len(lattices), "regimes", "ray") as progress:
        for index, (lattice, label, edge) in enumerate(zip(lattices, labels, edges, strict=True)):
            rays.append(_follow(subject, twin, lattice, label, edge, plan.steps(index), plan))
            progress.update()
    return rays


def _follow(
    subject: Subject, twin: Subject | None, lattice: Lattice, label: str, edge: Boundary, grid: Floats, plan: Plan
) -> Ray:
    norm = _norm(lattice)
    s, certified = grid / norm, np.zeros(len(grid), dtype=np.bool_)
    if edge.output is not None:
        place = int(np.searchsorted(s, edge.first_changed))
        s, certified = np.insert(s, place, edge.first_changed), np.insert(certified, place, True)
    X = lattice.at(torch.from_numpy(s))
    changes, changed = _changes(subject, X, certified, edge)
    true, linear_end = _truth(twin, lattice, X, grid, plan.tolerance)
    moved = X.double() - subject.x0.cpu().double()
    realised = moved.norm(dim=1).numpy()
    with np.errstate(invalid="ignore"):
        cosine = (moved @ lattice.direction.double().cpu()).numpy() / (realised * norm)
    last, first, exact = _edge(s, changed, edge, lattice)
    return Ray(
        label=label,
        steps=s * norm,
        decades=np.floor(np.log10(s * norm / plan.length)).astype(np.int64),
        realised=realised,
        cosine=cosine,
        moved=(moved != 0).sum(dim=1).numpy(),
        changed=changed,
        change=changes.norm(dim=1).numpy(),
        true_change=true.norm(dim=1).numpy(),
        difference=(changes - true).norm(dim=1).numpy(),
        certified=certified,
        s_last_same=last,
        s_first_changed=first,
        norm=norm,
        exact=exact,
        linear_end=linear_end,
    )


def _changes(subject: Subject, X: Tensor, certified: Flags, edge: Boundary) -> tuple[Tensor, Flags]:
    """Return `departures` of the scanned inputs, with what the search saw at the certified one put in its place.

    It was seen in the search's slot; in another slot the first change may be another.
    """
    changes, changed = departures(subject, X[torch.from_numpy(~certified)])
    if edge.output is None:
        return changes, changed
    place = int(np.flatnonzero(certified)[0])
    jump = (edge.output.double() - subject.baseline[edge.slot].double()).cpu()[None]
    return torch.cat([changes[:place], jump, changes[place:]]), np.insert(changed, place, True)


def departures(subject: Subject, X: Tensor) -> tuple[Tensor, Flags]:
    """Return y(x) - y0 for each row of (N, H), (N, M) float64 on the CPU, and whether any bit differs, (N,).

    Each row is compared with the baseline of its own slot. Equal inputs are evaluated once.
    """
    kept, which = distinct(X)
    Y = subject(kept.to(subject.x0.device))
    y0 = subject.baseline[torch.arange(len(Y), device=Y.device) % subject.batch]
    return (Y.double() - y0.double()).cpu()[which], rows_differ(Y, y0).cpu()[which].numpy()


def _truth(twin: Subject | None, lattice: Lattice, X: Tensor, grid: Floats, tolerance: float) -> tuple[Tensor, float]:
    """Return the true change at each input, (P, M), and where the true function leaves its tangent along d.

    The latter not at the rounded inputs but on the ray itself, in float64: there nothing but curvature bends it.
    """
    if twin is None:
        return torch.full((len(X), 1), math.nan, dtype=torch.float64), math.nan
    x0, d = twin.x0.cpu(), lattice.direction.double().cpu() / _norm(lattice)
    h, far = _tangent_step(twin), beyond_tangent(twin, grid)
    lengths = torch.tensor([h, -h, *far], dtype=torch.float64)
    changes = departures(twin, torch.cat([X.double(), x0 + lengths[:, None] * d]))[0]
    true, ahead, behind, straight = torch.split(changes, [len(X), 1, 1, len(far)])
    tangent = (ahead - behind) / (2 * h)
    if not bool(tangent.any()):
        return true, math.nan
    predicted = lengths[2:, None] * tangent
    bent = (straight - predicted).norm(dim=1) / predicted.norm(dim=1)
    return true, float(departs(far, bent.numpy(), tolerance)) if far.size else math.inf


def beyond_tangent(subject: Subject, steps: Floats) -> Floats:
    """Return the steps at which a curve can be told from its tangent: those well beyond the tangent's own step."""
    return steps[steps >= 10 * _tangent_step(subject)]


def _tangent_step(subject: Subject) -> float:
    return TANGENT * (float(subject.x0.double().norm()) or 1.0)


def _edge(s: Floats, changed: Flags, edge: Boundary, lattice: Lattice) -> tuple[float, float, bool]:
    """Return the last unchanged step, the first changed one, and whether nothing between 0 and them was left out.

    The search decides, unless it ended without a change or a scanned step has changed before its own: then the steps
    that were tried do.
    """
    first = float(s[changed][0]) if changed.any() else math.inf
    if edge.output is not None and edge.first_changed <= first:
        return edge.last_same, edge.first_changed, not lattice.dense
    tried = [step for step in (*s[~changed].tolist(), edge.last_same) if step < first]
    everything = math.isinf(first) and edge.last_same >= s[-1] and not lattice.dense
    return max(tried, default=0.0), first, everything


def _norm(lattice: Lattice) -> float:
    return float(lattice.direction.double().norm())
