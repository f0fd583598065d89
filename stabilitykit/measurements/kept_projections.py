"""Is a quantised model better if the down-projections of blocks with exploding tokens stay as they are?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.high_norms import Prompt, check_prompts, high_norms, read
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.integer_grid import Scale
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.fake_quantised import FakeQuantised
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.residual_block import ResidualBlocks

Row = dict[str, Any]

PLAIN, ALL, KEPT, MAIN = "plain", "all rounded", "blocks with a role kept", "explosion and decay kept"


@dataclass(frozen=True, eq=False)
class KeptProjections(Measurement[LoadedModel]):
    """Round weights and inputs of all matrices of the blocks to `bits` and keep some down-projections: perplexity.

    Perplexity is exp of the mean -ln p of each token behind the first of a text, over all `texts`. The grid has one
    scale a tensor, or with per="row" one for each output of a weight and each token of an input. Kept are the
    down-projections of the blocks with a role (see SingularDefects, on the same texts), or those of `keep`; of the
    largest explosion and its decay alone; and, as a control, those of as many blocks without a role, drawn `controls`
    times. `recovered` = (loss of all rounded - loss kept) / (loss of all rounded - plain loss), losses being ln of
    perplexities, and nan where rounding loses nothing; `chance` = (1 + controls that end as low) / (1 + controls). A
    fake: numbers are rounded, but the arithmetic stays that of the model's dtype, and its weights are never touched.

    Rows (`part`): kept, one a choice. UnsupportedError without long tokens, unless `keep` is given, and for blocks of
    another build. Cost: a forward a text for each choice and one more. Memory: a copy of the blocks' weights. Source:
    Wang et al., Singular defects (arXiv 2502.07004), section on quantisation; the controls are ours.
    """

    texts: Sequence[Prompt] = ()
    bits: int = 8
    per: Scale = "tensor"
    keep: Sequence[int] | None = None
    controls: int = 8
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("perplexity", "", "lower", "perplexity of the texts, the model as it is"),
        Metric("rounded_perplexity", "", "lower", "the same with all matrices of the blocks on the grid"),
        Metric("kept_perplexity", "", "lower", "the same with the down-projections of blocks with a role kept"),
        Metric("main_perplexity", "", "lower", "the same with those of the largest explosion and decay kept"),
        Metric("control_perplexity", "", "neither", "median of keeping as many others"),
        Metric("recovered", "share", "higher", "part of the loss that keeping the blocks with a role takes back"),
        Metric("control_recovered", "share", "neither", "median of what keeping as many others takes back"),
        Metric("chance", "probability", "lower", "how often others take back as much; at least 1 / (1 + controls)"),
        Metric("predicted_tokens", "tokens", "neither", "tokens that the perplexity is over"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "other layers than the down-projections lose more, such as attention's inputs",
        "few texts: a perplexity over some dozens of tokens is rough",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.texts, None)
        if self.bits not in range(2, 17):
            raise UsageError(f"bits={self.bits} is no grid of small integers; give 2 to 16")
        if self.per not in ("tensor", "row"):
            raise UsageError(f"per={self.per!r} is not one of tensor, row; choose one of these")
        if self.controls < 1:
            raise UsageError(f"controls={self.controls} is too few; give at least 1")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a text for each choice, and for the norms."""
        return Cost(forwards=len(self.texts) * (self.controls + 5) + 1)

    def find(self, subject: LoadedModel) -> Finding:
        """Read the roles, and take the perplexity of each choice."""
        blocks = ResidualBlocks(subject)
        states, ids = read(blocks, self.texts)
        if sum(len(one) > 1 for one in ids) == 0:
            raise UsageError("no text has a second token to predict; give longer texts")
        choices = self._choices(blocks, states, ids)
        model = FakeQuantised(subject, blocks.anatomy, self.bits, self.per)
        down = {number: blocks.down_projection_name(number) for number in range(len(blocks))}
        rows = [_row(PLAIN, (), _loss(model, ids, model.names))]
        with bar(len(choices), "quantised", "choice") as progress:
            for name, kept in choices:
                rows.append(_row(name, kept, _loss(model, ids, {down[number] for number in kept})))
                progress.update()
        for row in rows:
            row["over_plain"] = row["perplexity"] / rows[0]["perplexity"]
        values = _values(rows, sum(len(one) - 1 for one in ids))
        return Finding(values, _sentence(values, rows, self.bits), rows=tuple(rows))

    def _choices(
        self, blocks: ResidualBlocks, states: torch.Tensor, ids: Sequence[Sequence[int]]
    ) -> list[tuple[str, tuple[int, ...]]]:
        if self.keep is None:
            found = high_norms(states, ids)
            kept = tuple(sorted(found.roles()))
            main = tuple(block for block in found.main() if block is not None)
        else:
            kept = main = tuple(self.keep)
        if unknown := set(kept) - set(range(len(blocks))):
            raise UsageError(f"keep={list(kept)} names block {min(unknown)}; this model has 0 to {len(blocks) - 1}")
        rest = [number for number in range(len(blocks)) if number not in kept]
        random = np.random.Generator(np.random.PCG64(self.seed))
        count = min(len(kept), len(rest))
        drawn = [tuple(sorted(map(int, random.choice(rest, count, replace=False)))) for _ in range(self.controls)]
        return [(ALL, ()), (KEPT, kept), (MAIN, main), *((f"control {k + 1}", one) for k, one in enumerate(drawn))]


def _row(name: str, kept: Sequence[int], loss: float) -> Row:
    return {
        "part": "kept",
        "choice": name,
        "kept": ", ".join(map(str, kept)),
        "count": len(kept),
        "loss": loss,
        "perplexity": math.exp(loss),
    }


def _loss(model: FakeQuantised, ids: Sequence[Sequence[int]], kept: Collection[str]) -> float:
    """Return the mean -ln p of all tokens behind the first of each text, in nats."""
    total, count = 0.0, 0
    for one in ids:
        tokens = torch.tensor([list(one)])
        told = model.logits(tokens, kept)[:-1].double().log_softmax(dim=1)
        total -= float(told.gather(1, tokens[0, 1:, None]).sum())
        count += len(one) - 1
    return total / count


def _values(rows: Sequence[Row], tokens: int) -> dict[str, float]:
    named = {row["choice"]: row for row in rows}
    lost = named[ALL]["loss"] - named[PLAIN]["loss"]

    def recovered(row: Row) -> float:
        return float((named[ALL]["loss"] - row["loss"]) / lost) if lost > 0 else math.nan

    controls = [row for row in rows if row["choice"].startswith("control")]
    return {
        "perplexity": named[PLAIN]["perplexity"],
        "rounded_perplexity": named[ALL]["perplexity"],
        "kept_perplexity": named[KEPT]["perplexity"],
        "main_perplexity": named[MAIN]["perplexity"],
        "control_perplexity": float(np.median([row["perplexity"] for row in controls])),
        "recovered": recovered(named[KEPT]),
        "control_recovered": float(np.median([recovered(row) for row in controls])),
        "chance": (1 + sum(row["loss"] <= named[KEPT]["loss"] for row in controls)) / (1 + len(controls)),
        "predicted_tokens": tokens,
    }


def _sentence(values: Mapping[str, float], rows: Sequence[Row], bits: int) -> str:
    kept = next(row for row in rows if row["choice"] == KEPT)
    return (
        f"Rounding all matrices of the blocks to {bits} bits takes the perplexity from {values['perplexity']:.4g} to "
        f"{values['rounded_perplexity']:.4g}. Keeping the down-projections of block{'s' * (kept['count'] != 1)} "
        f"{kept['kept']} takes it to {values['kept_perplexity']:.4g}, keeping as many others to "
        f"{values['control_perplexity']:.4g} in the median."
    )
