"""Is the gain that of the function or of its dtype? The same model, direction and steps in several dtypes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import resolve
from stabilitykit.measurements.noise_models import floating
from stabilitykit.measurements.responses import angle
from stabilitykit.measurements.smooth import ratio
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.measurements.steps import check_unit, length_of
from stabilitykit.numerics.bits import name_of
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.resolution import step_columns
from stabilitykit.numerics.spectrum import budget
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import adopt
from stabilitykit.subjects.subject import Subject
from stabilitykit.subjects.weights import cast_weights

TRUE = "true float64"

_METRICS = (
    Metric("sigma_deviation", "", "lower", "largest |sigma_1 - true| / true over the dtypes"),
    Metric("gain_deviation", "", "lower", "largest |gain - true| / true over the dtypes, at the chosen length"),
    Metric("v1_angle", "deg", "lower", "largest angle of a dtype's v1 to that of true float64"),
    Metric("sigma_true", "output/input", "lower", "sigma_1 in true float64"),
    Metric("gain_true", "output/input", "lower", "gain in true float64, at the chosen length"),
)
_SCHEMA = {metric.name: metric for metric in _METRICS}


@dataclass(frozen=True, eq=False)
class GainByDtype(Measurement):
    """sigma_1, v1 and the gain of one function in its own dtype, in `dtypes`, and in true float64.

    The weights are cast (buffers are not), and the embedding with them; x0 + epsilon * unit * v1 is taken along the
    subject's own v1 in all, with `unit` of the subject's own x0, so that only the dtype differs. Rows of part "dtype":
    sigma_1, residual_1, `v1_angle` to true float64; of part "gain": `gain_nominal`, `gain_realised`, `alignment` a
    length; of part "pair", for every two dtypes a and b: `sigma_difference` = |sigma_a - sigma_b| / sigma_b, the angle
    of both v1, `gain_difference` and the angle of both output changes at the length nearest to `at`. "float64" among
    `dtypes` is a plain cast, in which most models still round to float32. A dtype that the model refuses has a row that
    says so. UsageError for parameters that mean nothing; UnsupportedError without true float64. Cost: a copy of the
    weights, the proofs of a new subject, up to 80 products and a forward a length, for each dtype.
    """

    dtypes: Sequence[str] = ("float32", "bfloat16")
    epsilons: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4)
    unit: str = "rel"
    at: float = 1e-2
    tolerance: float = 1e-3

    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    causes: ClassVar[tuple[str, ...]] = (
        "a dtype too narrow for the step: compare its alignment",
        "nearly equal singular values, between which v1 turns",
        "a kernel of one dtype that rounds more than it must",
    )

    def __post_init__(self) -> None:
        """Refuse what means nothing, in one sentence."""
        check_unit(self.unit)
        if isinstance(self.dtypes, str):
            raise UsageError(f"dtypes={self.dtypes!r}: give a list of names such as ['float32', 'bfloat16']")
        for name in self.dtypes:
            floating(name)
        numbers = (*self.epsilons, self.at, self.tolerance)
        if not self.epsilons or not all(math.isfinite(value) and value > 0 for value in numbers):
            raise UsageError(f"epsilons={self.epsilons!r}, at={self.at!r}, tolerance={self.tolerance!r}: all positive")

    def cost(self, subject: Subject) -> Cost:
        """Expected rows: proofs, baseline and steps of each dtype, and the products of its spectrum."""
        many = len({name_of(subject.x0.dtype), *self.dtypes}) + 1
        each = 3 + (6 + 1 + math.ceil(len(self.epsilons) / subject.batch)) * subject.batch
        return Cost(forwards=many * each + 3 * subject.batch, backwards=budget(1) * (many + 2))

    def find(self, subject: Subject) -> Finding:
        """Measure each dtype in turn, and compare."""
        v1, own = resolve("v1", subject)[0][0], name_of(subject.x0.dtype)
        lengths = [epsilon * length_of(self.unit, subject) for epsilon in self.epsilons]
        sides, refused = [self._side(TRUE, subject.in_float64(), v1, lengths)], []
        for name in dict.fromkeys((own, *self.dtypes)):
            try:
                one = subject if name == own else in_dtype(subject, floating(name))
                sides.append(self._side(name, one, v1, lengths))
            except UnsupportedError as error:
                refused.append({"part": "dtype", "dtype": name, "verdict": "unsupported", "reason": str(error)})
        chosen = self.epsilons.index(min(self.epsilons, key=lambda epsilon: abs(math.log(epsilon / self.at))))
        rows = (
            *(side.row(sides[0]) for side in sides),
            *refused,
            *(row for side in sides for row in side.steps),
            *(_pair(a, b, chosen) for a, b in itertools.product(sides, repeat=2)),
        )
        return Finding(
            _readings(sides, chosen),
            _sentence(sides, chosen, refused),
            rows=rows,
            arrays={"direction": v1.double().cpu().numpy(), "epsilons": np.array(self.epsilons)},
            noise=subject.noise_floor().sentence,
        )

    def _side(self, name: str, subject: Subject, v1: Tensor, lengths: Sequence[float]) -> Side:
        """Return one dtype's spectrum and its steps."""
        triplets = SingularSpectrum(k=1, tolerance=self.tolerance).triplets(subject)
        X = Lattice(subject.x0.cpu(), v1.cpu()).at(torch.tensor(lengths, dtype=torch.float64))
        slots = torch.arange(len(X)) % subject.batch
        changes = (subject(X.to(subject.x0.device)).double() - subject.baseline[slots].double()).cpu()
        deltas = X.double() - subject.x0.cpu().double()
        rows = []
        for epsilon, s, delta, change in zip(self.epsilons, lengths, deltas, changes, strict=True):
            step, moved = step_columns(delta, s, v1), float(change.norm())
            gain = ratio(moved, step["realised_norm"]) if step["coords_moved"] else math.nan
            place = {"part": "gain", "dtype": name, "epsilon": epsilon, "eps_abs": s}
            rows.append({**place, **step, "gain_nominal": moved / s, "gain_realised": gain})
        return Side(name, float(triplets.sigma[0]), float(triplets.residual[0]), triplets.v[0], changes, rows)


@dataclass(frozen=True, eq=False)
class Side:
    """What one dtype says: its largest singular value with residual and v1, output changes (E, M), a row a step."""

    name: str
    sigma: float
    residual: float
    v1: Tensor
    changes: Tensor
    steps: Sequence[Mapping[str, Any]]

    def row(self, true: Side) -> dict[str, Any]:
        """Return the row of this dtype."""
        said = {"sigma_1": self.sigma, "residual_1": self.residual, "v1_angle": between(self.v1, true.v1)}
        return {"part": "dtype", "dtype": self.name, **said, "verdict": "measured"}

    def gain(self, chosen: int) -> float:
        """Return the realised gain at one length."""
        return float(self.steps[chosen]["gain_realised"])


def in_dtype(subject: Subject, dtype: torch.dtype) -> Subject:
    """Return the same function with weights and input cast to a dtype, proved again, sharing the counter.

    Of a FunctionSubject the function must follow the dtype of its input. UnsupportedError where this has no meaning.
    """
    if isinstance(subject, CausalLMSubject):
        model = copy.deepcopy(subject.loaded.model)
        cast_weights(model, dtype)
        loaded = adopt(model, subject.loaded.tokenizer, spec=subject.loaded.spec, source=subject.loaded.source)
        how = {name: getattr(subject, name) for name in ("site", "path", "batch", "rows", "allow_noise", "counter")}
        return CausalLMSubject(loaded, subject.prompt, **how)
    if isinstance(subject, FunctionSubject):
        other = FunctionSubject(subject.fn, subject.x0.to(dtype), batch=subject.batch, name=subject.name)
        other.counter = subject.counter
        try:
            answered = other.baseline.dtype
        except RuntimeError as error:
            raise UnsupportedError(f"{subject.name} takes no {name_of(dtype)}: {str(error).splitlines()[0]}") from None
        if answered != dtype:
            raise UnsupportedError(f"{subject.name} answers {name_of(dtype)} with {name_of(answered)}")
        return other
    raise UnsupportedError(f"{subject.name} ({type(subject).__name__}) cannot be cast to {name_of(dtype)}")


def _pair(a: Side, b: Side, chosen: int) -> dict[str, Any]:
    return {
        "part": "pair",
        "dtype": a.name,
        "against": b.name,
        "sigma_difference": _relative(a.sigma, b.sigma),
        "v1_angle": between(a.v1, b.v1),
        "epsilon": a.steps[chosen]["epsilon"],
        "gain_difference": _relative(a.gain(chosen), b.gain(chosen)),
        "change_angle": math.degrees(angle(a.changes[chosen], b.changes[chosen])),
    }


def between(a: Tensor, b: Tensor) -> float:
    """Return the angle of two axes in degrees, at most 90: the sign of a singular vector is arbitrary."""
    found = math.degrees(angle(a, b))
    return min(found, 180 - found)


def _relative(value: float, reference: float) -> float:
    return math.nan if math.isnan(value) else ratio(abs(value - reference), reference)


def _readings(sides: Sequence[Side], chosen: int) -> dict[str, float | Reading]:
    true, *others = sides
    found: dict[str, float | Reading] = {"sigma_true": true.sigma, "gain_true": true.gain(chosen)}
    columns: dict[str, Callable[[Side], float]] = {
        "sigma_deviation": lambda side: _relative(side.sigma, true.sigma),
        "gain_deviation": lambda side: _relative(side.gain(chosen), true.gain(chosen)),
        "v1_angle": lambda side: between(side.v1, true.v1),
    }
    for name, value in columns.items():
        placed = [Reading(_SCHEMA[name], value(side), place={"dtype": side.name}) for side in others]
        if placed:
            found[name] = max(placed, key=lambda reading: reading.badness)
    return found


def _sentence(sides: Sequence[Side], chosen: int, refused: Sequence[Mapping[str, Any]]) -> str:
    sigmas = ", ".join(f"{side.sigma:.6g} in {side.name}" for side in sides)
    gains = ", ".join(f"{side.gain(chosen):.6g} in {side.name}" for side in sides)
    without = f" Not run: {', '.join(row['dtype'] for row in refused)}." if refused else ""
    step = sides[0].steps[chosen]["eps_abs"]
    return f"sigma_1 is {sigmas}; the gain of a step of {step:.3g} along v1 is {gains}.{without}"
