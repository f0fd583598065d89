"""One kept result: what was asked of which model, where, and the readings, exact."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stabilitykit.baselines.strict import Fields
from stabilitykit.errors import UnreadableError

Facts = Mapping[str, Any]
_SIDES = ("lower", "higher", "neither")


@dataclass(frozen=True, slots=True)
class Kept:
    """A reading: its value, its interval if it was sampled, its unit, and which side is better."""

    value: float
    unit: str
    better: str
    low: float | None = None
    high: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the exact value as hex, with the decimal that a reviewer reads beside it."""
        interval = {} if self.low is None or self.high is None else {"low": self.low.hex(), "high": self.high.hex()}
        value = {"value": f"{self.value:g}", "hex": self.value.hex()}
        return {**value, **interval, "unit": self.unit, "better": self.better}

    @classmethod
    def from_plain(cls, fields: Fields) -> Kept:
        """Rebuild it; UnreadableError for nan, and for an interval of one end."""
        fields.only("value", "hex", "unit", "better", "low", "high")
        found = cls(
            fields.float("hex"),
            fields.text("unit"),
            fields.one_of("better", _SIDES),
            *(fields.float(name) if name in fields else None for name in ("low", "high")),
        )
        if (found.low is None) != (found.high is None):
            raise UnreadableError(f"{fields.where}: an interval has two ends")
        fields.text("value")
        return found


@dataclass(frozen=True)
class Setting:
    """The environment of a result: `identity` decides its bits, `context` explains a drift. Fields that are None are
    left out, so that a field that is new in the kit changes nothing where it says nothing.
    """

    identity: Facts
    context: Facts

    @property
    def key(self) -> str:
        """Digest of all of it, by which a line of the file refers to it."""
        return _digest([dict(self.identity), dict(self.context)])

    @property
    def numeric(self) -> str:
        """Digest of what decides bits: results of one numeric key are compared."""
        return _digest(dict(self.identity))


@dataclass(frozen=True)
class Course:
    """A direction that a search was worst along: its recipe, the digest of its bits, and the readings along it."""

    direction: str
    recipe: Facts
    digest: str
    readings: Mapping[str, float]

    def to_plain(self) -> dict[str, Any]:
        """Return plain data."""
        values = {name: value.hex() for name, value in self.readings.items()}
        return {"direction": self.direction, "recipe": dict(self.recipe), "digest": self.digest, "readings": values}

    @classmethod
    def from_plain(cls, fields: Fields) -> Course:
        """Rebuild it."""
        fields.only("direction", "recipe", "digest", "readings")
        values = fields.inner("readings")
        return cls(
            fields.text("direction"),
            fields.facts("recipe"),
            fields.text("digest"),
            {name: values.float(name) for name in values},
        )


class Key(NamedTuple):
    """By what a file holds one entry only."""

    check: str
    numeric: str


@dataclass(frozen=True)
class Entry:
    """One check as it was: the question (`asked`), the model but for its weights, the weights' digest, the readings.

    `named` is the digest of a direction that the question names, such as "v1". `bits` are the vectors, (H,) float64 as
    little-endian bytes, of these and of the courses whose recipe alone does not give them.
    """

    check: str
    asked: Facts
    model: Facts
    weights: str
    setting: Setting
    readings: Mapping[str, Kept]
    courses: tuple[Course, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    bits: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Check id and numeric environment."""
        return Key(self.check, self.setting.numeric)

    def to_plain(self) -> dict[str, Any]:
        """Return plain data; the setting and the bits are lines of their own, named by their digests."""
        plain = {
            "check": self.check,
            "asked": dict(self.asked),
            "model": dict(self.model),
            "weights": self.weights,
            "setting": self.setting.key,
            "readings": {name: kept.to_plain() for name, kept in self.readings.items()},
        }
        more = {"courses": [course.to_plain() for course in self.courses], "named": dict(self.named)}
        return {**plain, **{name: value for name, value in more.items() if value}}

    @classmethod
    def from_plain(cls, fields: Fields, settings: Mapping[str, Setting], bits: Mapping[str, bytes]) -> Entry:
        """Rebuild it with the lines that it names; UnreadableError where one is missing."""
        fields.only("check", "asked", "model", "weights", "setting", "readings", "courses", "named")
        kept = fields.inner("readings")
        courses = tuple(Course.from_plain(one) for one in fields.several("courses"))
        given = fields.inner("named") if "named" in fields else None
        vectors = {name: given.text(name) for name in given} if given else {}
        needed = [*(course.digest for course in courses), *vectors.values()]
        named = fields.text("setting")
        if named not in settings:
            raise UnreadableError(f"{fields.where}: no line describes the setting {named!r} it was measured in")
        return cls(
            fields.text("check"),
            fields.facts("asked"),
            fields.facts("model"),
            fields.text("weights"),
            settings[named],
            {name: Kept.from_plain(kept.inner(name)) for name in kept},
            courses,
            vectors,
            {digest: bits[digest] for digest in needed if digest in bits},
        )


def is_number(value: float) -> bool:
    """Return whether a value can be kept: nan equals nothing, so nothing can be compared with it."""
    return not math.isnan(value)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
