"""What a comparison of two recordings says in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stabilitykit.traces.agreement import Agreement
from stabilitykit.traces.comparable import Field
from stabilitykit.traces.comparison_rows import Shared
from stabilitykit.traces.recording import Recording

Row = Mapping[str, Any]


def sentence(
    verdict: str,
    found: Sequence[Agreement],
    prompts: Sequence[Row],
    shared: Shared,
    a: Recording,
    b: Recording,
    environment: Sequence[Field],
) -> str:
    """Return what was found: tokens first, then bits, then what is known to differ."""
    if verdict == "not-distinct":
        return (
            f"Both ran on the same device: its operators give the same bits (probe {a.probe}), and so do all "
            f"{_count(found)} digests. Equality between devices is not shown by this."
        )
    said = [_tokens(found, prompts), _bits(found, prompts, shared, a, b)]
    if shared.missing:
        said.append(f"Stages that only one side has: {', '.join(shared.missing[:3])}.")
    if verdict != "pass" and (known := [f"{name}: {left} -> {right}" for name, left, right in environment[:4]]):
        more = f" and {len(environment) - len(known)} more" if len(environment) > len(known) else ""
        said.append(f"Fields of the environment that differ: {'; '.join(known)}{more}.")
    if verdict == "differs" and a.probe == b.probe and a.dtype == b.dtype:
        said.append("The probe of the operators is the same on both sides: they are one device.")
    return " ".join(filter(None, said))


def _tokens(found: Sequence[Agreement], prompts: Sequence[Row]) -> str:
    parted = [row for row in prompts if row["divergence_index"] is not None]
    steps = sum(one.steps for one in found)
    if not parted:
        flips = int(sum(one.flips.sum() for one in found))
        if flips:
            return f"On the same tokens both sides would say different ones at {flips} of {steps} steps."
        return f"All {steps} tokens of {len(found)} prompts are equal."
    first = min(parted, key=lambda row: (row["divergence_index"], row["number"]))
    where = f"the earliest at token {first['divergence_index']} of {first['prompt']!r}"
    call = ""
    if first["token"] is not None:
        call = (
            f", where {first['token']!r} led by {first['margin']:.3g} logit and {first['other_token']!r} by "
            f"{first['other_margin']:.3g}"
        )
    return f"{len(parted)} of {len(found)} texts part, {where}{call}."


def _bits(found: Sequence[Agreement], prompts: Sequence[Row], shared: Shared, a: Recording, b: Recording) -> str:
    if shared.indices is None:
        return f"Bits of {a.dtype} and {b.dtype} cannot be compared; they are two configurations."
    differing = int(sum(one.differs.sum() for one in found if one.differs is not None))
    if not differing:
        return f"All {_count(found)} digests are equal: no bit differs."
    row = min(
        (row for row in prompts if row["first_step"] is not None), key=lambda row: (row["first_step"], row["number"])
    )
    op = f", operation {row['op']}" if row["op"] else ""
    return (
        f"{differing} of {_count(found)} digests differ, the first at stage {row['stage']}{op} of step "
        f"{row['first_step']}."
    )


def _count(found: Sequence[Agreement]) -> int:
    return int(sum(one.differs.size for one in found if one.differs is not None))
