"""Are answers to questions that assume what is false nearer to a flip than answers to questions about facts?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.margin_groups import STATISTICS, difference_rows, group_rows, kind_rows, role_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.prompt_steps import Answer, answered
from stabilitykit.prompts import QUESTIONS, ROLES, Prompt, Role, crossed
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.chat import SAID, check_form, form_of, question_ids
from stabilitykit.subjects.generation import Text
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PromptSuite(Measurement[LoadedModel]):
    """Answer each question, without a role and in each of `roles`, with up to `tokens` greedy tokens; compare margins.

    The margin of a token is the largest logit less the next one, exact: how much rounding must move before another
    token is taken. A prompt's is the median over its tokens, a question's the mean over its prompts, a kind's the mean
    over its questions. Prompts of one question are alike, so intervals draw whole questions (`numerics.clusters`);
    rows have the interval that ignores this beside it. Kinds are compared with that of the first question. A token is
    tied if the two logits are equal, and nearly so if they are at most one bfloat16 ULP of the larger one apart: what
    logits of 16 bits cannot tell apart, or only just.

    `form`: "chat" asks in the user's turn of the model's own chat template, "plain" continues the text itself, "auto"
    is chat where there is a template; the result says which. Generation decodes with a cache, batch 1.

    Rows (`part`): prompt, token, top (the first token's candidates), kind, difference, role (with it less without, of
    the same question), group (kind and role). Arrays: `margins` and `probability_margins` (prompts, tokens), nan where
    a text ended. UsageError for questions, roles or counts that cannot be meant; UnsupportedError without a tokenizer.
    Cost: one forward a token. Source: notebooks on factual and unfactual prompts.
    """

    questions: Sequence[Prompt] = QUESTIONS
    roles: Sequence[Role] = ROLES
    tokens: int = 50
    form: str = "auto"
    confidence: float = 0.95
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("min_margin", "logit", "higher", "smallest difference between the two largest logits"),
        Metric("min_margin_ulp", "ULP", "higher", "smallest such difference in ULP of the largest logit"),
        Metric("tie_share", "share", "lower", "tokens whose two largest logits are equal, over all tokens"),
        Metric("near_tie_share", "share", "lower", "tokens whose margin is at most one bfloat16 ULP, over all tokens"),
        Metric("role_effect", "logit", "neither", "largest change of the margin by a role, mean over questions"),
        Metric("prompts", "prompts", "neither", "prompts that were answered"),
        Metric("questions", "questions", "neither", "questions, the units that intervals draw"),
        Metric("tokens", "tokens", "neither", "tokens that were generated"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "questions that leave open how the answer begins",
        "logits in a 16-bit dtype, whose grid makes exact ties",
        "another chat template, or none",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing, and kinds whose readings would have one name."""
        crossed(self.questions, self.roles)
        check_form(self.form)
        if self.tokens < 1:
            raise UsageError(f"tokens={self.tokens} is too few; give at least 1")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must lie strictly between 0 and 1, not {self.confidence!r}")
        names = [_slug(kind) for kind in self.kinds]
        if len(set(names)) < len(names) or not all(names):
            raise UsageError(f"the kinds {self.kinds!r} need names that differ in their letters or digits")

    @property
    def kinds(self) -> list[str]:
        """The kinds of the questions, in order; the first is what others are compared with."""
        return list(dict.fromkeys(one.kind for one in self.questions))

    def schema(self) -> tuple[Metric, ...]:
        """Return the margin of each kind, the differences between them, and what all prompts have."""
        first = self.kinds[0]
        margins = [Metric(f"margin_{_slug(k)}", "logit", "higher", f"margin of {k} questions") for k in self.kinds]
        differences = [
            Metric(f"difference_{_slug(k)}", "logit", "neither", f"margin of {first} questions less that of {k} ones")
            for k in self.kinds[1:]
        ]
        return (*margins, *differences, *self.metrics)

    def cost(self, subject: LoadedModel) -> Cost:
        """Return a forward a token; less where a text ends early."""
        return Cost(forwards=len(self.questions) * (1 + len(self.roles)) * self.tokens)

    def find(self, subject: LoadedModel) -> Finding:
        """Answer every prompt, and compare."""
        form = form_of(subject, self.form)
        anatomy = find(subject.model)
        asked = crossed(self.questions, self.roles)
        ids = [question_ids(subject, anatomy, one.text, form) for one in asked]
        texts = [Text(subject, own, self.tokens, anatomy) for own in ids]
        answers = []
        with bar(len(texts), "answers", "prompt") as progress:
            for number, (text, labelled) in enumerate(zip(texts, asked, strict=True)):
                answers.append(answered(text, number, labelled))
                progress.update()
        return self._judged(answers, form)

    def _judged(self, answers: Sequence[Answer], form: str) -> Finding:
        prompts = [answer.prompt for answer in answers]
        tokens = [row for answer in answers for row in answer.steps]
        how = (self.confidence, self.seed)
        kinds = list(kind_rows(prompts, self.kinds, *how))
        differences = list(difference_rows(prompts, self.kinds, *how))
        roles = list(role_rows(prompts, *how))
        return Finding(
            self._values(prompts, tokens, kinds, differences, roles),
            self._sentence(tokens, kinds, differences, form),
            rows=(
                *prompts,
                *kinds,
                *differences,
                *roles,
                *group_rows(prompts),
                *(row for answer in answers for row in answer.top),
                *tokens,
            ),
            arrays=self._arrays(answers),
            worst=_worst(min(tokens, key=itemgetter("margin_ulp"))),
            about={"form": form, "kinds": self.kinds},
        )

    def _arrays(self, answers: Sequence[Answer]) -> dict[str, NDArray[Any]]:
        found = {f"{name}s": np.full((len(answers), self.tokens), np.nan) for name in ("margin", "probability_margin")}
        for number, answer in enumerate(answers):
            for row in answer.steps:
                for name in ("margin", "probability_margin"):
                    found[f"{name}s"][number, row["step"]] = row[name]
        return found

    def _values(
        self,
        prompts: Sequence[Row],
        tokens: Sequence[Row],
        kinds: Sequence[Row],
        differences: Sequence[Row],
        roles: Sequence[Row],
    ) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.schema()}
        values: dict[str, float | Reading] = {}
        named = [(f"margin_{_slug(row['kind'])}", row) for row in kinds]
        named += [(f"difference_{_slug(row['less'])}", row) for row in differences]
        for name, row in named:
            if row["statistic"] == STATISTICS[0]:
                values[name] = Reading(schema[name], row["value"], row["low"], row["high"])
        for name in ("margin", "margin_ulp"):
            row = min(tokens, key=itemgetter(name))
            values[f"min_{name}"] = Reading(schema[f"min_{name}"], row[name], place=_place(row))
        moved = [row for row in roles if row["statistic"] == STATISTICS[0]]
        if moved:
            row = max(moved, key=lambda row: abs(row["value"]))
            place = {"role": row["role"]}
            values["role_effect"] = Reading(schema["role_effect"], row["value"], row["low"], row["high"], place)
        return {
            **values,
            "tie_share": sum(row["tied"] for row in tokens) / len(tokens),
            "near_tie_share": sum(row["near_tie"] for row in tokens) / len(tokens),
            "prompts": len(prompts),
            "questions": len(self.questions),
            "tokens": len(tokens),
        }

    def _sentence(self, tokens: Sequence[Row], kinds: Sequence[Row], differences: Sequence[Row], form: str) -> str:
        margins = [f"{row['value']:.3g} logit ({row['kind']})" for row in kinds if row["statistic"] == STATISTICS[0]]
        said = f"Asked {SAID[form]}, answers have a margin of {', '.join(margins)}"
        compared = [_compared(row, self.confidence) for row in differences if row["statistic"] == STATISTICS[0]]
        near = sum(row["near_tie"] for row in tokens)
        ties = sum(row["tied"] for row in tokens)
        return f"{'; '.join([said, *compared])}. Of {len(tokens)} tokens {ties} are tied and {near} nearly."


def _compared(row: Row, confidence: float) -> str:
    """Return what an interval lets one say; not shown is not the same as equal."""
    if math.isnan(row["low"]):
        return f"{row['kind']} less {row['less']} is {row['value']:.2g}, with too few questions for an interval"
    shown = "" if row["low"] > 0 or row["high"] < 0 else ", so no difference is shown"
    bounds = f"{confidence:.0%} from {row['low']:.2g} to {row['high']:.2g}"
    return f"{row['kind']} less {row['less']} is {row['value']:.2g} ({bounds}{shown})"


def _slug(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")


def _place(row: Row) -> dict[str, str]:
    return {"prompt": row["question"], "kind": row["kind"], "role": row["role"], "token": str(row["step"])}


def _worst(row: Row) -> Worst:
    where = f"token {row['step']} of {row['question']!r}, {row['role']}"
    taken, rival = (f"{row[name]!r} ({row[f'{name}_id']})" for name in ("token", "rival"))
    return Worst(where, "takes", taken, f"{row['margin']:.3g} logit before", rival)
