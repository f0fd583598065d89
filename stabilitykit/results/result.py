"""What a measurement returns: frozen, unit-bearing, self-sufficient, and saved without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.results.failure import StabilityFailure, render
from stabilitykit.results.forms import Each, Maybe, Number, Optional, check
from stabilitykit.results.limit import Bound
from stabilitykit.results.metric import Reading
from stabilitykit.results.plain import array_from_plain, array_to_plain, from_plain, to_plain

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of `Result.to_dict`; a newer one is refused, with the version that wrote it."""

VERDICTS = (
    "pass",
    "fail",
    "measured",
    "differs",
    "new",
    "invalid",
    "unsupported",
    "not-distinct",
    "incomparable",
    "timeout",
    "crash",
    "skipped",
)
"""The one vocabulary of results, csv, report and exit codes."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst place of a comparison, with what each side is called in this measurement."""

    where: str
    left_name: str
    left: str
    right_name: str
    right: str

    def __str__(self) -> str:
        """Return e.g. `worst at y[117]: alone -1.82 (0xbfe9)   in batch -1.95 (0xbffa)`."""
        return f"worst at {self.where}: {self.left_name} {self.left}   {self.right_name} {self.right}"


@dataclass(frozen=True, slots=True)
class Execution:
    """What a measurement cost: forwards and backwards in lanes (rows run), calls, screened lanes, seconds.

    A lane is one input row through the whole model; `screened` lanes ran the first block(s) only. Seconds
    depend on the machine and are never compared.
    """

    forwards: int = 0
    backwards: int = 0
    tangents: int = 0
    screened: int = 0
    calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Execution) -> Execution:
        """Add two costs, field by field."""
        return Execution(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Result:
    """One answer of one measurement about one subject.

    `check_id` is the stable id that limits and baselines name; `title` is the measurement as one would type it, e.g.
    `BatchInvariance(sizes=(2, 8))`. `rows` is tidy data: one mapping a direction,
    prompt, batch size or singular index. `arrays` are numpy arrays without objects. `parameters` are the
    measurement's fields; `subject`, `environment` and `execution` say what ran, where, and at what cost.
    """

    measurement: str
    check_id: str
    verdict: str
    title: str
    sentence: str
    readings: Mapping[str, Reading]
    rows: tuple[Row, ...] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    subject: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    worst: Worst | None = None
    noise: str = ""
    causes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a verdict outside the vocabulary: a typo there would turn a failure into silence."""
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is not one of {', '.join(VERDICTS)}")

    def frame(self) -> pd.DataFrame:
        """Return the tidy rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self.rows])

    def check(self, **limits: object) -> None:
        """Raise StabilityFailure unless every named reading keeps its bound.

        `result.check(max_ulp=4, radius=">= 1e-12")`: a bare number means "at most", or "at least" for a
        metric where higher is better. An unknown name raises UsageError that lists the known ones.
        """
        __tracebackhide__ = True
        self.judge(limits)

    def judge(self, limits: Mapping[str, object], commands: tuple[str, ...] = ()) -> None:
        """As `check`, with the commands that the message offers next."""
        __tracebackhide__ = True
        bounds: dict[str, Bound] = {}
        for name, bound in limits.items():
            if name not in self.readings:
                raise UsageError(f"unknown metric {name!r}; {self.measurement} reports {', '.join(self.readings)}")
            bounds[name] = Bound.parse(bound, self.readings[name])
        broken = [name for name, bound in bounds.items() if not bound.holds(self.readings[name].value)]
        if broken:
            raise StabilityFailure(render(self, bounds, broken, commands), self)

    def to_dict(self, *, arrays: bool = True) -> dict[str, Any]:
        """Return JSON-plain data with a schema version; arrays as lists of exact hex strings or numbers."""
        data = {
            "schema": SCHEMA,
            "measurement": self.measurement,
            "check_id": self.check_id,
            "verdict": self.verdict,
            "title": self.title,
            "sentence": self.sentence,
            "readings": [reading.to_dict() for reading in self.readings.values()],
            "rows": [to_plain(dict(row)) for row in self.rows],
            "parameters": to_plain(dict(self.parameters)),
            "subject": to_plain(dict(self.subject)),
            "environment": to_plain(dict(self.environment)),
            "execution": {name: getattr(self.execution, name) for name in Execution.__dataclass_fields__},
            "worst": None if self.worst is None else [getattr(self.worst, n) for n in Worst.__dataclass_fields__],
            "noise": self.noise,
            "causes": list(self.causes),
        }
        if arrays:
            data["arrays"] = {name: array_to_plain(array) for name, array in self.arrays.items()}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """Rebuild a result; UnreadableError for another schema, with both versions, and for a field that is none."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else None
            raise UnreadableError(
                f"this result has schema {ascii(found)[:60]}, this stabilitykit reads {SCHEMA}; "
                "read it with the version that wrote it, or measure again"
            )
        check(data, _FORM, "this result")
        found = [Reading.from_dict(reading) for reading in data["readings"]]
        texts = ("measurement", "check_id", "verdict", "title", "sentence", "noise")
        mappings = ("parameters", "subject", "environment")
        return cls(
            **{name: data[name] for name in texts},
            **{name: from_plain(data[name]) for name in mappings},
            readings={reading.metric.name: reading for reading in found},
            rows=tuple(from_plain(data["rows"])),
            arrays={name: array_from_plain(a) for name, a in data.get("arrays", {}).items()},
            execution=Execution(**data["execution"]),
            worst=None if data["worst"] is None else _worst(data["worst"]),
            causes=tuple(data["causes"]),
        )

    def to_json(self) -> str:
        """Return strict JSON (no NaN literal), sorted keys."""
        return json.dumps(self.to_dict(), allow_nan=False, sort_keys=True)


def _worst(sides: list[Any]) -> Worst:
    check(sides, [str], "the worst place of this result")
    if len(sides) != len(Worst.__dataclass_fields__):
        raise UnreadableError("the worst place of this result is damaged: it has not its five texts")
    return Worst(*sides)


_FORM = {
    "schema": int,
    "verdict": VERDICTS,
    **dict.fromkeys(("measurement", "check_id", "title", "sentence", "noise"), str),
    **dict.fromkeys(("parameters", "subject", "environment"), dict),
    "readings": [dict],
    "rows": [dict],
    "arrays": Optional(Each(dict)),
    "execution": {name: Optional(Number) for name in Execution.__dataclass_fields__},
    "worst": Maybe(list),
    "causes": [str],
}
