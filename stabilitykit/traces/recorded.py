"""Recordings of a model, made once however many questions are asked of them."""

from __future__ import annotations

from dataclasses import astuple
from weakref import WeakKeyDictionary

from stabilitykit.subjects.models import LoadedModel
from stabilitykit.traces.devices import Setting
from stabilitykit.traces.elsewhere import Ask, record_elsewhere
from stabilitykit.traces.record import record
from stabilitykit.traces.recording import Recording

__all__ = ["Ask", "recorded", "recorded_elsewhere"]

_KEPT: WeakKeyDictionary[LoadedModel, dict[str, Recording]] = WeakKeyDictionary()
"""Of each model that is loaded: a recording takes longer than whatever is asked of it, and is a few hundred kB."""


def recorded(loaded: LoadedModel, ask: Ask, *, again: bool = False) -> Recording:
    """Return what the model generates here, from the first time it was asked; `again` runs it once more."""
    key = f"here {astuple(ask)}"
    kept = _KEPT.setdefault(loaded, {})
    if again or key not in kept or ask.states != "none":
        fresh = record(loaded, ask.prompts, ask.tokens, level=ask.level, states=ask.states, steps=ask.steps)
        if again or ask.states != "none":
            return fresh
        kept[key] = fresh
    return kept[key]


def recorded_elsewhere(loaded: LoadedModel, setting: Setting, ask: Ask, forced: Recording | None = None) -> Recording:
    """Return what it generates under another setting; forced on a recording's tokens it is not kept."""
    if forced is not None or ask.states != "none":
        return record_elsewhere(loaded, setting, ask, forced)
    key = f"{setting.name} {setting.device} {setting.ranks} {sorted(setting.environ.items())} {astuple(ask)}"
    kept = _KEPT.setdefault(loaded, {})
    if key not in kept:
        kept[key] = record_elsewhere(loaded, setting, ask)
    return kept[key]
