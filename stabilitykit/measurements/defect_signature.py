"""The direction of a model's long tokens as its fingerprint, and how far another model's is from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import IncomparableError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.high_norms import HighNorms, Prompt, check_prompts, high_norms, read
from stabilitykit.measurements.signature_file import KnownSignature
from stabilitykit.numerics.acute import acute_angle
from stabilitykit.results.metric import Metric
from stabilitykit.results.result import Result
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.residual_block import ResidualBlocks

Row = dict[str, Any]

RELATED = 20.0
"""Degrees up to which two models share their defect: fine-tuning keeps it, training anew does not."""

_TOP = 20


@dataclass(frozen=True, eq=False)
class Signature(Measurement[LoadedModel]):
    """The unit vector u along the mean of the long vectors of the residual stream, and its angle to another model's.

    u is that of `SingularDefects`. `against` is another model of the same hidden size, a former result of this
    measurement, or a signature that `read_signature` gave back. A small angle says that one model descends from the
    other. The vector is nearly one coordinate, so two strangers that share it look related, by chance once in H:
    `shared_coordinates` counts how many of the 20 largest are the same, of which chance gives 400 / H. `corpus_angle`
    is the angle between the prompts at even and at odd places: what the choice of the texts does.

    Rows (`part`): coordinate, the 20 largest of each side. Arrays: `direction` (H,). UnsupportedError without long
    tokens, here or there; IncomparableError for another hidden size. Cost: a forward a prompt, for each model.
    Source: Wang et al., Singular defects (arXiv 2502.07004), section on signatures.
    """

    prompts: Sequence[Prompt] = ()
    against: LoadedModel | Result | KnownSignature | None = None
    tau: float | None = None

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("angle", "deg", "lower", "angle to the other model's direction"),
        Metric("shared_coordinates", "coordinates", "higher", "of the 20 largest, those that are the other's as well"),
        Metric("corpus_angle", "deg", "lower", "angle between the directions of two halves of the prompts"),
        Metric("coherence", "deg", "lower", "mean angle between two long vectors"),
        Metric("long_vectors", "vectors", "neither", "vectors that the direction is the mean of"),
        Metric("tau", "norm", "neither", "norm that sets long vectors apart"),
        Metric("dominant_share", "", "neither", "largest component of the direction: 1 is a single coordinate"),
        Metric("dominant_coordinate", "coordinate", "neither", "where that component is"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "another model, if the angle is near 90 degrees",
        "fine-tuning, merging, quantising or pruning, if it is a few degrees",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, self.tau)
        if isinstance(self.against, Result) and "direction" not in self.against.arrays:
            raise UsageError(f"a result of {self.against.measurement} has no array `direction`; give one of Signature")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the forwards of this model; those of the other are counted there."""
        return Cost(forwards=len(self.prompts))

    def find(self, subject: LoadedModel) -> Finding:
        """Read both directions."""
        found = self._read(subject)
        mine, other = found.direction, self._other(len(found.direction))
        tops = {"this": _largest(mine), **({} if other is None else {"other": _largest(other)})}
        compared: dict[str, float] = {}
        if other is not None:
            shared = len(set(tops["this"]) & set(tops["other"]))
            compared = {"angle": acute_angle(mine, other), "shared_coordinates": shared}
        values = {
            **compared,
            "corpus_angle": _between_halves(found),
            "coherence": found.coherence,
            "long_vectors": int((found.norms > found.tau).sum()),
            "tau": found.tau,
            "dominant_share": float(mine.abs().max()),
            "dominant_coordinate": tops["this"][0],
        }
        sides = {"this": mine, "other": other}
        rows = [_row(side, rank, place, sides[side]) for side, top in tops.items() for rank, place in enumerate(top)]
        about = {
            "hidden_size": len(mine),
            "layers": found.norms.shape[1] - 1,
            "corpus": hashlib.sha256(found.prompt.tobytes() + found.token_id.tobytes()).hexdigest(),
            **({"against": _named(self.against)} if self.against else {}),
        }
        return Finding(values, self._said(values), rows=tuple(rows), arrays={"direction": mine.numpy()}, about=about)

    def _read(self, loaded: LoadedModel) -> HighNorms:
        return high_norms(*read(ResidualBlocks(loaded), self.prompts), self.tau)

    def _other(self, size: int) -> Tensor | None:
        if self.against is None:
            return None
        if isinstance(self.against, Result | KnownSignature):
            known = (
                self.against.direction if isinstance(self.against, KnownSignature) else self.against.arrays["direction"]
            )
            direction = torch.from_numpy(np.asarray(known, dtype=np.float64).copy())
        else:
            direction = self._read(self.against).direction
        if len(direction) != size:
            raise IncomparableError(
                f"the directions have {size} and {len(direction)} coordinates: only models of one hidden size compare"
            )
        return direction

    def _said(self, values: Mapping[str, float]) -> str:
        share, place = values["dominant_share"], values["dominant_coordinate"]
        own = f"The long tokens point along coordinate {place} to {share:.3f} of their length"
        if self.against is None:
            return f"{own}; other texts turn them by {values['corpus_angle']:.2g} degrees."
        angle, shared = values["angle"], values["shared_coordinates"]
        kin = "the same defect" if angle <= RELATED else "not the same defect"
        return (
            f"{own}, {angle:.3g} degrees from those of {_named(self.against)}: {kin} ({shared} of the {_TOP} largest "
            "coordinates are shared)."
        )


def _largest(direction: Tensor) -> list[int]:
    places: list[int] = direction.abs().argsort(descending=True, stable=True)[:_TOP].tolist()
    return places


def _row(side: str, rank: int, place: int, direction: Any) -> Row:
    return {
        "part": "coordinate",
        "side": side,
        "rank": rank + 1,
        "coordinate": place,
        "component": float(direction[place]),
    }


def _named(against: LoadedModel | Result | KnownSignature | None) -> str:
    if isinstance(against, KnownSignature):
        return against.model
    return str(against.subject.get("name", "")) if isinstance(against, Result) else getattr(against, "spec", "")


def _between_halves(found: HighNorms) -> float:
    """Return the angle of the directions at even and odd prompts, nan where a half has no long vector."""
    long = found.norms > found.tau
    odd = torch.from_numpy(found.prompt % 2 == 1)
    halves = [found.states[side][long[side]] for side in (odd, ~odd)]
    return acute_angle(*(half.mean(dim=0) for half in halves)) if all(len(half) for half in halves) else math.nan
