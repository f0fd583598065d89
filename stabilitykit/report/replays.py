"""What is said of a search's worst directions, and of those of a former run that were tried again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabilitykit.results.record import Record

_SHOWN = 4


def lines(records: Sequence[Record]) -> list[str]:
    """Return a line for each replayed direction of a run, with the check that tried it."""
    return [f"{record.check_id}: {sentence(replay)}" for record in records for replay in record.replays]


def sentence(replay: Mapping[str, Any]) -> str:
    """Return how the readings along a replayed direction compare with its record: both values of what changed."""
    readings: Mapping[str, Mapping[str, Any]] = replay["readings"]
    changed = [f"{name} {one['now']!r}, was {one['then']!r}" for name, one in readings.items() if not one["same"]]
    where = "the same setting" if replay["promised"] else "another setting"
    if not changed:
        return f"replayed {replay['direction']} in {where}: all {len(readings)} readings as recorded"
    more = [f"{len(changed) - _SHOWN} more changed"] if len(changed) > _SHOWN else []
    kept = [f"{len(readings) - len(changed)} as recorded"] if len(changed) < len(readings) else []
    return f"replayed {replay['direction']} in {where}: " + "; ".join([*changed[:_SHOWN], *more, *kept])


def worst_of(entry: Mapping[str, Any]) -> str:
    """Return what a recorded direction was the worst of, and its recipe as JSON."""
    places = [*(["the failure"] if entry["failing"] else []), *entry["worst_of"]]
    again = "; measured again from its record, with the same bits" if entry["confirmed"] else ""
    return f"worst of {', '.join(places)}{again}; recipe {json.dumps(entry['recipe'])}"
