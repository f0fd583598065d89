"""The directions that a check was worst along: kept as recipes with their bits, so that they can be measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stabilitykit.numerics.digest import digest
from stabilitykit.results.plain import to_plain
from stabilitykit.results.record import Record
from stabilitykit.results.result import Result
from stabilitykit.strategies.recipe import Direction, Placed
from stabilitykit.strategies.recorded import Recorded

if TYPE_CHECKING:
    from torch import Tensor

    from stabilitykit.measurements.base import Measurement

ARRAY = "recipes"
"""The array of a result that holds the bits of its record's recipes, (R, H) float64, a row each."""

Entry = Mapping[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True)
class Trial:
    """One direction as it was measured: what the record says of it, its bits, and how to measure it again."""

    entry: Entry
    vector: Tensor
    again: Callable[[Recorded], Result] | None = None

    @property
    def sentence(self) -> str:
        """The direction with its recipe, for a message."""
        return f"Measured last along {self.entry['direction']}; recipe {json.dumps(self.entry['recipe'])}"


def trials(measurement: Measurement[Any], result: Result | None, ask: Callable[[Any], Result]) -> list[Trial]:
    """Return a trial for each recipe that the result's readings name as their place.

    A recipe that is a field of its own can be measured again by `ask`, and is named where there is no result; one of a
    list can only be measured together with the others.
    """
    found = []
    for name, recipe, alone in _recipes(measurement):
        along = _along(result, str(recipe))
        if not along and (result or not alone):
            continue
        vector = recipe.expand()
        entry = {
            "direction": str(recipe),
            "recipe": recipe.to_dict(),
            "digest": digest(vector),
            "readings": {n: result.readings[n].value for n in along} if result else {},
            "worst_of": along,
            "result": fingerprint(result, str(recipe)) if result else "",
            "failing": False,
            "confirmed": False,
        }
        found.append(Trial(entry, vector, _again(measurement, name, ask) if alone else None))
    return found


def key(entry: Entry) -> Key:
    """Return what tells entries apart: the direction, and what was found along it, which depends on the subject."""
    return entry["direction"], entry["result"]


def fingerprint(result: Result, direction: str) -> str:
    """Return a digest of what was found along a direction, bit for bit: readings, rows and arrays.

    Of the rows neither their seconds nor the direction's name: a recipe on a basis has another one as recorded.
    """
    readings = {name: float(reading.value).hex() for name, reading in result.readings.items()}
    rows = [{n: value for n, value in row.items() if n != "seconds" and value != direction} for row in result.rows]
    stream = hashlib.sha256(json.dumps([readings, to_plain(rows)], sort_keys=True).encode())
    for name, array in sorted(result.arrays.items()):
        if name != ARRAY:
            stream.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            stream.update(np.ascontiguousarray(array).tobytes())
    return stream.hexdigest()


def joined(result: Result, first: Record, second: Record) -> tuple[Entry, ...]:
    """Return the entries of two records whose readings became those of `result`: who still is the worst of what."""
    met = [entry for record in (first, second) for entry in record.recipes if entry["failing"]]
    kept: dict[Key, dict[str, Any]] = {key(entry): {**entry, "worst_of": []} for entry in met}
    for name, reading in result.readings.items():
        chosen = second if second.result and reading is second.result.readings.get(name) else first
        for entry in chosen.recipes:
            if name in entry["worst_of"]:
                kept.setdefault(key(entry), {**entry, "worst_of": []})["worst_of"].append(name)
    return tuple(kept.values())


def failing(record: Record, latest: Iterable[Entry]) -> Record:
    """Return the record with `latest`, measured last before the failure, in front and marked; no other is."""
    marked = {key(entry): {**entry, "worst_of": [], "failing": True} for entry in latest}
    for entry in record.recipes:
        if key(entry) in marked:
            marked[key(entry)]["worst_of"] = entry["worst_of"]
        elif entry["worst_of"]:
            marked[key(entry)] = {**entry, "failing": False}
    return replace(record, recipes=tuple(marked.values()))


def with_bits(record: Record, known: Mapping[Key, Trial]) -> Record:
    """Return the record with the bits of its recipes among its result's arrays."""
    if record.result is None or not record.recipes:
        return record
    rows = np.stack([known[key(entry)].vector.numpy() for entry in record.recipes])
    return replace(record, result=replace(record.result, arrays={**record.result.arrays, ARRAY: rows}))


def recorded(record: Record, index: int) -> Recorded:
    """Return a recipe of a record that was read back; UnreadableError where it is not what was measured."""
    import torch

    entry, bits = record.recipes[index], None
    if record.result is not None and ARRAY in record.result.arrays:
        bits = torch.from_numpy(record.result.arrays[ARRAY][index].copy())
    return Recorded.from_dict(entry["recipe"], bits, entry["digest"])


def _recipes(measurement: Measurement[Any]) -> list[tuple[str, Direction | Placed | Recorded, bool]]:
    """Return (field, recipe, whether it is the field's whole value) for each recipe among the parameters."""
    found: list[tuple[str, Direction | Placed | Recorded, bool]] = []
    for item in fields(measurement):
        value = getattr(measurement, item.name)
        alone = not isinstance(value, list | tuple)
        for one in [value] if alone else value:
            if isinstance(one, Direction | Placed | Recorded):
                found.append((item.name, one, alone))
    return found


def _along(result: Result | None, direction: str) -> list[str]:
    readings = result.readings if result else {}
    return [name for name, reading in readings.items() if reading.place.get("direction") == direction]


def _again(measurement: Measurement[Any], name: str, ask: Callable[[Any], Result]) -> Callable[[Recorded], Result]:
    return lambda direction: ask(replace(measurement, **{name: direction}))
