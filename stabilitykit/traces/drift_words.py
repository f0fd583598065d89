"""What two recordings' values say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def sentence(rows: Sequence[Row], has_model: bool) -> str:
    """Say how far the states are apart, where they come to prefer other tokens, and what the head has to do with it."""
    tokens = [row for row in rows if row["part"] == "token"]
    said = [_apart(tokens)]
    if has_model:
        said += [_decided([row for row in rows if row["part"] == "flip"]), _head(rows)]
    else:
        said.append("What each run prefers on its way, the norm and the head need the model: give loaded=.")
    return " ".join(filter(None, said))


def _apart(tokens: Sequence[Row]) -> str:
    prompts = len({row["number"] for row in tokens})
    parting = {row["number"] for row in tokens if not row["same_token"]}
    steps = f"{len(tokens)} steps with the same input, in {prompts} prompt{'s' * (prompts != 1)}"
    changed = [row for row in tokens if row["changed"]]
    if not changed:
        return f"In {steps}, the state that the head reads is the same in every element."
    far = max(changed, key=lambda row: row["relative_l2"])
    ends = f"{len(parting)} of {prompts} part" if parting else "none parts"
    return (
        f"In {steps}, the state that the head reads differs in {len(changed)}, by {far['relative_l2']:.3g} of its "
        f"length and {far['angle']:.3g} degrees at most; {ends}."
    )


def _decided(flips: Sequence[Row]) -> str:
    """Say where the runs of the first prompt that parts come to prefer other tokens."""
    if not flips:
        return ""
    first = flips[0]
    where = f"In prompt {first['number']}, step {first['position']}{_words(first)}, "
    if first["stage"] is None:
        return f"{where}the states prefer the same token at every stage."
    last = "" if first["parted_from"] in (None, first["stage"]) else f" and for good from {first['parted_from']} on"
    held = " and ".join(_held(first, run) for run in "ab")
    said = f"{where}they first prefer different tokens at {first['stage']}{last}; {held}."
    alike = sum(row["unrounded_a"] == row["unrounded_b"] for row in flips)
    return f"{said} {_unrounded(alike, len(flips))}" if alike else said


def _words(flip: Row) -> str:
    """Return both tokens where the recordings have their texts."""
    if not (flip["word_a"] and flip["word_b"]):
        return ""
    return f" ({flip['word_a']!r} in run a, {flip['word_b']!r} in run b)"


def _unrounded(alike: int, parting: int) -> str:
    """Say that a wider dtype of the logits would have made one token of both states."""
    return f"Before the logits are rounded, both runs prefer the same token in {alike} of {parting} prompts that part."


def _held(flip: Row, run: str) -> str:
    if flip[f"tie_{run}"]:
        return f"run {run} ends in a tie"
    settled = flip[f"settled_{run}"]
    return f"run {run} keeps its own from {settled} on" if settled else f"run {run} never keeps its own"


def _head(rows: Sequence[Row]) -> str:
    heads = [row for row in rows if row["part"] == "head"]
    same = sum(row["same_token"] for row in heads)
    if same == len(heads):
        bits = [row["bit_equal"] for row in heads]
        exactly = " with the recorded bits" if all(bits) else ""
        return f"This machine's head makes each run's token of its state{exactly}: the states differ, not the heads."
    return f"This machine's head makes the recorded token of {same} of {len(heads)} states."
