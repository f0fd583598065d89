"""What does the head make of the states it was given, when it is asked again in other shapes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.last_states import LastStates, Prompt, check_prompts, generated, largest, word
from stabilitykit.measurements.lens import lens_rows, settled_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.bits import bits_equal, ulp_distance
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead, norm_and_head

Row = Mapping[str, Any]

ALONE, TOGETHER, DOTS, EXACT = "alone", "together", "dots", "float64"
WAYS = (ALONE, TOGETHER, DOTS, EXACT)


@dataclass(frozen=True, eq=False)
class HeadReplay(Measurement[LoadedModel]):
    """Keep the states that the head read at each of `tokens` tokens of each prompt, and redo the head on them here.

    Ways: `alone`, the head again on one state, in the shape it had, which must give the same bits; `together`, on all
    states of a text in one call; `dots`, one dot product for each of the first two tokens, as the study redid them;
    `float64`, their difference summed exactly. The margin is the first token's logit less the second's; a way flips a
    token where its largest logit is another one (for the last two: where the order of the two turns, ties go to the
    lower id). `below` counts margins under `near`, where the order is easily another one's on another machine.

    The logit lens reads what each block returns through the final norm and the two rows: `ahead` is the first token's
    logit less the second's there, `ahead_raw` without the norm, as the study has it, and `settled` the block from which
    on the first stays ahead. Rows (`part`): replay, a row a position and way; stage; settled, a row a position; way.
    Arrays: `margins` (ways + 1, N), the model's first; `ahead` (N, blocks).

    Verdict `differs` where the same call gives other bits. Logits are the head's own, before a cap or scale behind it.
    UnsupportedError for a head without a matrix of the state's width. Cost: one forward a token, and the head twice.
    Source: part 7 of experiment 8.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 16
    near: float = 0.01

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("flips", "tokens", "lower", "tokens that some way of redoing the head changes"),
        Metric("differing_positions", "tokens", "lower", "tokens for which the same call of the head gives other bits"),
        Metric("differing_together", "tokens", "lower", "tokens whose logits have other bits in one call with others"),
        Metric("max_ulp", "ULP", "lower", "largest difference of a logit between the model's head and any way"),
        Metric("below", "tokens", "lower", "tokens whose margin is below `near`"),
        Metric("min_margin", "logit", "higher", "smallest margin of the two first tokens"),
        Metric("max_margin_change", "logit", "lower", "largest change of a margin between the model's head and a way"),
        Metric("median_settled", "block", "neither", "block from which on the token taken stays ahead, the median"),
        Metric("positions", "tokens", "neither", "tokens that were generated"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "a matrix product whose order of summing depends on the number of rows",
        "a head that keeps a state of its own, or draws numbers",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, tokens=self.tokens)

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a token; less where a text ends early."""
        return Cost(forwards=len(self.prompts) * self.tokens)

    def find(self, subject: LoadedModel) -> Finding:
        """Generate, and redo the head."""
        tool = norm_and_head(subject)
        replays: list[Row] = []
        stages: list[Row] = []
        with bar(len(self.prompts), "head", "prompt") as progress:
            for states in generated(subject, tool, self.prompts, self.tokens, stream=True):
                replays += _replays(subject, tool, states)
                stages += lens_rows(subject, tool, states)
                progress.update()
        settled = settled_rows(stages)
        margins = np.array([[row["margin"] for row in replays if row["way"] == ALONE]])
        here = [[row["margin_here"] for row in replays if row["way"] == way] for way in WAYS]
        ahead = [row["ahead"] for row in stages]
        return Finding(
            self._values(replays, settled),
            self._sentence(replays),
            verdict="differs" if any(not row["bit_equal"] for row in _of(replays, ALONE)) else "measured",
            rows=(*replays, *_ways(replays), *settled, *stages),
            arrays={
                "margins": np.concatenate([margins, np.array(here)]),
                "ahead": np.array(ahead).reshape(len(settled), -1) if settled else np.zeros((0, 0)),
            },
            worst=_worst(replays),
        )

    def _values(self, replays: Sequence[Row], settled: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        whole = [row for row in replays if row["max_ulp"] is not None]
        values: dict[str, float | Reading] = {
            "differing_positions": sum(not row["bit_equal"] for row in _of(replays, ALONE)),
            "differing_together": sum(not row["bit_equal"] for row in _of(replays, TOGETHER)),
            "flips": len({(row["number"], row["position"]) for row in replays if not row["same_token"]}),
            "below": sum(row["margin"] < self.near for row in _of(replays, ALONE)),
            "positions": len(_of(replays, ALONE)),
        }
        if settled:
            values["median_settled"] = float(np.median([row["settled"] for row in settled]))
        extremes = {
            "max_ulp": (max(whole, key=lambda row: row["max_ulp"]), "max_ulp"),
            "min_margin": (min(replays, key=lambda row: row["margin"]), "margin"),
            "max_margin_change": (max(replays, key=lambda row: row["margin_change"]), "margin_change"),
        }
        for name, (row, column) in extremes.items():
            place = {"prompt": row["prompt"], "token": str(row["position"]), "way": row["way"]}
            values[name] = Reading(schema[name], row[column], place=place)
        return values

    def _sentence(self, replays: Sequence[Row]) -> str:
        alone = _of(replays, ALONE)
        again = sum(row["bit_equal"] for row in alone)
        flips = len({(row["number"], row["position"]) for row in replays if not row["same_token"]})
        below = sum(row["margin"] < self.near for row in alone)
        together = sum(row["bit_equal"] for row in _of(replays, TOGETHER))
        return (
            f"Redone on the same states the head gives the same bits for {again} of {len(alone)} tokens, and for "
            f"{together} in one call with others; some way of redoing it changes {flips}, and {below} margins are "
            f"below {self.near:g}."
        )


def against(recorded: Tensor, found: Tensor) -> dict[str, Any]:
    """Return whether logits have the same bits, and how many ULP they are apart at the most."""
    return {"bit_equal": bits_equal(recorded, found), "max_ulp": int(ulp_distance(recorded, found).max())}


def _of(replays: Sequence[Row], way: str) -> list[Row]:
    return [row for row in replays if row["way"] == way]


def _replays(loaded: LoadedModel, tool: NormAndHead, states: LastStates) -> Iterator[Row]:
    """Yield a row for each position and way of redoing the head."""
    together = tool.logits_of(states.after)
    for row, recorded in enumerate(states.logits):
        first, second = largest(recorded, 2)
        margin = float(recorded[first].double() - recorded[second].double())
        for way, logits in ((ALONE, tool.logits(states.after[row])), (TOGETHER, together[row])):
            said = largest(logits, 1)[0]
            here = float(logits[first].double() - logits[second].double())
            yield _row(loaded, states, row, (way, first, second, said), (margin, here), against(recorded, logits))
        for way, here in (
            (DOTS, _dots(tool, states.after[row], first, second)),
            (EXACT, tool.preference(states.after[row], first, second)[0]),
        ):
            said = first if here > 0 else second if here < 0 else min(first, second)
            unknown = {"bit_equal": None, "max_ulp": None}
            yield _row(loaded, states, row, (way, first, second, said), (margin, here), unknown)


def _dots(tool: NormAndHead, state: Tensor, first: int, second: int) -> float:
    """Return the difference of two dot products in the head's dtype, each rounded, on its device."""
    products = [torch.dot(tool.weight[token], state.to(tool.weight)).double().cpu() for token in (first, second)]
    _, bias = tool.rows((first, second))
    return float(products[0] + bias[0] - products[1] - bias[1])


def _row(
    loaded: LoadedModel,
    states: LastStates,
    row: int,
    names: tuple[str, int, int, int],
    margins: tuple[float, float],
    bits: Mapping[str, Any],
) -> Row:
    way, first, second, said = names
    return {
        "part": "replay",
        **states.place(row),
        "way": way,
        "token_id": first,
        "token": word(loaded, first),
        "second_id": second,
        "second": word(loaded, second),
        "token_here": said,
        "same_token": said == first,
        **bits,
        "margin": margins[0],
        "margin_here": margins[1],
        "margin_change": abs(margins[1] - margins[0]),
    }


def _ways(replays: Sequence[Row]) -> Iterator[Row]:
    """Yield what each way makes of all positions."""
    for way in WAYS:
        rows = _of(replays, way)
        known = [row for row in rows if row["max_ulp"] is not None]
        yield {
            "part": "way",
            "way": way,
            "positions": len(rows),
            "flips": sum(not row["same_token"] for row in rows),
            "differing": sum(not row["bit_equal"] for row in known) if known else None,
            "max_ulp": max(row["max_ulp"] for row in known) if known else None,
            "max_margin_change": max(row["margin_change"] for row in rows),
            "rms_margin_change": float(np.sqrt(np.mean([row["margin_change"] ** 2 for row in rows]))),
        }


def _worst(replays: Sequence[Row]) -> Worst:
    row = max(replays, key=lambda row: (not row["same_token"], row["margin_change"]))
    where = f"token {row['position']} of {row['prompt']!r}"
    return Worst(where, "the model's margin", f"{row['margin']:.6g}", row["way"], f"{row['margin_here']:.6g}")
