"""Two entries of one check: whether they can be compared, what moved, and what else is different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stabilitykit.baselines.entry import Entry, Kept
from stabilitykit.baselines.tolerance import Tolerance, chosen
from stabilitykit.results.drift import Drift, Kind

Status = Literal["same", "better", "drifted", "new", "elsewhere", "other question", "foreign"]
"""New: no entry. Elsewhere: of other numeric environments only. Foreign: of another model under the same check id."""

Change = tuple[str, Any, Any]
"""A field, its value then, its value now."""

Along = Mapping[str, Mapping[str, float]]
"""What was measured now along the recorded directions: digest of the direction -> reading -> value."""


@dataclass(frozen=True)
class Comparison:
    """What became of a check. `changes` are the fields that differ and keep it from being compared, or explain it."""

    status: Status
    then: Entry | None = None
    drifts: tuple[Drift, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def compared(self) -> bool:
        """Whether there was something to compare with."""
        return self.status in ("same", "better", "drifted")

    @property
    def broken(self) -> tuple[Drift, ...]:
        """The drifts that break the baseline."""
        return tuple(drift for drift in self.drifts if drift.broken)


def compare(
    now: Entry, held: Sequence[Entry], rules: Sequence[Tolerance] = (), along: Along | None = None
) -> Comparison:
    """Hold an entry to those that a baseline has of its check, one for each numeric environment.

    Of readings by a search (an entry with courses) only those along recorded directions are compared: `along`.
    """
    if not held:
        return Comparison("new")
    for then in held:
        if fields := changed(then.model, now.model):
            return Comparison("foreign", then, changes=fields)
    here = next((then for then in held if then.setting.numeric == now.setting.numeric), None)
    if here is None:
        nearest = min(held, key=lambda then: len(changed(then.setting.identity, now.setting.identity)))
        return Comparison("elsewhere", nearest, changes=changed(nearest.setting.identity, now.setting.identity))
    if fields := asked_otherwise(here, now):
        return Comparison("other question", here, changes=fields)
    drifts = _followed(_along(now, here, rules, along or {})) if here.courses else moved(now, here, rules)
    better = any(drift.kind == "better" for drift in drifts)
    status: Status = "drifted" if any(drift.broken for drift in drifts) else "better" if better else "same"
    return Comparison(status, here, tuple(drifts), explained(here, now))


def explained(then: Entry, now: Entry) -> tuple[Change, ...]:
    """Return what else is different where bits are promised to be equal: weights first, then versions and the like."""
    weights = [("weights", then.weights[:12], now.weights[:12])] if then.weights != now.weights else []
    return (*weights, *changed(then.setting.context, now.setting.context))


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the fields that differ; one that is missing is None."""
    names = dict.fromkeys([*then, *now])
    return tuple((name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name))


def _flat(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the question with its parameters beside the rest."""
    return {**{name: value for name, value in asked.items() if name != "parameters"}, **asked.get("parameters", {})}


def asked_otherwise(then: Entry, now: Entry) -> tuple[Change, ...]:
    """Return what of the question is another: parameters, prompt, place, path, batch, a named direction."""
    return changed({**_flat(then.asked), **then.named}, {**_flat(now.asked), **now.named})


def moved(now: Entry, then: Entry, rules: Sequence[Tolerance] = ()) -> list[Drift]:
    """Return each reading of `then` beside that of `now`."""
    names = [*(name for name in now.readings if name in then.readings), *sorted(set(then.readings) - set(now.readings))]
    return _followed([_drift(now.check, name, now.readings.get(name), then.readings[name], rules) for name in names])


def _along(now: Entry, then: Entry, rules: Sequence[Tolerance], along: Along) -> list[Drift]:
    found = []
    for course in then.courses:
        measured = along.get(course.digest, {})
        for name, value in course.readings.items():
            side = then.readings[name] if name in then.readings else Kept(value, "", "neither")
            kept = Kept(value, side.unit, side.better)
            seen = Kept(measured[name], side.unit, side.better) if name in measured else None
            found.append(_drift(now.check, name, seen, kept, rules, course.direction))
    return found


def _followed(drifts: list[Drift]) -> list[Drift]:
    """Do not hold against an improvement that what has no better side moved with it: another radius is another cell."""
    kinds = {drift.kind for drift in drifts}
    if "better" not in kinds or kinds & {"worse", "gone"}:
        return drifts
    return [replace(drift, kind="followed") if drift.kind == "changed" else drift for drift in drifts]


def _drift(
    check: str, name: str, now: Kept | None, then: Kept, rules: Sequence[Tolerance], direction: str = ""
) -> Drift:
    rule = chosen(rules, check, name)
    sampled = then.low is not None and now is not None and now.low is not None
    allowed = rule.typed if rule else "interval" if sampled else "exact"
    if now is None:
        kind: Kind = "within" if rule and rule.kind == "any" else "gone"
        return Drift(name, then.unit, None, then.value, allowed, kind, direction)
    near = _nearest(now, then)
    if near[0] == near[1]:
        kind = "same"
    elif (near[0] > near[1]) == (then.better == "higher") and then.better != "neither":
        kind = "better"
    elif rule and rule.covers(*near, then.unit):
        kind = "within"
    else:
        kind = "changed" if then.better == "neither" else "worse"
    return Drift(name, then.unit, now.value, then.value, allowed, kind, direction)


def _nearest(now: Kept, then: Kept) -> tuple[float, float]:
    """Return the two values, or of intervals the ends that face each other; twice the same where they overlap."""
    if now.low is None or now.high is None or then.low is None or then.high is None:
        return now.value, then.value
    if now.low > then.high:
        return now.low, then.high
    return (now.high, then.low) if now.high < then.low else (now.value, now.value)
