"""A comparison of two recordings as tidy rows: a prompt, a kind of prompt, a stage, a field of the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabilitykit.numerics.survival import survival
from stabilitykit.traces.agreement import Agreement
from stabilitykit.traces.bisect import Bisection, bisect
from stabilitykit.traces.comparable import Field
from stabilitykit.traces.recording import Recording
from stabilitykit.traces.stages import Stage

Row = Mapping[str, Any]
Bisections = Mapping[tuple[int, int], Bisection]
"""By prompt and step."""

TOP = 5
"""How many of the largest logits a row shows."""


@dataclass(frozen=True, eq=False)
class Shared:
    """The stages that both recordings have, in the reference's order.

    `indices` are theirs in each recording, None where dtypes differ and bits cannot be compared. `missing` are stages
    that one side lacks although both were recorded at the same level.
    """

    stages: tuple[Stage, ...]
    indices: tuple[list[int], list[int]] | None
    missing: tuple[str, ...]

    @classmethod
    def of(cls, a: Recording, b: Recording) -> Shared:
        """Pair the stages of two recordings by name."""
        theirs = {stage.name: index for index, stage in enumerate(b.stages)}
        pairs = [(stage, ours, theirs[stage.name]) for ours, stage in enumerate(a.stages) if stage.name in theirs]
        close = {"op": "module"}
        same_level = close.get(a.level, a.level) == close.get(b.level, b.level)
        odd = {stage.name for stage in a.stages} ^ set(theirs) if same_level else set()
        indices = ([ours for _, ours, _ in pairs], [other for *_, other in pairs]) if a.dtype == b.dtype else None
        return cls(tuple(stage for stage, *_ in pairs), indices, tuple(sorted(odd)))


def prompt_rows(
    found: Sequence[Agreement], shared: Shared, a: Recording, b: Recording, bisections: Bisections
) -> list[Row]:
    """Return a row a prompt: where its texts part, where its bits part, and how close the call was on both sides."""
    return [_prompt_row(number, one, shared, a, b, bisections) for number, one in enumerate(found)]


def kind_rows(found: Sequence[Agreement]) -> list[Row]:
    """Return a row a kind of prompt: how many parted, and how many tokens agree."""
    rows: list[Row] = []
    for kind in dict.fromkeys(one.a.kind for one in found):
        own = [one for one in found if one.a.kind == kind]
        parted = [one.divergence is not None for one in own]
        kept = survival([one.agreed for one in own], parted)
        row = {"part": "kind", "kind": kind, "prompts": len(own), "diverged": sum(parted)}
        rows.append({**row, "agreeing_tokens": kept.mean})
    return rows


def stage_rows(found: Sequence[Agreement], shared: Shared) -> list[Row]:
    """Return a row a stage: at how many of the compared steps its bits differ, and at how many it is the first."""
    if shared.indices is None:
        return []
    differs = np.concatenate([one.differs for one in found if one.differs is not None])
    first = np.zeros(len(shared.stages), dtype=int)
    for step in differs[differs.any(axis=1)]:
        first[int(step.argmax())] += 1
    return [
        {
            "part": "stage",
            "stage": stage.name,
            "module": stage.module,
            "block": stage.block,
            "submodule": stage.part,
            "steps": len(differs),
            "differing_steps": int(differs[:, index].sum()),
            "share": float(differs[:, index].mean()) if len(differs) else 0.0,
            "first_in_steps": int(first[index]),
        }
        for index, stage in enumerate(shared.stages)
    ]


def environment_rows(fields: Sequence[Field]) -> list[Row]:
    """Return a row a field that is not the same where the two ran."""
    return [
        {"part": "environment", "field": name, "reference": str(left), "this": str(right)}
        for name, left, right in fields
    ]


def _prompt_row(number: int, one: Agreement, shared: Shared, a: Recording, b: Recording, bisections: Bisections) -> Row:
    first = one.first
    stage = shared.stages[first[1]] if first else None
    row = {
        "part": "prompt",
        "table": "divergence",
        "prompt": one.a.text or f"ids {list(one.a.ids)}",
        "number": number,
        "kind": one.a.kind,
        "tokens": one.a.steps,
        "other_tokens": one.b.steps,
        "agreed": one.agreed,
        "divergence_index": one.divergence,
        "compared_steps": one.steps,
        "differing_stages": None if one.differs is None else int(one.differs.sum()),
        "first_step": first[0] if first else None,
        "stage": stage.name if stage else "",
        "module": stage.module if stage else "",
        "block": stage.block if stage else None,
        "submodule": stage.part if stage else "",
        "op": _place(bisections.get((number, first[0]))) if first else "",
        "max_kl": float(one.kl.max()) if one.steps else 0.0,
        "min_overlap": float(one.overlap.min()) if one.steps else 1.0,
    }
    return {**row, **_call(one, a, b)}


def _call(one: Agreement, a: Recording, b: Recording) -> Row:
    """Return what both sides said where the texts part; None where one of them had ended."""
    step = one.divergence
    decided = step is not None and step < one.steps
    sides = (("", 0, one.a, a), ("other_", 1, one.b, b))
    row: dict[str, Any] = {}
    for prefix, side, generation, recording in sides:
        token = int(generation.tokens[step]) if step is not None and decided else None
        row[f"{prefix}token_id"] = token
        row[f"{prefix}token"] = None if token is None else recording.word(token)
        row[f"{prefix}margin"] = float(one.margins[step, side]) if step is not None and decided else None
        row[f"{prefix}margin_ulp"] = float(one.margins_ulp[step, side]) if step is not None and decided else None
        row[f"{prefix}top"] = _top(generation, recording, step) if step is not None and decided else []
    explained = one.is_explained if decided else None
    kl = float(one.kl[step]) if step is not None and decided else None
    return {**row, "explained": explained, "kl": kl}


def _top(generation: Any, recording: Recording, step: int) -> list[list[Any]]:
    """Return [id, text, logit] of the largest logits."""
    ids = generation.top_ids[step, :TOP].tolist()
    logits = generation.top_logits[step, :TOP].double().tolist()
    return [[token, recording.word(token), logit] for token, logit in zip(ids, logits, strict=True)]


def bisections_of(a: Recording, b: Recording) -> Bisections:
    """Bisect every step whose operations both recorded, at one level."""
    found = {}
    for prompt, (ours, theirs) in enumerate(zip(a.generations, b.generations, strict=True)):
        for step in sorted(ours.operations.keys() & theirs.operations.keys()):
            left, right = ours.operations[step], theirs.operations[step]
            if left.level == right.level:
                found[prompt, step] = bisect(left, right)
    return found


def operation_rows(a: Recording, bisections: Bisections) -> list[Row]:
    """Return a row a bisected step: the first operation that gives other bits, and whose fault it is."""
    return [
        {
            "part": "operation",
            "prompt": a.generations[prompt].text or f"ids {list(a.generations[prompt].ids)}",
            "step": step,
            "op": _place(found),
            "kind": found.kind or "equal",
            "cause": found.cause.name if found.cause else "",
            "number": found.number,
            "operations": found.compared,
            "later": found.later,
            "local": sum(found.local.values()),
        }
        for (prompt, step), found in bisections.items()
    ]


def _place(found: Bisection | None) -> str:
    return str(found.place) if found and found.place else ""
