"""Which blocks' rounding changes tokens, and are they those with long tokens, attention sinks or low-rank heads?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.carried_errors import Judged, judged
from stabilitykit.measurements.carriers import (
    CARRIED,
    LongTokens,
    carrier_rows,
    link_rows,
    long_tokens,
    ranks_of_heads,
)
from stabilitykit.measurements.last_states import Prompt, check_prompts, named, word
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.statistics import wilson
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.exact_blocks import ExactBlocks
from stabilitykit.subjects.generation import Text
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.stored import Checkpoint

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class BlockFlips(Measurement[LoadedModel]):
    """Give the true-float64 twin of a model the rounding error of one block alone, and see which tokens change.

    Each prompt is continued greedily by `tokens` tokens and then read at once. Block K's own error, at every token, is
    e_K = B_K(x_K) - B64_K(x_K): what it returned in the model less what its float64 twin returns on the same state.
    The twin then runs from the same first state, without error, with e_K behind block K for each K, and with all. A
    *flip* of block K is a position whose largest logit is another token's than without error (equal ones by id);
    `flip_share` = flips / positions. `variance_share` is the block's part of the sum over blocks and positions of the
    squared change of the margin, first logit less second. All positions but the first of a text are judged.
    With all errors the twin reaches the model's own last state: the errors are all there are. It is checked, to 1e-6.
    All blocks' errors are carried once more at the long tokens alone, and at all other tokens (see SingularDefects).

    Next to it, of the same texts: `ulp_over_median` (largest ULP of a coordinate behind the block over the median norm
    there), `growth` of long tokens and `role` as in SingularDefects, `sink` (weight of the first token in the block's
    attention) and `head_rank` (smallest entropy rank of any head's Q or K). Rows (`part`): layer, link (Spearman's
    correlation of each with flips, margin and error, permutation p, and with the depth held fixed), flip. nan where a
    model has none of them. Arrays: `change` (L + 1 or L + 3, N), the margin's
    change by each block, by all, at long tokens and at others; `margin` (N,).

    UnsupportedError without a twin. Cost a prompt: a forward a token, 1 more, and L + 7 in float64. Source: ours.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 16
    shuffles: int = 1999
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("flips_of_blocks", "tokens", "lower", "positions that some single block's rounding changes"),
        Metric("flips_together", "tokens", "lower", "positions that the rounding of all blocks changes"),
        Metric("flips_of_long", "tokens", "lower", "positions that the rounding of the long tokens' states changes"),
        Metric("flips_of_others", "tokens", "lower", "positions that the rounding of all other tokens' states changes"),
        Metric("long_variance_share", "share", "neither", "part of the margin's error that comes from long tokens"),
        Metric("flips_of_model", "tokens", "lower", "positions at which the model itself says another token"),
        Metric("max_flip_share", "probability", "lower", "share of positions that the worst block changes"),
        Metric("max_variance_share", "share", "lower", "largest part of the margin's error that one block has"),
        Metric("role_variance_share", "share", "neither", "part that blocks with an explosion or decay have together"),
        Metric("role_block_share", "share", "neither", "share of the blocks that have such a role"),
        *(Metric(f"link_{name}", "", "neither", f"rank correlation of variance_share with {name}") for name in CARRIED),
        Metric("positions", "tokens", "neither", "positions that were judged"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "a dtype with few bits: nearly tied tokens change with any rounding",
        "a block that computes in another precision than the others, or whose states are far larger",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, tokens=self.tokens, shuffles=self.shuffles)

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the rows of both models, and those of the twin's self-test."""
        blocks = subject.model.config.get_text_config().num_hidden_layers
        return Cost(forwards=len(self.prompts) * (self.tokens + blocks + 8))

    def find(self, subject: LoadedModel) -> Finding:
        """Continue the prompts, carry each block's error, and look what goes with it."""
        anatomy = find(subject.model)
        texts = [Text(subject, prompt, self.tokens, anatomy, listens=False) for prompt in self.prompts]
        tool = ExactBlocks(subject, texts[0].ids)
        passed = [tool.passed(_said(text)) for text in texts]
        if max(len(one.states[0]) for one in passed) < 2:
            raise UsageError("no text has a second token; give longer prompts, or more tokens")
        long = long_tokens(passed)
        read: list[Judged] = []
        with bar(len(texts), "block flips", "prompt") as progress:
            for number, one in enumerate(passed):
                read.append(judged(tool, one, None if long is None else long.of(number)))
                progress.update()
        layers = self._layers(subject, tool, read, long)
        links = link_rows(layers, self.shuffles, self.seed)
        change = torch.cat([one.change for one in read], dim=1)
        values = self._values(layers, links, read)
        return Finding(
            values,
            _sentence(layers, values),
            rows=(*layers, *links, *_flip_rows(subject, self.prompts, read)),
            arrays={"change": change.numpy(), "margin": torch.cat([one.margin for one in read]).numpy()},
            worst=_worst(layers),
        )

    def _layers(
        self, subject: LoadedModel, tool: ExactBlocks, read: Sequence[Judged], long: LongTokens | None
    ) -> list[Row]:
        blocks = tool.anatomy.layers
        change, flips = (
            torch.cat([getattr(one, name)[:blocks] for one in read], dim=1) for name in ("change", "flips")
        )
        squares = change.square().sum(dim=1)
        total = float(squares.sum())
        rows: list[Row] = []
        carriers = carrier_rows(tool, [one.passed for one in read], long)
        ranks = ranks_of_heads(Checkpoint.of(subject), len(change))
        own = torch.cat([one.relative for one in read], dim=1).median(dim=1).values
        for number, carrier in enumerate(carriers):
            rows.append(
                {
                    "part": "layer",
                    "block": number,
                    "flips": int(flips[number].sum()),
                    "flip_share": float(flips[number].double().mean()),
                    "margin_change": float(change[number].abs().median()),
                    "variance_share": float(squares[number]) / total if total else 0.0,
                    "own_error": float(own[number]),
                    **carrier,
                    "head_rank": ranks[number],
                }
            )
        return rows

    def _values(
        self, layers: Sequence[Row], links: Sequence[Row], read: Sequence[Judged]
    ) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        blocks = len(layers)
        flips = torch.cat([one.flips for one in read], dim=1)
        squares = torch.cat([one.change for one in read], dim=1).square().sum(dim=1).tolist()
        worst, largest = (max(layers, key=lambda row: float(row[name])) for name in ("flip_share", "variance_share"))
        roles = [row for row in layers if row["role"]]
        count = flips.shape[1]
        found = {row["carrier"]: row["spearman"] for row in links if row["effect"] == "variance_share"}
        return {
            "flips_of_blocks": int(flips[:blocks].any(dim=0).sum()),
            "flips_together": int(flips[blocks].sum()),
            **_at_long(flips[blocks + 1 :], squares[blocks + 1 :]),
            "flips_of_model": sum(int(one.said.sum()) for one in read),
            "max_flip_share": Reading(
                schema["max_flip_share"],
                worst["flip_share"],
                *wilson(worst["flips"], count),
                place={"layer": str(worst["block"])},
            ),
            "max_variance_share": Reading(
                schema["max_variance_share"], largest["variance_share"], place={"layer": str(largest["block"])}
            ),
            "role_variance_share": math.fsum(row["variance_share"] for row in roles),
            "role_block_share": len(roles) / len(layers),
            **{f"link_{name}": found.get(name, math.nan) for name in CARRIED},
            "positions": count,
        }


def _at_long(flips: Tensor, squares: Sequence[float]) -> dict[str, float]:
    """Return what the errors at long tokens, and those at all others, do; nothing where there are no long tokens."""
    if not len(flips):
        return {}
    counts = {name: int(row.sum()) for name, row in zip(("flips_of_long", "flips_of_others"), flips, strict=True)}
    return {**counts, "long_variance_share": squares[0] / math.fsum(squares) if any(squares) else 0.0}


def _said(text: Text) -> list[int]:
    """Return what the model reads until it says its last token."""
    steps = sum(1 for _ in text.greedy())
    return [*text.ids, *text.generated[: steps - 1]]


def _flip_rows(subject: LoadedModel, prompts: Sequence[Prompt], read: Sequence[Judged]) -> list[Row]:
    rows: list[Row] = []
    for number, one in enumerate(read):
        for block, position in one.flips[: len(one.errors)].nonzero().tolist():
            other = int(one.others[block, position])
            rows.append(
                {
                    "part": "flip",
                    "prompt": named(prompts[number]),
                    "number": number,
                    "position": position + 1,
                    "changed_by": block,
                    "margin": float(one.margin[position]),
                    "other_id": other,
                    "other": word(subject, other),
                    "in_model": bool(one.said[position]),
                }
            )
    return rows


def _worst(layers: Sequence[Row]) -> Worst:
    row = max(layers, key=lambda row: (row["flips"], row["variance_share"]))
    return Worst(f"block {row['block']}", "flips", str(row["flips"]), "share", f"{row['variance_share']:.3g}")


def _sentence(layers: Sequence[Row], values: Mapping[str, Any]) -> str:
    worst = max(layers, key=lambda row: (row["flips"], row["variance_share"]))
    said = (
        f"Of {values['positions']} positions the rounding of all blocks changes {values['flips_together']}, that of "
        f"single blocks {values['flips_of_blocks']}; block {worst['block']} alone {worst['flips']}, with "
        f"{worst['variance_share']:.0%} of the margin's error."
    )
    if not values["role_block_share"]:
        return f"{said} No block makes tokens explode or decay."
    return (
        f"{said} The {values['role_block_share']:.0%} of blocks where tokens explode or decay have "
        f"{values['role_variance_share']:.0%} of it."
    )
