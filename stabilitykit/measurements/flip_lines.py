"""Which token wins along a line through a tie: smooth functions cross it once, rounded ones chatter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.measurements.responses import distinct
from stabilitykit.measurements.tie_point import lanes
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.subject import Subject

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Row = dict[str, Any]

_LEAST = 1e-4
"""Share of the first even step from which steps by ratio begin, where the distinct inputs end before."""


@dataclass(frozen=True)
class Line:
    """All distinct inputs tried along one direction, (P,) each, by ascending epsilon, the tie itself at 0.

    `epsilon` are nominal signed lengths, `gap` is z_a - z_b in the model's dtype, `true_gap` in true float64 (nan
    without a twin), `token` the largest logit of all. `slope` = D.J d / |d|, `walked` the epsilon on either side up to
    which no distinct input was left out.
    """

    label: str
    pair: tuple[int, int]
    epsilon: Floats
    realised: Floats
    alignment: Floats
    gap: Floats
    true_gap: Floats
    token: Indices
    slope: float
    ulp: float
    walked: tuple[float, float]

    @property
    def _origin(self) -> int:
        return int(np.flatnonzero(self.epsilon == 0)[0])

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Where another token than at the tie itself comes first."""
        return np.asarray(self.token != self.token[self._origin])

    @property
    def third(self) -> NDArray[np.bool_]:
        """Where the token is neither of the pair."""
        return ~np.isin(self.token, self.pair)

    @property
    def first_wins(self) -> NDArray[np.bool_]:
        """Where token a lies above b; of equal logits the lower id comes first, as in argmax."""
        return np.asarray((self.gap > 0) | ((self.gap == 0) & (self.pair[0] < self.pair[1])))

    def nearest(self, sign: int) -> int | None:
        """Return the place of the flip nearest to the tie on one side, None if there is none."""
        places = np.flatnonzero(self.flipped & (np.sign(self.epsilon) == sign))
        return int(places[np.abs(self.epsilon[places]).argmin()]) if places.size else None

    @property
    def changes(self) -> Indices:
        """Places i where the sign is another one at i + 1."""
        return np.flatnonzero(self.first_wins[1:] != self.first_wins[:-1])

    @property
    def chatter_width(self) -> float:
        """Length of the range that holds more than one sign: 0 for a single crossing or none."""
        if self.changes.size < 2:
            return 0.0
        return float(self.epsilon[self.changes[-1]] - self.epsilon[self.changes[0] + 1])

    @property
    def disagreement(self) -> float:
        """Share of the inputs whose sign is not that of true float64; nan without a twin."""
        known = np.isfinite(self.true_gap) & (self.true_gap != 0)
        if not known.any():
            return math.nan
        return float(((self.true_gap > 0) != self.first_wins)[known].mean())

    @property
    def true_changes(self) -> float:
        """Sign changes of the gap in true float64, 1 or 0 for what is smooth; nan without a twin."""
        if not np.isfinite(self.true_gap).all():
            return math.nan
        return float(((self.true_gap[1:] > 0) != (self.true_gap[:-1] > 0)).sum())

    def predicted(self, true: bool = False) -> float:
        """Return the epsilon at which the tangent crosses zero, from the gap at the tie or from its true value."""
        gap = (self.true_gap if true else self.gap)[self._origin]
        return float(-gap / self.slope) if self.slope else math.nan

    def row(self) -> Row:
        """Return the line as one row."""
        sides = {name: self.nearest(sign) for name, sign in (("plus", 1), ("minus", -1))}
        found = [place for place in sides.values() if place is not None]
        best = min(found, key=lambda place: abs(self.epsilon[place]), default=None)
        inside = best is not None and -self.walked[0] <= self.epsilon[best] <= self.walked[1]
        return {
            "direction": self.label,
            "flip_eps": math.inf if best is None else float(abs(self.epsilon[best])),
            **{
                f"flip_{name}": math.inf if place is None else float(abs(self.epsilon[place]))
                for name, place in sides.items()
            },
            "exact": bool(inside),
            "realised_norm": math.nan if best is None else float(self.realised[best]),
            "alignment": math.nan if best is None else float(self.alignment[best]),
            "sign_changes": int(self.changes.size),
            "true_sign_changes": self.true_changes,
            "chatter_width": self.chatter_width,
            "chatter_ulp": self.chatter_width * abs(self.slope) / self.ulp,
            "oracle_disagreement": self.disagreement,
            "slope": self.slope,
            "predicted_crossing": self.predicted(),
            "true_crossing": self.predicted(true=True),
            "third_tokens": int(self.third.sum()),
            "inputs": len(self.epsilon),
        }

    def points(self) -> Iterator[Row]:
        """Yield one row an input."""
        for place, epsilon in enumerate(self.epsilon):
            yield {
                "direction": self.label,
                "epsilon": float(epsilon),
                "realised_norm": float(self.realised[place]),
                "alignment": float(self.alignment[place]),
                "gap": float(self.gap[place]),
                "gap_oracle": float(self.true_gap[place]),
                "token": int(self.token[place]),
                "token_changed": bool(self.flipped[place]),
                "third": bool(self.third[place]),
            }


@dataclass(frozen=True)
class Grid:
    """Which inputs a line tries: on either side `cells` distinct ones in a row, `cells` by ratio, `points` evenly."""

    span: float
    points: int
    cells: int

    def steps(self, x: Tensor, direction: Tensor) -> tuple[Floats, tuple[float, float]]:
        """Return signed s, ascending, 0 included, and how far each side was walked without a gap, in units of |d|."""
        norm = float(direction.double().norm())
        even = np.linspace(0, self.span / norm, self.points + 1)[1:]
        sides, walked = [np.zeros(1)], []
        for sign in (-1, 1):
            lattice = Lattice(x.cpu(), sign * direction.double().cpu())
            cells = [cell.first_changed for cell in itertools.islice(lattice.cells(s_max=even[-1]), self.cells)]
            start = min(max([even[0] * _LEAST, *cells]), even[0])
            sides += [sign * np.array([*cells, *np.geomspace(start, even[0], self.cells), *even])]
            walked.append(0.0 if lattice.dense or not cells else cells[-1] * norm)
        return np.unique(np.concatenate(sides)), (walked[0], walked[1])


def scan_line(
    here: Subject, twin: Subject | None, pair: tuple[int, int], ray: tuple[str, Tensor, float], grid: Grid, ulp: float
) -> Line:
    """Try the distinct inputs of one line through `here`; `ray` is its label, its direction (H,) and its slope."""
    label, direction, slope = ray
    norm = float(direction.double().norm())
    s, walked = grid.steps(here.x0, direction)
    X = Lattice(here.x0.cpu(), direction.cpu()).at(torch.from_numpy(s))
    s, X = _distinct(s, X)
    moved = X.double() - here.x0.cpu().double()
    realised = moved.norm(dim=1)
    along = moved @ direction.double().cpu() * torch.from_numpy(np.sign(s))
    gap, token = tokens_of(here, X, pair)
    with np.errstate(invalid="ignore"):
        return Line(
            label=label,
            pair=pair,
            epsilon=s * norm,
            realised=realised.numpy(),
            alignment=(along / (realised * norm)).numpy(),
            gap=gap,
            true_gap=np.full(len(s), math.nan) if twin is None else tokens_of(twin, X.double(), pair)[0],
            token=token,
            slope=slope,
            ulp=ulp,
            walked=walked,
        )


def _distinct(s: Floats, X: Tensor) -> tuple[Floats, Tensor]:
    """Return each distinct input once, with the step nearest to zero that makes it, by ascending step."""
    order = np.argsort(np.abs(s), kind="stable")
    _, which = distinct(X[torch.from_numpy(order)])
    first = [order[place] for place, number in enumerate(which) if number not in which[:place]]
    kept = np.array(sorted(first))
    return s[kept], X[torch.from_numpy(kept)]


def tokens_of(subject: Subject, X: Tensor, pair: tuple[int, int]) -> tuple[Floats, Indices]:
    """Return z_a - z_b, exact, and the argmax of all logits for each input (N, H), with the bits of slot 0."""
    gaps, tokens = [], []
    for chunk in torch.split(X.to(subject.x0.device), lanes(subject)):
        Z = subject(chunk)
        chosen = Z[:, list(pair)].double().cpu()
        gaps.append((chosen[:, 0] - chosen[:, 1]).numpy())
        tokens.append(Z.argmax(dim=1).cpu().numpy())
    return np.concatenate(gaps), np.concatenate(tokens)
