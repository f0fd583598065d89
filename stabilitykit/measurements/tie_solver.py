"""The input at which two tokens tie: damped Newton steps along the gradient, then bisection to the lattice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.tie_point import Seen, TiePoint, lanes, pair_of, read, reading_logits
from stabilitykit.numerics.between import Chain, segment
from stabilitykit.numerics.bits import nudge
from stabilitykit.subjects.subject import Subject

EQUAL = ("logits", "probabilities")
GRADIENTS, BATCHES = 10, 40
"""Most gradients and most batches that one search takes; what it has found by then is accepted or refused."""

MAX_ULP = 2.0
"""The residual that is accepted as a tie."""

_HALVINGS, _REACHES = 6, 16
_SHARE = 0.25
_NOISE = 16
"""Within so many ULP of the logit rounding may keep |g| from falling; halving a step there more than once is idle."""


def tie_point(
    subject: Subject, pair: tuple[int, int] | None = None, *, equal: str = "logits", max_ulp: float = MAX_ULP
) -> TiePoint:
    """Return the input near x0 at which the two tokens of `pair` (default: the two largest logits of x0) tie.

    g(x) = z_a - z_b of the model's own logits, scale, cap and bias included. Steps x <- x - g grad / |grad|^2, halved
    while |g| does not fall or a third token would come first; then bisection between opposite signs, first along the
    segment, then one ULP of one coordinate at a time, until an equality of bits or two neighbours. The best of all
    inputs tried is accepted if it is within `max_ulp` of the larger logit; with `equal="probabilities"` of the larger
    probability, which softmax in the logits' own dtype may give to many inputs with other logits. Everything is asked
    in slot 0 of the subject's batch, on its path.

    UsageError for a pair that cannot be meant; UnsupportedError, in one sentence, where there is no gradient, where it
    does not converge, or where a third token lies above one of the pair at the end. Cost: 4 to 8 gradients and 10 to 30
    batches as a rule, never above 10 and 40. Source: the study's experiment 6, which took 500 steps of Adam.
    """
    if equal not in EQUAL:
        raise UsageError(f"equal={equal!r} is not one of {', '.join(EQUAL)}")
    subject = reading_logits(subject)
    return _Search(subject, pair_of(subject, pair), equal, max_ulp).solve()


@dataclass
class _Search:
    subject: Subject
    pair: tuple[int, int]
    equal: str
    max_ulp: float
    seen: list[Seen] = field(default_factory=list)
    batches: int = 0
    gradients: int = 0

    def solve(self) -> TiePoint:
        before = vars(self.subject.counter).copy()
        x0 = self.subject.x0
        start = self._ask(x0[None], "start")[0]
        near = self._newton(start)
        if self._open():
            self._bisect(near)
        best = min(self.seen, key=self._badness)
        self._accept(best)
        spent = {name: count - before[name] for name, count in vars(self.subject.counter).items()}
        return TiePoint(
            x=best.x.cpu(),
            x0=x0.cpu(),
            pair=self.pair,
            equal=self.equal,
            logits=best.logits,
            ulp=best.ulp,
            probabilities=best.probabilities,
            other=best.other,
            residual=best.off(self.equal),
            gap0=start.gap,
            trace=tuple(self._row(one) for one in self.seen),
            forwards=spent["forwards"],
            backwards=spent["backwards"],
            path=getattr(self.subject, "path", ""),
            batch=self.subject.batch,
        )

    @property
    def lanes(self) -> int:
        """Inputs that one batch answers."""
        return lanes(self.subject)

    def _ask(self, X: Tensor, kind: str) -> list[Seen]:
        """Ask inputs (K, H), K at most `lanes`, in one batch."""
        self.batches += 1
        found = [read(x, z, self.pair, kind) for x, z in zip(X, self.subject(X), strict=True)]
        self.seen += found
        return found

    def _open(self) -> bool:
        """Whether there is anything left to find, and anything left to find it with."""
        return self.batches < BATCHES and self._best().off(self.equal) > 0

    def _best(self) -> Seen:
        return min(self.seen, key=self._badness)

    def _badness(self, one: Seen) -> tuple[float, float]:
        return one.off(self.equal), abs(one.gap)

    def _newton(self, here: Seen) -> Seen:
        """Step until within a ULP of the logit or until nothing falls, and return the best input."""
        while abs(here.gap) > here.ulp and self._open() and self.gradients < GRADIENTS - 1:
            there = self._step(here, -here.gap * self._toward(here.x))
            if there is None:
                break
            here = there
        return here

    def _step(self, here: Seen, step: Tensor) -> Seen | None:
        """Return the longest of the halved steps that lowers |g| by a quarter of what it promises; None if none does.

        A pair that leads stays ahead of all other tokens, if a step that short lowers |g| at all: a long one may land
        where the pair is as far behind as equal.
        """
        lower = None
        for halving in range(1 if abs(here.gap) <= _NOISE * here.ulp else _HALVINGS):
            there = self._ask((here.x.double() + step / 2**halving).to(here.x.dtype)[None], "newton")[0]
            if abs(there.gap) < abs(here.gap) * (1 - _SHARE / 2**halving):
                if there.pair_leads or not here.pair_leads:
                    return there
                lower = lower or there
            if not self._open():
                break
        return lower

    def _toward(self, x: Tensor) -> Tensor:
        """Return grad / |grad|^2 at x, float64: the shortest step that raises g by 1 as far as g is linear."""
        a, b = self.pair
        u = torch.zeros_like(self.subject.baseline[:1])
        u[0, a], u[0, b] = 1, -1
        self.gradients += 1
        gradient = self.subject.at(x, proved=False).vjp(u)[0].double()
        size = float(gradient.norm())
        if not 0 < size < math.inf:
            raise UnsupportedError(f"{self._names()}: the gradient of their difference is {size} there, no way to go")
        return gradient / size**2

    def _bisect(self, near: Seen) -> None:
        """Enclose the tie between opposite signs and narrow it to neighbours on the lattice, or to an equality."""
        toward = self._toward(near.x)
        far = self._other_side(near, toward)
        if far is None:
            return
        while self._open() and len(X := segment(near.x, far.x, self.lanes)):
            near, far = _crossing([near, *self._ask(X, "segment"), far])
        chain = Chain(near.x, far.x)
        low, high = 0, chain.length
        while self._open() and (points := chain.inside(low, high, self.lanes)):
            asked = self._ask(chain.at(torch.tensor(points, device=near.x.device)), "chain")
            sides = [near, *asked, far]
            near, far = _crossing(sides)
            low, high = ((low, *points, high)[_place(one, sides)] for one in (near, far))
        if self._best().off(self.equal) > self.max_ulp:
            self._around(toward)

    def _other_side(self, near: Seen, toward: Tensor) -> Seen | None:
        """Step past the tie, each time twice as far, until the sign is the opposite one."""
        reach = near.ulp
        for _ in range(_REACHES):
            x = (near.x.double() - (near.gap + math.copysign(reach, near.gap)) * toward).to(near.x.dtype)
            there = self._ask(x[None], "beyond")[0]
            if (there.gap > 0) != (near.gap > 0):
                return there
            if not self._open():
                break
            reach *= 2
        return None

    def _around(self, toward: Tensor) -> None:
        """Try single-ULP neighbours of the best input, those first that should move its gap to zero."""
        best, gradient = self._best(), toward / float(toward.norm()) ** 2
        for X in _neighbours(best.x, best.gap, gradient, self.lanes):
            if not self._open() or self._best().off(self.equal) <= self.max_ulp:
                return
            self._ask(X, "around")

    def _accept(self, best: Seen) -> None:
        if best.off(self.equal) > self.max_ulp:
            raise UnsupportedError(f"{self._names()} do not tie within {self.max_ulp:g} ULP: {self._nearest()}")
        if not best.pair_leads:
            third, z = best.other
            raise UnsupportedError(
                f"{self._names()} tie at {best.logits[0]:.6g}, but there token {third} has a logit of {z:.6g}: a third "
                f"token comes first; give pair=({self.pair[0]}, {third}) or another one"
            )

    def _nearest(self) -> str:
        best = min(self.seen, key=lambda one: abs(one.gap))
        return f"the smallest difference of {len(self.seen)} inputs is {abs(best.gap):.3g}, a ULP is {best.ulp:.3g}"

    def _names(self) -> str:
        return f"{self.subject.name}: tokens {self.pair[0]} and {self.pair[1]}"

    def _row(self, one: Seen) -> dict[str, float | str]:
        moved = float((one.x.double() - self.subject.x0.double()).norm())
        return {"kind": one.kind, "gap": one.gap, "gap_ulp": abs(one.gap) / one.ulp, "distance": moved}


def _crossing(points: Sequence[Seen]) -> tuple[Seen, Seen]:
    """Return the first two neighbours between which the sign turns; the ends have opposite signs."""
    for left, right in itertools.pairwise(points):
        if (left.gap > 0) != (right.gap > 0):
            return left, right
    raise AssertionError("the ends have opposite signs")


def _place(one: Seen, among: Sequence[Seen]) -> int:
    return next(place for place, other in enumerate(among) if other is one)


def _neighbours(x: Tensor, gap: float, gradient: Tensor, count: int) -> Iterator[Tensor]:
    """Yield inputs one ULP from x in one coordinate, `count` at a time, by how near to zero they should bring gap."""
    up = nudge(x, 1).double() - x.double()
    down = nudge(x, -1).double() - x.double()
    expected = (gap + torch.cat([up, down]) * gradient.repeat(2)).abs()
    for places in torch.split(expected.argsort(), count):
        X = x.repeat(len(places), 1)
        steps = torch.zeros_like(X, dtype=torch.int64)
        steps[torch.arange(len(places)), places % x.numel()] = torch.where(places < x.numel(), 1, -1)
        yield nudge(X, steps)
