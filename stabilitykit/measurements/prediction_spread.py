"""How spread out is a prediction: how many components of the last state does the next token need?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import torch

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.last_states import LastStates, Prompt, check_prompts, whole, word
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.spread_rows import component_rows, grandmother_rows, spread_row, top_rows
from stabilitykit.numerics.components import Curve, curve
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.generation import Text, first_largest
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead, norm_and_head

Row = Mapping[str, Any]

ROOM = 64
"""ULP of the products' sizes that a head's logit may be away from W h + b: what any order of summing keeps."""


@dataclass(frozen=True, eq=False)
class PredictionSpread(Measurement[LoadedModel]):
    """Order the components of the state that the head reads by size, and add them until the prediction is there.

    With h (d,) the normed state of the last token, W (V, d) the head and t* its largest logit: z(k) = b + the sum over
    the k largest |h_j| of W[:, j] h_j, and P(k) = softmax(z(k))[t*]. For each of `shares` q, `k_first` is the smallest
    k with P(k) >= q P(d), and `k_stay` the smallest from which on it holds for good: the curve is not monotone.
    `rescaled` counts take the sum times |h| over the length of the part that is used. `line_margin` is the least
    |P(k) - q P(d)|: what an error of P must exceed to move a count. In float64, from the state the model computed.

    The grandmother test asks whether one component alone speaks for t*: the weight of t* in the column of the largest
    positive component, its rank there, and the `column` tokens at either end of it.

    The beginning-of-text token is put before each text, and `empty` adds the prompt that consists of it alone, which
    is continued greedily for `tokens` tokens; a model without one gets the prompts as they are. Rows (`part`): top
    (the `k` largest logits at every position), spread (state and logits of the last), components (a share), grandmother
    and column, continuation. Arrays: `curve`, `curve_rescaled` (n, d + 1), `hidden` (n, d).

    Readings are those of the given prompt with the smallest `k_first` of the first share. UnsupportedError where the
    logits are not the head's, or the head is not W h + b within 64 ULP of |W| |h|. Cost: one forward a prompt and one a
    token of the continuation; V d products and 2 V d exponentials a prompt. Source: a study of Llama-2-7B, part 002.
    """

    prompts: Sequence[Prompt] = ("To be or",)
    shares: Sequence[float] = (0.9,)
    k: int = 3
    column: int = 10
    tokens: int = 8
    empty: bool = True

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("k_first", "components", "neither", "components until the token first has the share of its probability"),
        Metric("k_stay", "components", "neither", "components from which on it keeps that share"),
        Metric("k_first_rescaled", "components", "neither", "k_first with the sums rescaled to the state's length"),
        Metric("k_stay_rescaled", "components", "neither", "k_stay with the sums rescaled to the state's length"),
        Metric("first_share", "share", "higher", "k_first over the number of components"),
        Metric("line_margin", "probability", "higher", "error of the curve that would be needed to move a count"),
        Metric("head_error", "bound", "lower", "distance of the logits from W h + b, in units of its rounding bound"),
        Metric("top_probability", "probability", "neither", "probability of the largest logit's token"),
        Metric("odds", "ratio", "neither", "odds of that token over the next"),
        Metric("entropy", "nats", "neither", "entropy of the next token"),
        Metric(
            "outliers", "components", "neither", "components of the state beyond what normal ones would reach, at 5 %"
        ),
        Metric("grandmother_rank", "rank", "neither", "rank of the token in the column of the largest component"),
        Metric("components", "components", "neither", "size d of the state"),
        Metric("prompts", "prompts", "neither", "prompts that were read, the empty one included"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = ("another rounding of the last state, where the curve runs along the line",)

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, k=self.k, column=self.column, tokens=self.tokens)
        if any(not len(prompt) for prompt in self.prompts):
            raise UsageError("the empty prompt is asked for with empty=True")
        if not self.shares or any(not 0 < share <= 1 for share in self.shares):
            raise UsageError(f"shares {list(self.shares)!r} must lie above 0 and at most at 1, with at least one")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a prompt and, for the empty one, one a token more."""
        extra = 1 + self.tokens if self.empty and beginning(subject) else 0
        return Cost(forwards=len(self.prompts) + extra)

    def find(self, subject: LoadedModel) -> Finding:
        """Read each prompt's last state, and take it apart."""
        tool, first = norm_and_head(subject), beginning(subject)
        if not tool.last:
            raise UnsupportedError(f"the logits of {subject.spec} are not its head's: it caps or scales them behind it")
        prompts = [*self.prompts, *([""] if self.empty and first else [])]
        spreads: list[Row] = []
        others: list[Row] = []
        curves: list[Curve] = []
        hidden = []
        with bar(len(prompts), "spread", "prompt") as progress:
            for number, prompt in enumerate(prompts):
                before = () if not isinstance(prompt, str) else first
                states = whole(subject, tool, prompt, number, before)
                found = curve(tool.weight, tool.bias, states.after[-1], first_largest(states.logits[-1]))
                rows, row = self._rows(subject, tool, states, found)
                spreads.append(row)
                others += rows
                curves.append(found)
                hidden.append(states.after[-1].double().numpy())
                progress.update()
        if self.empty and first:
            others.append(self._continued(subject, tool, first))
        return self._finding(spreads, others, curves, hidden)

    def _rows(self, subject: LoadedModel, tool: NormAndHead, states: LastStates, found: Curve) -> tuple[list[Row], Row]:
        components = component_rows(states, found, self.shares)
        row = spread_row(subject, tool, states, head_error(tool, states))
        rows = [
            *top_rows(subject, states, self.k),
            *components,
            *(made := grandmother_rows(subject, tool, states, self.column)),
        ]
        counts = {name: components[0][name] for name in ("k_first", "k_stay", "k_first_rescaled", "k_stay_rescaled")}
        ours = {"first_share": components[0]["first_share"], "line_margin": components[0]["line_margin"]}
        return rows, {**row, **counts, **ours, "grandmother_rank": made[0]["rank"]}

    def _continued(self, subject: LoadedModel, tool: NormAndHead, first: Sequence[int]) -> Row:
        text = Text(subject, list(first), self.tokens, tool.anatomy, listens=False)
        for _ in text.greedy():
            pass
        said = "".join(word(subject, token) for token in text.generated)
        ids = " ".join(str(token) for token in text.generated)
        return {"part": "continuation", "prompt": "(empty)", "tokens": len(text.generated), "text": said, "ids": ids}

    def _finding(
        self, spreads: Sequence[Row], others: Sequence[Row], curves: Sequence[Curve], hidden: Sequence[Any]
    ) -> Finding:
        least = min(spreads[: len(self.prompts)], key=itemgetter("k_first"))
        schema = {metric.name: metric for metric in self.metrics}
        place = {"prompt": least["prompt"], "token": least["top"]}
        values = {name: Reading(schema[name], least[name], place=place) for name in schema if name in least}
        worst = max(spreads, key=itemgetter("head_error"))
        values["head_error"] = Reading(schema["head_error"], worst["head_error"], place={"prompt": worst["prompt"]})
        return Finding(
            {**values, "prompts": len(spreads)},
            f"After {least['prompt']!r} the token {least['top']!r} (probability {least['top_probability']:.3g}) first "
            f"has {self.shares[0]:.0%} of its probability with {least['k_first']} of {least['components']} components, "
            f"and keeps it from {least['k_stay']} on.",
            rows=(*spreads, *others),
            arrays={
                "curve": np.stack([one.plain for one in curves]),
                "curve_rescaled": np.stack([one.rescaled for one in curves]),
                "hidden": np.stack(hidden),
            },
        )


def beginning(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the id that begins a text, as the tokenizer or the configuration has it; nothing where neither does."""
    for source in (loaded.tokenizer, loaded.model.config):
        found = getattr(source, "bos_token_id", None)
        if isinstance(found, int):
            return (found,)
    return ()


def head_error(tool: NormAndHead, states: LastStates) -> float:
    """Return the largest |W h + b - logit| of the last position over `ROOM` eps (|W| |h| + |b|), in float64.

    UnsupportedError above 1: then the head does something else.
    """
    h, logits = states.after[-1].double(), states.logits[-1]
    W, bias = tool.weight.cpu(), tool.bias
    eps = max(torch.finfo(one.dtype).eps for one in (logits, states.after, W))
    largest = 0.0
    for rows in torch.split(torch.arange(len(W)), 8192):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        block = W[part].double()
        room = ROOM * eps * (block.abs() @ h.abs() + bias[part].abs())
        apart = (block @ h + bias[part] - logits[part].double()).abs()
        largest = max(largest, float((apart / room.clamp(min=1e-300)).max()))
    if largest > 1:
        raise UnsupportedError(
            f"the head is not a product with its rows: a logit is {largest:.3g} rounding bounds away from it"
        )
    return largest
