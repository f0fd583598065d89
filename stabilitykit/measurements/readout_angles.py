"""How does the last state stand to the rows of the head: at which angles, and how far from saying something else?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.decision_planes import Planes, planes
from stabilitykit.measurements.last_states import LastStates, Prompt, check_prompts, generated, largest, word
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.alignment import alignment
from stabilitykit.numerics.distribution import distribution
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead, norm_and_head

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ReadoutAngles(Measurement[LoadedModel]):
    """At each of `tokens` tokens that follow each prompt, the angles of the last state to the rows at some ranks.

    The angle, in degrees, between the state (before the final norm, and after it, as the head reads it) and the row of
    the one token at each of `ranks` in the order of the logits. The distance to the decision plane of the first two is
    (z1 - z2) / |w1 - w2|, with the bias: how far the head's input must move for a tie. `nearest_distance` is the
    smallest (z1 - z_r) / |w1 - w_r| of all tokens r, which need not be the second's; rows equal to the first are left
    out. Logits are differences of exact sums in float64, so that a negative distance says that the model's own rounding
    chose the other token. From the states that the greedy generation computed.

    Rows (`part`): position; angle, a row a rank; rank, over all positions. Arrays: `angle_before` and `angle_after`
    (N, ranks), `distance` and `nearest_distance` (N,), in the unit of the state. Readings: medians over positions, and
    the smallest distance. UnsupportedError for a head without a matrix of the state's width, or a smaller vocabulary.
    Cost: one forward a token; 2 V d products a token. Source: part 7a of experiment 4.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 16
    ranks: Sequence[int] = (1, 2, 3, 10, 100)

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("min_distance", "state", "higher", "smallest distance of a state to the plane of its two first tokens"),
        Metric("min_nearest_distance", "state", "higher", "smallest distance of a state to any token's plane"),
        Metric("min_relative_distance", "ratio", "higher", "the same over the length of the state"),
        Metric("nearer_than_second", "positions", "neither", "positions where a token behind the second is nearer"),
        Metric("positions", "tokens", "neither", "tokens that were generated"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = ("two tokens whose rows are nearly parallel", "a prompt that leaves much open")

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, tokens=self.tokens)
        if not self.ranks or list(self.ranks) != sorted(set(self.ranks)) or self.ranks[0] < 1:
            raise UsageError(f"ranks {list(self.ranks)!r} must rise from at least 1")

    def schema(self) -> tuple[Metric, ...]:
        """Return the median angles at each rank, and the distances."""
        angles = [
            Metric(f"{name}_{rank}", "degree", "neither", f"median angle to the row at rank {rank}, {when}")
            for name, when in (("angle", "as the head reads it"), ("angle_before", "before the final norm"))
            for rank in self.ranks
        ]
        return (*angles, *self.metrics)

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a token; less where a text ends early."""
        return Cost(forwards=len(self.prompts) * self.tokens)

    def find(self, subject: LoadedModel) -> Finding:
        """Generate, and take angles and distances."""
        tool = norm_and_head(subject)
        if self.ranks[-1] > len(tool.weight):
            raise UnsupportedError(f"{subject.spec} has {len(tool.weight)} tokens, none at rank {self.ranks[-1]}")
        positions: list[Row] = []
        angles: list[Row] = []
        with bar(len(self.prompts), "angles", "prompt") as progress:
            for states in generated(subject, tool, self.prompts, self.tokens):
                positions += _positions(subject, states, planes(tool, states.after, states.logits))
                angles += self._angles(subject, tool, states)
                progress.update()
        before, after = (
            np.array([row[name] for row in angles]).reshape(-1, len(self.ranks))
            for name in ("angle_before", "angle_after")
        )
        return Finding(
            self._values(positions, before, after),
            self._sentence(positions, before, after),
            rows=(*positions, *angles, *self._ranks(before, after)),
            arrays={
                "angle_before": before,
                "angle_after": after,
                **{name: np.array([row[name] for row in positions]) for name in ("distance", "nearest_distance")},
            },
        )

    def _angles(self, subject: LoadedModel, tool: NormAndHead, states: LastStates) -> Iterator[Row]:
        for row, logits in enumerate(states.logits):
            order = largest(logits, self.ranks[-1])
            ids = [order[rank - 1] for rank in self.ranks]
            W, bias = tool.rows(ids)
            for k, found in enumerate(alignment(W, bias, states.before[row], states.after[row])):
                yield {
                    "part": "angle",
                    **states.place(row),
                    "rank": self.ranks[k],
                    "token_id": ids[k],
                    "token": word(subject, ids[k]),
                    **{name: value for name, value in found.items() if not name.startswith("rank")},
                }

    def _ranks(self, before: Any, after: Any) -> Iterator[Row]:
        """Yield how the angles of a rank are spread over all positions, with the tails."""
        for name, angles in (("before", before), ("after", after)):
            for k, rank in enumerate(self.ranks):
                values = angles[:, k]
                q95, q99 = np.quantile(values, (0.95, 0.99)).tolist()
                yield {
                    "part": "rank",
                    "state": name,
                    "rank": rank,
                    **distribution(values.tolist()),
                    "q95": q95,
                    "q99": q99,
                }

    def _values(self, positions: Sequence[Row], before: Any, after: Any) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        values: dict[str, float | Reading] = {"positions": len(positions)}
        for k, rank in enumerate(self.ranks):
            values[f"angle_{rank}"] = float(np.median(after[:, k]))
            values[f"angle_before_{rank}"] = float(np.median(before[:, k]))
        for name in ("distance", "nearest_distance", "relative_distance"):
            row = min(positions, key=itemgetter(name))
            place = {"prompt": row["prompt"], "token": str(row["position"])}
            values[f"min_{name}"] = Reading(schema[f"min_{name}"], row[name], place=place)
        values["nearer_than_second"] = sum(row["nearest_id"] != row["second_id"] for row in positions)
        return values

    def _sentence(self, positions: Sequence[Row], before: Any, after: Any) -> str:
        first, last = (float(np.median(after[:, k])) for k in (0, -1))
        first_before, last_before = (float(np.median(before[:, k])) for k in (0, -1))
        least = min(positions, key=itemgetter("nearest_distance"))
        return (
            f"The state that the head reads stands at {first:.3g} degrees to the row of rank {self.ranks[0]} and at "
            f"{last:.3g} to that of rank {self.ranks[-1]} (medians; before the norm {first_before:.3g} and "
            f"{last_before:.3g}); the nearest tie is {least['nearest_distance']:.3g} away, "
            f"{least['relative_distance']:.2g} of the state's length."
        )


def _positions(subject: LoadedModel, states: LastStates, found: Planes) -> Iterator[Row]:
    for row in range(len(states.logits)):
        first, second, nearest = (int(ids[row]) for ids in (found.first, found.second, found.nearest))
        length = float(torch.linalg.vector_norm(states.after[row].double()))
        yield {
            "part": "position",
            **states.place(row),
            "token_id": first,
            "token": word(subject, first),
            "second_id": second,
            "second": word(subject, second),
            "margin": float(found.margin[row]),
            "distance": float(found.distance[row]),
            "nearest_id": nearest,
            "nearest": word(subject, nearest),
            "nearest_distance": float(found.nearest_distance[row]),
            "relative_distance": float(found.nearest_distance[row]) / length if length else 0.0,
            "length": length,
        }
