"""May two recordings be held against each other at all? If not: which field is not the same, and on which side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stabilitykit.errors import IncomparableError
from stabilitykit.subjects.environment import changes
from stabilitykit.traces.recording import Recording

Field = tuple[str, Any, Any]
_WIDTH = 44


def check_comparable(a: Recording, b: Recording) -> None:
    """IncomparableError with a table of the fields that must agree and do not.

    Weights (a narrower dtype is recognised as the same weights, rounded), configuration, tokenizer, prompts by their
    ids, and what was forced. Environments may differ: that is the experiment.
    """
    differing = list(_fields(a, b))
    if not differing:
        return
    lines = [f"  {name:<20}  {_shown(left):<{_WIDTH}}  {_shown(right)}" for name, left, right in differing]
    raise IncomparableError(
        f"{a.folder or 'the first recording'} and {b.folder or 'the second'} are of different things and were not "
        "compared; record both from one model, one tokenizer and one set of prompts:\n" + "\n".join(lines)
    )


def changed_environment(a: Recording, b: Recording) -> list[Field]:
    """Return the environment fields that decide or explain bits and differ, with both values."""
    return changes(a.environment, b.environment, ("identity", "context"))


def _fields(a: Recording, b: Recording) -> Iterator[Field]:
    if not _same_weights(a, b):
        yield "weights", a.model["digests"][a.dtype], b.model["digests"][b.dtype]
    for name, key in (("architecture", "architecture"), ("configuration", "config"), ("tokenizer", "tokenizer")):
        if a.model[key] != b.model[key]:
            yield name, a.model[key], b.model[key]
    if len(a.generations) != len(b.generations):
        yield "prompts", len(a.generations), len(b.generations)
        return
    for index, (left, right) in enumerate(zip(a.generations, b.generations, strict=True)):
        if left.ids != right.ids:
            yield f"prompt {index}", _prompt(left.text, left.ids), _prompt(right.text, right.ids)
        elif "forced" in (a.mode, b.mode) and left.tokens.tolist() != right.tokens.tolist():
            yield f"forced tokens {index}", left.tokens.tolist(), right.tokens.tolist()


def _same_weights(a: Recording, b: Recording) -> bool:
    """Whether one side's own weights are the other's, in its dtype."""
    ours, theirs = a.model["digests"], b.model["digests"]
    return bool(ours[a.dtype] == theirs.get(a.dtype) or theirs[b.dtype] == ours.get(b.dtype))


def _prompt(text: str | None, ids: tuple[int, ...]) -> str:
    return f"{len(ids)} ids {list(ids)}" if text is None else text


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 4]} ..."
