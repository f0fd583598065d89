"""The abstract measurement: one question, its parameters as frozen fields, and what every answer is wrapped in."""

from __future__ import annotations

import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypeVar

from stabilitykit.errors import UsageError
from stabilitykit.measurements.misfit import told
from stabilitykit.numerics.digest import digest
from stabilitykit.results.metric import Metric, Reading, readings
from stabilitykit.results.plain import to_plain
from stabilitykit.results.result import Execution, Result, Row, Worst
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.subject import Subject

Asked = TypeVar("Asked", bound=Measurable, default=Subject)
"""The kind of thing a measurement is asked of."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a measurement is expected to take, stated before the work starts: rows through the whole model.

    `calls` is for what is no model, such as a kernel: its calls are no forwards.
    """

    forwards: int = 0
    backwards: int = 0
    screened: int = 0
    calls: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Add two costs."""
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    def __mul__(self, times: int) -> Cost:
        """Return the cost of asking so often."""
        return Cost(**{name: getattr(self, name) * times for name in self.__dataclass_fields__})

    def __str__(self) -> str:
        """Return e.g. `about 1,216 forwards, 4,608 first blocks`."""
        words = {"forwards": "forward", "backwards": "backward", "screened": "first block", "calls": "call"}
        counted = [(getattr(self, name), word) for name, word in words.items()]
        said = [f"{count:,} {word}{'s' * (count != 1)}" for count, word in counted if count]
        return f"about {', '.join(said)}" if said else "no rows through the model"


@dataclass(frozen=True)
class Finding:
    """What a measurement found, before it is wrapped with where and at what cost."""

    values: Mapping[str, float | Reading]
    sentence: str
    verdict: str = "measured"
    rows: tuple[Row, ...] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    worst: Worst | None = None
    noise: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """More of what the numbers belong to, stored with the subject's description."""


@dataclass(frozen=True, eq=False)
class Measurement(ABC, Generic[Asked]):
    """One question asked of a subject, or of another kind of thing: `class Sizes(Measurement[LoadedModel])`.

    A subclass is a frozen dataclass whose fields are its parameters, with a docstring of formula, shapes, units,
    errors, cost and source. It declares `metrics` (the schema of its readings), `causes` (what a failure usually
    means), `gate` (whether it fails on its own), `requires` (the limits that hold it to its ideal, applied when it
    is a gate), `needs` (the kind it is asked of, where that is not a Subject), and implements `find` and `cost`.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    needs: ClassVar[type[Measurable]] = Subject  # type: ignore[type-abstract]  # never made here, only recognised
    causes: ClassVar[tuple[str, ...]] = ()
    gate: ClassVar[bool] = False
    requires: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **how: Any) -> None:
        """Have every check of parameters end in a sentence, also where it stumbles over a value of another type."""
        super().__init_subclass__(**how)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = told(cls.__post_init__)  # type: ignore[attr-defined]

    @abstractmethod
    def find(self, subject: Asked) -> Finding:
        """Answer the question about one subject."""

    @abstractmethod
    def cost(self, subject: Asked) -> Cost:
        """Return the rows this is expected to run, without running any."""

    def schema(self) -> tuple[Metric, ...]:
        """Return the metrics of this instance; more than `metrics` only where a parameter decides their number."""
        return self.metrics

    def across(self, results: Sequence[Result]) -> tuple[Row, ...]:
        """Return rows that only several subjects have together, as a distribution over prompts is; none by default."""
        return ()

    @final
    def measure(self, subject: Asked) -> Result:
        """Answer the question and record what ran, where, and at what cost; UsageError for another kind of thing."""
        if not isinstance(subject, self.needs):
            kind = self.needs.__name__
            raise UsageError(
                f"{type(self).__name__} is asked of a {kind}, not of a {type(subject).__name__}; "
                f"make one with {self.needs.made_by}"
            )
        before = vars(subject.counter).copy()
        start = time.perf_counter()
        finding = self.find(subject)
        spent = {name: count - before[name] for name, count in vars(subject.counter).items()}
        return Result(
            measurement=type(self).__name__,
            check_id=self.check_id(),
            verdict=finding.verdict,
            title=self.title,
            sentence=finding.sentence,
            readings=readings(self.schema(), finding.values),
            rows=finding.rows,
            arrays=finding.arrays,
            parameters=self.parameters(),
            subject={**subject.describe(), **finding.about},
            environment=environment(getattr(subject, "loaded", None)),
            execution=Execution(**spent, seconds=time.perf_counter() - start),
            worst=finding.worst,
            noise=finding.noise,
            causes=self.causes,
        )

    @classmethod
    def check_id(cls) -> str:
        """Return the class name in snake case, which limits and baselines name."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def parameters(self) -> dict[str, Any]:
        """Return the fields as JSON-plain values; tensors and arrays by shape and digest."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @property
    def title(self) -> str:
        """The measurement as one would type it, without the parameters that have their defaults."""
        given = [item for item in fields(self) if getattr(self, item.name) is not item.default]
        changed = [item for item in given if not _equal(getattr(self, item.name), item.default)]
        return f"{type(self).__name__}({', '.join(f'{f.name}={_short(getattr(self, f.name))}' for f in changed)})"

    @property
    def identity(self) -> str:
        """Digest of class and parameters: equal exactly when the same question is asked."""
        text = json.dumps([type(self).__name__, to_plain(self.parameters())], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and _plain(value) == _plain(default)


def _short(value: Any) -> str:
    parts = value if isinstance(value, list | tuple) else [value]
    bulky = any(isinstance(part, Tensor | np.ndarray) or hasattr(part, "__qualname__") for part in parts)
    text = str(_plain(value)) if bulky else repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}:{digest(value)[:12]}"
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(value.dtype.str.encode() + np.ascontiguousarray(value).tobytes())
        return f"array{value.shape}:{content.hexdigest()[:12]}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"  # its repr is an address, another in each process
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
