"""A grid of steps around one input: what each step really was, what it did, and what it does in exact arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.responses import Reader, change_of_token
from stabilitykit.measurements.smooth import ratio
from stabilitykit.measurements.steps import length_of
from stabilitykit.numerics.bits import nudge
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.resolution import step_columns
from stabilitykit.subjects.subject import Subject

REGIMES = ("linear", "rounding", "nonlinear", "absorbed", "unknown")
_WIDE = 3.0  # times the largest effect of one-ULP moves: the reach of rounding where there is no oracle


@dataclass(frozen=True)
class Ray:
    """One direction on one side: `lattice` goes along it, `label` and `sign` name it in every row."""

    label: str
    sign: str
    lattice: Lattice

    @property
    def length(self) -> float:
        """The length of the direction, 1 for those that have a name."""
        return float(self.lattice.direction.double().norm())


def rays(subject: Subject, directions: Tensor, labels: Sequence[str], signs: str, rule: str) -> list[Ray]:
    """Return a ray for each direction and sign, the direction used as given; errors as of `Lattice`."""
    x0, sides = subject.x0.cpu(), {"+": 1, "-": -1}
    wanted = [sign for sign in sides if signs in (sign, "both")]
    return [
        Ray(label, sign, Lattice(x0, sides[sign] * direction.cpu(), rule))
        for direction, label in zip(directions, labels, strict=True)
        for sign in wanted
    ]


def steps(subject: Subject, ray: Ray, epsilons: Sequence[float], unit: str) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the rounded inputs (E, H) at the lengths epsilon in `unit`, and what each of these steps really was.

    nominal length = epsilon * unit * |d|; `realised_norm` = |x(s) - x0|; `alignment` = cos(x(s) - x0, d).
    """
    s = torch.tensor(epsilons, dtype=torch.float64) * length_of(unit, subject)
    X = ray.lattice.at(s)
    moved = X.double() - subject.x0.cpu().double()
    units = {name: _length(name, subject) for name in ("abs", "rel", "ulp")}
    rows = []
    for epsilon, delta, nominal in zip(epsilons, moved, (s * ray.length).tolist(), strict=True):
        rows.append(
            {"direction": ray.label, "sign": ray.sign, "epsilon": epsilon}
            | {f"eps_{name}": nominal / length if length else math.nan for name, length in units.items()}
            | step_columns(delta, nominal, ray.lattice.direction)
        )
    return X, rows


def ulp_moves(x0: Tensor, count: int, seed: int) -> Tensor:
    """Return inputs (count, H) in which every coordinate has moved by one ULP, up or down at random."""
    random = np.random.Generator(np.random.PCG64((seed, 1)))
    signs = torch.from_numpy(2 * random.integers(0, 2, size=(count, x0.numel())) - 1)
    return nudge(x0.cpu(), signs)


@dataclass(frozen=True)
class Effects:
    """What distinct inputs do, float64 on the CPU, each (U, M).

    `change` = y - y0 of the same slot, `linear` = J delta, `true` = the change in true float64; the last two None where
    the subject has no such thing. `rows` has more columns, `states` what was kept.
    """

    delta: Tensor
    change: Tensor
    linear: Tensor | None
    true: Tensor | None
    rows: Sequence[Mapping[str, Any]]
    states: Mapping[str, Tensor]

    def columns(self, n: int, tolerance: float, noise: float) -> dict[str, Any]:
        """Return what input n did: gains over the realised step, and the regime.

        `deviation` = |change - J delta| / |J delta|. Vectors are compared, not lengths, which can agree by accident.
        """
        delta, change = float(self.delta[n].norm()), float(self.change[n].norm())
        linear, true = (None if part is None else part[n] for part in (self.linear, self.true))
        sigma = math.nan if linear is None else ratio(float(linear.norm()), delta)
        gain = ratio(change, delta)
        return {
            "output_diff_norm": change,
            "gain_realised": gain if delta else math.nan,
            "directional_sigma": sigma,
            "ratio": ratio(gain, sigma) if delta else math.nan,
            "deviation": self.deviation(self.change, n) if delta else math.nan,
            "gain_true": math.nan if true is None or not delta else float(true.norm()) / delta,
            "regime": self.regime(n, tolerance, noise),
            **self.rows[n],
        }

    def deviation(self, change: Tensor, n: int) -> float:
        """Return how far a change is from the linear one, in units of the linear one; nan without a derivative."""
        if self.linear is None:
            return math.nan
        off, whole = float((change[n] - self.linear[n]).norm()), float(self.linear[n].norm())
        return 0.0 if off == whole == 0 else ratio(off, whole)

    def regime(self, n: int, tolerance: float, noise: float) -> str:
        """Return one of REGIMES; `noise` is the largest effect of rounding, used where there is no oracle.

        absorbed: the rounded input is x0. linear: deviation within the tolerance. Else the same step in true float64
        decides: where that is linear the deviation is rounding's, else the function's own.
        """
        if not bool(self.delta[n].any()):
            return "absorbed"
        if self.linear is None:
            return "unknown"
        if self.deviation(self.change, n) <= tolerance:
            return "linear"
        if self.true is not None:
            return "rounding" if self.deviation(self.true, n) <= tolerance else "nonlinear"
        off = float((self.change[n] - self.linear[n]).norm())
        return "rounding" if off <= _WIDE * noise else "nonlinear"


def effects(subject: Subject, twin: Subject | None, X: Tensor, keep: bool = False) -> Effects:
    """Return what the distinct inputs X (U, H), x0 first, do; with `keep` also the outputs and logits themselves.

    Products are those of `twin` where there is one. Cost: a forward and a product each; with `twin` a forward more.
    """
    delta = X.double() - subject.x0.cpu().double()
    reader = Reader(subject)
    changes: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    states: dict[str, list[Tensor]] = {"states": [], "logits": []}
    for found in reader(X):
        if not changes:
            reader.require_unchanged(found, 0)
        n = len(found.outputs)
        changes.append(found.outputs.double() - reader.baseline.outputs[:n].double())
        rows += [_answer(reader, found.logits, found.experts, slot) for slot in range(n)]
        for name, state in (("states", found.outputs), ("logits", found.logits)):
            if keep and state is not None:
                states[name].append(state)
    kept = {name: torch.cat(parts) for name, parts in states.items() if parts}
    true = None if twin is None else _true_changes(twin, X)
    return Effects(delta, torch.cat(changes), products(twin or subject, delta), true, rows, kept)


def _answer(reader: Reader, logits: Tensor | None, experts: Tensor | None, slot: int) -> dict[str, Any]:
    row: dict[str, Any] = {"slot": slot}
    if logits is not None and reader.baseline.logits is not None:
        row |= change_of_token(reader.baseline.logits[slot], logits[slot], reader.subject)
    if experts is not None and reader.baseline.experts is not None:
        row["routing_changed"] = bool((experts[slot] != reader.baseline.experts[slot]).any())
    return row


def _true_changes(twin: Subject, X: Tensor) -> Tensor:
    Y = twin(X.to(twin.x0.device).double()).cpu()
    slots = torch.arange(len(X)) % twin.batch
    return Y - twin.baseline.cpu()[slots]


def products(subject: Subject, V: Tensor) -> Tensor | None:
    """Return J v for each row of V (U, H), float64 on the CPU; None without forward products. One product a row not 0.

    Each goes in at unit length: a change of a few ULP would vanish in the dtype of the product.
    """
    lengths = V.norm(dim=1)
    moving = lengths.nonzero().flatten()
    found = torch.zeros(len(V), subject.baseline.shape[1], dtype=torch.float64)
    units = V[moving] / lengths[moving, None]
    try:
        for place, rows in zip(torch.split(moving, subject.batch), torch.split(units, subject.batch), strict=True):
            found[place] = subject.jvp(rows.to(subject.x0.device)).double().cpu() * lengths[place, None]
    except UnsupportedError:
        return None
    return found


def gains(subject: Subject, directions: Tensor) -> list[float]:
    """Return |J d| / |d| for each direction (N, H); nan without forward products. Cost: N products."""
    d = directions.double().cpu()
    found = products(subject, d)
    return [math.nan] * len(d) if found is None else (found.norm(dim=1) / d.norm(dim=1)).tolist()


def rounding_noise(found: Effects, which: Sequence[int]) -> dict[str, float]:
    """Return median and largest |f(x0 + delta) - f(x0) - J delta| over these inputs; nan without J."""
    if found.linear is None:
        return {"rounding_noise": math.nan, "rounding_noise_max": math.nan}
    off = (found.change - found.linear)[list(which)].norm(dim=1)
    return {"rounding_noise": float(np.median(off.numpy())), "rounding_noise_max": float(off.max())}


def window(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends, in input units, of the longest run of linear steps on one ray; nan without one.

    The later of two equally long runs counts, of larger steps.
    """
    ordered = sorted(rows, key=lambda row: row["eps_abs"])
    runs = [
        list(run) for regime, run in itertools.groupby(ordered, key=lambda row: row["regime"]) if regime == "linear"
    ]
    if not runs:
        return math.nan, math.nan
    longest = max(reversed(runs), key=len)
    return longest[0]["eps_abs"], longest[-1]["eps_abs"]


def _length(unit: str, subject: Subject) -> float:
    try:
        return length_of(unit, subject)
    except UsageError:  # relative to a zero input there is no length
        return math.nan
