"""The one schema of what can be measured: every table, csv column, limit and baseline derives from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.results.forms import Each, Maybe, Number, check
from stabilitykit.results.plain import from_plain, to_plain

Direction = Literal["lower", "higher", "neither"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means.

    `name` is the key users type in limits; `unit` is printed beside every value; `better` says which way is
    an improvement ("neither" for a plain observation); `description` is the sentence shown in reports.
    """

    name: str
    unit: str
    better: Direction
    description: str

    def format(self, value: float) -> str:
        """Return `value` as text: integers in full, floats with six significant digits."""
        if math.isfinite(value) and float(value).is_integer() and abs(value) < 1e15:
            return str(int(value))
        return f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured number: its metric, its value, an interval if it was sampled, and where it was worst.

    `place` names positions (prompt, layer, module, token, batch, slot, direction ...) as strings, so that csv
    columns can be read by machine.
    """

    metric: Metric
    value: float
    low: float | None = None
    high: float | None = None
    place: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """The metric's unit."""
        return self.metric.unit

    @property
    def badness(self) -> tuple[bool, float]:
        """Order of readings of one metric, the worst last.

        A nan keeps no limit, so nothing is worse; comparing it by value would depend on the order.
        """
        return math.isnan(self.value), -self.value if self.metric.better == "higher" else self.value

    def __str__(self) -> str:
        """Return the value with its unit."""
        return f"{self.metric.format(self.value)} {self.metric.unit}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the float also as `float.hex`, which is exact."""
        return {
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "better": self.metric.better,
            "description": self.metric.description,
            "value": to_plain(self.value),
            "value_hex": float(self.value).hex(),
            "low": to_plain(self.low),
            "high": to_plain(self.high),
            "place": dict(self.place),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Rebuild a reading from `to_dict`, bit for bit; UnreadableError for what is none."""
        check(data, _FORM, "a reading")
        metric = Metric(data["metric"], data["unit"], data["better"], data["description"])
        value = data["value"] if isinstance(data["value"], int) else _from_hex(data["value_hex"])
        low, high = from_plain(data["low"]), from_plain(data["high"])
        return cls(metric, value, low, high, dict(data["place"]))


_FORM = {
    **dict.fromkeys(("metric", "unit", "description", "value_hex"), str),
    "better": ("lower", "higher", "neither"),
    "value": Number,
    "low": Maybe(Number),
    "high": Maybe(Number),
    "place": Each(str),
}


def _from_hex(text: str) -> float:
    try:
        return float.fromhex(text)
    except (ValueError, OverflowError):
        raise UnreadableError(f"a reading is damaged: {ascii(text)[:40]} is no number in hex") from None


def readings(metrics: tuple[Metric, ...], values: Mapping[str, float | Reading]) -> dict[str, Reading]:
    """Return the readings of one measurement in schema order; refuse a value that no metric declares."""
    unknown = set(values) - {metric.name for metric in metrics}
    if unknown:
        raise UsageError(f"no metric declares {sorted(unknown)}; declared: {[m.name for m in metrics]}")
    found: dict[str, Reading] = {}
    for metric in metrics:
        if metric.name in values:
            value = values[metric.name]
            found[metric.name] = value if isinstance(value, Reading) else Reading(metric, value)
    return found
