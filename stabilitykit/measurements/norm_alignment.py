"""What does the final norm do to the tokens at the top: does it turn the state towards another one?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.last_states import LastStates, Prompt, check_prompts, generated, largest, word
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.alignment import alignment
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead, norm_and_head

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class NormAlignment(Measurement[LoadedModel]):
    """At each of `tokens` tokens that follow each prompt, hold the rows of the `top` logits against the last state.

    Cosine, angle (degrees) and product of each row with the state before the final norm and after it, in float64, from
    the states that the greedy generation computed. A norm that only scales changes no angle; its gains, one a
    component, do. `changed` positions are those whose nearest row (largest cosine) is another one after the norm.

    Rows (`part`): position; token, a row for each of the `top`; rank, over all positions. Arrays: `angle_before` and
    `angle_after` (N, top). Readings are over all positions. UnsupportedError for a head without a matrix of the state's
    width. Cost: one forward a token. Source: part 3 of experiment 8.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 16
    top: int = 5

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "ranking_changed", "positions", "neither", "positions whose nearest token is another one after the norm"
        ),
        Metric("ranking_changed_share", "share", "neither", "the same over all positions"),
        Metric("mean_angle_change", "degree", "neither", "mean change of the angle to the largest logit's row"),
        Metric("max_angle_change", "degree", "neither", "largest change of an angle, either way"),
        Metric("nearest_is_chosen_before", "share", "neither", "positions whose nearest row, before, is the token's"),
        Metric("nearest_is_chosen_after", "share", "neither", "positions whose nearest row, after, is the token's"),
        Metric("positions", "tokens", "neither", "tokens that were generated"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = ("gains of the final norm that differ widely between components",)

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, tokens=self.tokens)
        if self.top < 2:
            raise UsageError(f"top={self.top} leaves nothing to rank; give at least 2")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a token; less where a text ends early."""
        return Cost(forwards=len(self.prompts) * self.tokens)

    def find(self, subject: LoadedModel) -> Finding:
        """Generate, and hold the rows against the states."""
        tool = norm_and_head(subject)
        tokens: list[Row] = []
        with bar(len(self.prompts), "alignment", "prompt") as progress:
            for states in generated(subject, tool, self.prompts, self.tokens):
                tokens += self._tokens(subject, tool, states)
                progress.update()
        size = min(self.top, len(tool.weight))
        groups = [tokens[k : k + size] for k in range(0, len(tokens), size)]
        positions = [_position(group) for group in groups]
        before, after = (
            np.array([[row[name] for row in group] for group in groups]) for name in ("angle_before", "angle_after")
        )
        return Finding(
            self._values(positions, tokens),
            _sentence(positions, after - before),
            rows=(*positions, *tokens, *_ranks(groups)),
            arrays={"angle_before": before, "angle_after": after},
        )

    def _tokens(self, subject: LoadedModel, tool: NormAndHead, states: LastStates) -> Iterator[Row]:
        for row, logits in enumerate(states.logits):
            ids = largest(logits, self.top)
            W, bias = tool.rows(ids)
            for k, found in enumerate(alignment(W, bias, states.before[row], states.after[row])):
                yield {
                    "part": "token",
                    **states.place(row),
                    "rank": k + 1,
                    "token_id": ids[k],
                    "token": word(subject, ids[k]),
                    **found,
                }

    def _values(self, positions: Sequence[Row], tokens: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        turned = max(tokens, key=lambda row: abs(row["angle_change"]))
        place = {"prompt": turned["prompt"], "token": str(turned["position"])}
        changed = [row["ranking_changed"] for row in positions]
        return {
            "ranking_changed": sum(changed),
            "ranking_changed_share": sum(changed) / len(changed),
            "mean_angle_change": math.fsum(row["angle_change"] for row in positions) / len(positions),
            "max_angle_change": Reading(schema["max_angle_change"], abs(turned["angle_change"]), place=place),
            **{
                f"nearest_is_chosen_{when}": sum(row[f"nearest_{when}"] == row["token_id"] for row in positions)
                / len(positions)
                for when in ("before", "after")
            },
            "positions": len(positions),
        }


def _position(group: Sequence[Row]) -> Row:
    """Return what happens at one position: of the row of the token taken, and which rows are nearest."""
    first = group[0]
    nearest = {when: next(row for row in group if row[f"rank_{when}"] == 1) for when in ("before", "after")}
    return {
        **{name: value for name, value in first.items() if not name.startswith("rank")},
        "part": "position",
        **{f"nearest_{when}": row["token_id"] for when, row in nearest.items()},
        **{f"nearest_{when}_word": row["token"] for when, row in nearest.items()},
        "ranking_changed": nearest["before"]["token_id"] != nearest["after"]["token_id"],
    }


def _ranks(groups: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield the means of each rank over all positions; sd with n - 1, nan for one position."""
    for k in range(len(groups[0])):
        rows = [group[k] for group in groups]
        change = np.array([row["angle_change"] for row in rows])
        yield {
            "part": "rank",
            "rank": k + 1,
            "positions": len(rows),
            "mean_angle_change": float(change.mean()),
            "sd_angle_change": float(change.std(ddof=1)) if len(rows) > 1 else math.nan,
            **{
                f"mean_{name}": math.fsum(row[name] for row in rows) / len(rows)
                for name in ("angle_before", "angle_after", "cosine_before", "cosine_after")
            },
        }


def _sentence(positions: Sequence[Row], changes: Any) -> str:
    changed = sum(row["ranking_changed"] for row in positions)
    return (
        f"The final norm changes which of the first tokens is nearest at {changed} of {len(positions)} positions; the "
        f"angle to the token taken changes by {float(changes[:, 0].mean()):+.3g} degrees on average."
    )
