"""What flips the next token: along lines through a tie, or from the prompt itself outward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions, Recipe, count, products_of, resolve
from stabilitykit.measurements.flip_lines import Grid, Line, scan_line
from stabilitykit.measurements.flip_pair import FlipPair, flip_pair, flipping
from stabilitykit.measurements.flip_radius import TRIED, Outward, outward
from stabilitykit.measurements.flip_words import scanned, went_outward
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.tie_point import TiePoint, lanes, pair_of, reading_logits
from stabilitykit.measurements.tie_solver import EQUAL
from stabilitykit.measurements.tie_store import at_tie, gradient_of, tie_of
from stabilitykit.measurements.ties import names, solving, state
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject

PLACES = ("tie", "prompt")

_SPAN_ULP, _SPAN_ROUNDOFFS, _SPAN_SHARE = 32, 1024, 0.25

_SHARED = (
    Metric("flip_eps", "input", "higher", "smallest step along a direction that changes the token, either sign"),
    Metric("third_tokens", "points", "lower", "inputs at which the token is neither of the pair"),
    Metric("directions", "rays", "neither", "number of directions"),
    Metric("inputs", "points", "neither", "distinct inputs tried"),
)
_AT_TIE = (
    Metric("gap_ulp", "ULP", "lower", "difference of the two logits at the tie, in ULP of the larger"),
    Metric("tie_distance", "input", "higher", "distance of the tie from the prompt's embedding"),
    Metric("sign_changes", "points", "lower", "sign changes of z_a - z_b along a line; a smooth function has one"),
    Metric("true_sign_changes", "points", "neither", "the same in true float64"),
    Metric("chatter_width", "input", "lower", "length of the range that holds more than one sign"),
    Metric("chatter_ulp", "ULP", "lower", "that range in ULP of the logit, by the slope of the gap"),
    Metric("oracle_disagreement", "share", "lower", "inputs whose sign is not that of true float64"),
    Metric("predicted_crossing", "input", "neither", "where the tangent crosses zero, -gap / (D.J v); farthest"),
    Metric("pair_step", "input", "neither", "size of the one ULP in one coordinate that flips the token"),
)
_AT_PROMPT = (
    Metric("flip_radius", "input", "higher", "distance to another token to first order, gap / |J'D|"),
    Metric("flip_radius_bound", "input", "higher", "smallest distance at which another token was seen"),
    Metric("start_gap", "logit", "higher", "z_a - z_b at the prompt"),
)


@dataclass(frozen=True, eq=False)
class FlipScan(Measurement):
    """Along each of `directions`, which of two tokens wins, and what flips it.

    `at="tie"`: on the lines x + eps d through the tie of `pair` (`Tie`), on each side the first `cells` distinct
    inputs, as many by ratio, and `points` evenly up to `span` |x|; by default until the gap should have moved by 32 ULP
    of the logit. "v1".. are singular vectors of the state the head reads, taken at the tie. A line's `flip_eps` is its
    smallest |eps| whose token is not the tie's, `exact` if no distinct input before it was left out. Any direction
    flips at a tie; what tells rounding from the function are `sign_changes` of z_a - z_b, where a smooth function has
    one, `chatter_width`, the length of the range between the first and the last of them, and `oracle_disagreement`
    with true float64. `predicted_crossing` = -gap / (D.J d), D the difference of both tokens' rows, d of length 1.
    `third_tokens` counts inputs where neither of the pair comes first. `pair_step` is the one-ULP step of `flip_pair`,
    found from the same tie.

    `at="prompt"`: from x0 along the gradient of z_a - z_b and along each direction, both signs, outward from a quarter
    to 32 times `flip_radius` = (z_a - z_b) / |J'D|, the distance to first order. `flip_radius_bound` is the smallest
    realised |x - x0| of an input that was seen to give another token, the far side of the tie's own flip among them.

    Rows have a `part`: "direction", one for each, then at the tie "point", one for each input, with `epsilon`,
    `realised_norm`, `alignment`, `gap`, `gap_oracle`, `token`, `token_changed`, `third`. Readings are the worst over
    the directions. Arrays: `directions` (N, H); at the tie its state (see `Tie`), and `flip_low`, `flip_high` (H,).
    UsageError for impossible parameters; UnsupportedError where there is no tie, with the reason. Cost: that of `Tie`
    unless it is known, a gradient, the inputs, as many in true float64, and the products of singular vectors.
    Source: the study's experiment 6 part 2, `FlipScan.study()`.
    """

    directions: Directions = ("v1", "v2", "v3")
    at: str = "tie"
    pair: tuple[int, int] | None = None
    equal: str = "logits"
    span: float | None = None
    points: int = 128
    cells: int = 16
    oracle: bool = True

    causes: ClassVar[tuple[str, ...]] = (
        "more rounding noise in the logits, if the chatter grew in ULP: a kernel, path, batch shape or dtype",
        "another tie, or a head that is less steep there, if it grew in input units alone",
    )

    @classmethod
    def study(cls) -> FlipScan:
        """Return the study's own question: five directions, 1000 steps on either side up to 1e-6 |x|."""
        return cls(directions=("v1", "v2", "v3", "v4", "v5"), span=1e-6, points=1000)

    def __post_init__(self) -> None:
        """Refuse what asks for nothing."""
        for name, value, known in (("at", self.at, PLACES), ("equal", self.equal, EQUAL)):
            if value not in known:
                raise UsageError(f"{name}={value!r} is not one of {', '.join(known)}")
        for name in ("points", "cells"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)!r} is no whole number of at least 1")
        if self.span is not None and not 0 < self.span < math.inf:
            raise UsageError(f"span={self.span!r} is no positive number")

    def schema(self) -> tuple[Metric, ...]:
        """Return the metrics of the place that is asked about."""
        return (*_SHARED, *(_AT_TIE if self.at == "tie" else _AT_PROMPT))

    def cost(self, subject: Subject) -> Cost:
        """As a rule in rows: solving the tie, its smallest flip, the lines; products for singular vectors beside.

        A batch answers one input where its slots have other bits.
        """
        B, answered, rays = subject.batch, lanes(subject), count(self.directions)
        found = solving(subject) + flipping(subject) + Cost(backwards=products_of(self.directions, subject))
        if self.at == "prompt":
            return found + Cost(forwards=B * (1 + 2 * rays) * math.ceil(TRIED / answered + 1), backwards=1)
        line = math.ceil((2 * (self.points + 2 * self.cells) + 1) / answered)
        return found + Cost(forwards=B * ((1 + self.oracle) * rays * line + 4))

    def find(self, subject: Subject) -> Finding:
        """Scan the lines through the tie, or go outward from the prompt."""
        subject = reading_logits(subject)
        if self.at == "prompt":
            return self._from_prompt(subject)
        tie = tie_of(subject, self.pair, equal=self.equal)
        here, gradient = at_tie(subject, tie)
        rays = list(self._rays(here, gradient))
        twin, reason = _twin(here) if self.oracle else (None, "")
        lines = []
        with bar(len(rays), "flip scan", "ray") as progress:
            for ray in rays:
                lines.append(scan_line(here, twin, tie.pair, ray, self._grid(here, ray[2], tie.ulp), tie.ulp))
                progress.update()
        pair = flip_pair(subject, tie=tie)
        return Finding(
            self._tie_readings(tie, lines, pair),
            scanned(lines, pair, names(subject, pair.tokens), reason),
            rows=tuple(
                [{"part": "direction", **line.row()} for line in lines]
                + [{"part": "point", **row} for line in lines for row in line.points()]
            ),
            arrays={
                **state(subject, tie),
                "directions": torch.stack([direction for _, direction, _ in rays]).double().cpu().numpy(),
                "flip_low": pair.low.double().numpy(),
                "flip_high": pair.high.double().numpy(),
                "flip_tokens": np.array(pair.tokens),
            },
            worst=Worst(
                f"coordinate {pair.coordinate}",
                names(subject, pair.tokens)[0],
                pair.sides[0],
                names(subject, pair.tokens)[1],
                pair.sides[1],
            ),
            about={"pair": list(tie.pair)},
        )

    def _grid(self, here: Subject, slope: float, ulp: float) -> Grid:
        """Return the inputs of a line; where the gap hardly moves along it, the span ends at a share of |x|."""
        length, most = (
            float(here.x0.double().norm()),
            min(_SPAN_ROUNDOFFS * torch.finfo(here.x0.dtype).eps, _SPAN_SHARE),
        )
        span = _SPAN_ULP * ulp / abs(slope) if slope else math.inf
        return Grid(min(span, most * length) if self.span is None else self.span * length, self.points, self.cells)

    def _rays(self, here: Subject, gradient: Tensor) -> Iterator[tuple[str, Tensor, float]]:
        """Yield label, direction and slope of z_a - z_b along it, per length; the gradient itself at the prompt."""
        given = [self.directions] if isinstance(self.directions, str) else self.directions
        named = not isinstance(given, Tensor | Recipe) and any(isinstance(one, str) for one in given)
        read = here.with_site("post_norm") if named and isinstance(here, CausalLMSubject) else here
        directions, labels = resolve(self.directions, read)
        if self.at == "prompt":
            yield "gradient", -gradient, -float(gradient.norm())
        for label, direction in zip(labels, directions.double().cpu(), strict=True):
            slope = float(gradient @ direction / direction.norm())
            yield label, direction, slope
            if self.at == "prompt":
                yield f"-{label}", -direction, -slope

    def _tie_readings(self, tie: TiePoint, lines: list[Line], pair: FlipPair) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.schema()}
        rows = [line.row() for line in lines]
        values: dict[str, float | Reading] = {
            "gap_ulp": tie.gap_ulp,
            "tie_distance": tie.distance,
            "third_tokens": sum(row["third_tokens"] for row in rows),
            "directions": len(rows),
            "inputs": sum(row["inputs"] for row in rows),
            "pair_step": Reading(schema["pair_step"], pair.step, place={"coordinate": str(pair.coordinate)}),
        }
        picks = dict.fromkeys(
            ("sign_changes", "true_sign_changes", "chatter_width", "chatter_ulp", "oracle_disagreement"), max
        )
        for name, pick in {"flip_eps": min, **picks}.items():
            worst = pick(rows, key=lambda row: row[name])
            values[name] = Reading(schema[name], float(worst[name]), place={"direction": worst["direction"]})
        far = max(rows, key=lambda row: abs(row["predicted_crossing"]))
        crossing = abs(far["predicted_crossing"])
        values["predicted_crossing"] = Reading(
            schema["predicted_crossing"], crossing, place={"direction": far["direction"]}
        )
        return values

    def _from_prompt(self, subject: Subject) -> Finding:
        pair = pair_of(subject, self.pair)
        z = subject.baseline[0, list(pair)].double()
        gap = float(z[0] - z[1])
        if int(subject.baseline[0].argmax()) != pair[0]:
            raise UsageError(f"pair={pair!r}: at the prompt the first token must be the one that comes first")
        rays = list(self._rays(subject, gradient_of(subject, pair)))
        radius = gap / -rays[0][2]
        found = [outward(subject, pair, ray, gap, radius) for ray in rays]
        found += _through_tie(subject, pair)
        schema = {metric.name: metric for metric in self.schema()}
        nearest = min(found, key=lambda one: math.inf if math.isnan(one.realised) else one.realised)
        along = min(found[1 : len(rays)], key=lambda one: one.flip_eps)
        place = {"direction": nearest.label, "token": names(subject, (nearest.token, nearest.token))[0]}
        values: dict[str, float | Reading] = {
            "flip_radius": radius,
            "flip_radius_bound": Reading(schema["flip_radius_bound"], nearest.realised, place=place),
            "flip_eps": Reading(schema["flip_eps"], along.flip_eps, place={"direction": along.label}),
            "start_gap": gap,
            "third_tokens": sum(one.third for one in found),
            "directions": count(self.directions),
            "inputs": TRIED * len(rays),
        }
        return Finding(
            values,
            went_outward(subject, found, nearest, radius),
            rows=tuple({"part": "direction", **one.row()} for one in found),
            arrays={"directions": torch.stack([direction for _, direction, _ in rays]).numpy()},
            about={"pair": list(pair)},
        )


def _twin(here: Subject) -> tuple[Subject | None, str]:
    try:
        return here.in_float64(), ""
    except UnsupportedError as error:
        return None, str(error)


def _through_tie(subject: Subject, pair: tuple[int, int]) -> list[Outward]:
    """Return the far side of the smallest flip at the tie, if there is a tie: the shortest way may be a curved one."""
    try:
        flip = flip_pair(subject, tie=tie_of(subject, pair))
    except UnsupportedError:
        return []
    start = int(subject.baseline[0].argmax())
    token, x = next(side for side in zip(flip.tokens, (flip.low, flip.high), strict=True) if side[0] != start)
    moved = float((x.double() - subject.x0.cpu().double()).norm())
    return [Outward("tie", math.nan, math.nan, moved, math.nan, moved, math.nan, token, token not in pair, math.nan)]
