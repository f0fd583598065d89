"""What is said of a check beside its baseline: a sentence for each status, and the table of what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stabilitykit.baselines.compare import Change, Comparison

_SHOWN, _WIDE = 4, 48


def sentence(found: Comparison, name: str) -> str:
    """Return one sentence for a status that is no drift, with what to do; "" where the baseline holds."""
    moved = listed(found.changes)
    if found.status == "new":
        return f"{name} has no entry for this check; add it with --stability-update new"
    if found.status == "elsewhere":
        return (
            f"not compared: {name} has this check for other numeric environments only; {moved}; add this one with "
            "--stability-update new"
        )
    if found.status == "other question":
        return (
            f"not compared: its entry in {name} answers another question; {moved}; replace it with "
            "--stability-update all"
        )
    if found.status == "foreign":
        return f"its entry in {name} is of another model; {moved}; compare with the baseline of this one"
    if found.status == "better":
        return f"better than {name}: {improved(found)}; keep that with --stability-update all"
    return ""


def improved(found: Comparison) -> str:
    """Return the readings that are better, with both values."""
    better = [drift for drift in found.drifts if drift.kind == "better"]
    return _few([f"{drift.label} {drift.now:.6g}, was {drift.then:.6g}" for drift in better])


def explanation(changes: Sequence[Change]) -> str:
    """Return the line that explains a drift."""
    if not changes:
        return "Nothing that is recorded of weights, versions and settings has changed: the arithmetic has."
    return f"Changed since: {listed(changes)}."


def listed(changes: Sequence[Change]) -> str:
    """Return e.g. `threads was 1, is 2; gpu was ...`, the first few in words and the others counted."""
    return _few([f"{name} was {_short(then)}, is {_short(now)}" for name, then, now in changes])


def _few(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return "; ".join([*texts[:_SHOWN], *more])


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 4]} ..."
