"""After a search: its worst directions, measured once more from what the record says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stabilitykit.plugin.recipes import fingerprint, key, recorded
from stabilitykit.results.failure import StabilityFailure
from stabilitykit.results.record import Record

if TYPE_CHECKING:
    from stabilitykit.plugin.testlog import TestLog
    from stabilitykit.results.result import Result


def confirm(log: TestLog) -> None:
    """Measure again what several examples were worst along: StabilityFailure if it has not the bits it had.

    The direction is rebuilt from the record as it is stored, so that what a replay will read is what is proved. The
    work is added to the record's.
    """
    __tracebackhide__ = True
    for check_id, record in list(log.records.items()):
        if record.examples < 2 or record.result is None:
            continue
        stored = Record.from_dict(json.loads(json.dumps(log.whole(check_id).to_dict())))
        for index, entry in enumerate(stored.recipes):
            again = log.trials[check_id][key(entry)].again
            if again is not None and entry["result"]:
                direction = recorded(stored, index)
                result = again(direction)
                _count(log, check_id, index, result, fingerprint(result, str(direction)) == entry["result"])
                if not log.records[check_id].recipes[index]["confirmed"]:
                    message = _differs(check_id, entry, result)
                    log.judge(check_id, "fail", message)
                    raise StabilityFailure(message, result)


def _count(log: TestLog, check_id: str, index: int, again: Result, same: bool) -> None:
    record = log.records[check_id]
    assert record.result is not None
    recipes = [dict(entry) for entry in record.recipes]
    recipes[index] |= {"confirmed": same, "failing": recipes[index]["failing"] or not same}
    result = replace(record.result, execution=record.result.execution + again.execution)
    stated = {name: count + log.stated_rows().get(name, 0) for name, count in record.stated.items()}
    log.records[check_id] = replace(record, result=result, recipes=tuple(recipes), stated=stated)


def _differs(check_id: str, entry: Mapping[str, Any], again: Result) -> str:
    changed = [
        f"{name} {again.readings[name].value!r}, was {then!r}"
        for name, then in entry["readings"].items()
        if float(again.readings[name].value).hex() != float(then).hex()
    ]
    what = "; ".join(changed) or "the readings are the same, rows or arrays are not"
    return (
        f"{check_id}: measured again from its record, {entry['direction']} gave other bits ({what}); "
        "the subject does not repeat, or the measurement depends on more than its direction"
    )
