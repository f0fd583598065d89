"""What a sweep asks: one question, of every prompt of every model in every dtype, along many directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import stabilitykit
from stabilitykit.errors import UsageError
from stabilitykit.homes import HOMES
from stabilitykit.prompts import DEFAULT_PROMPTS
from stabilitykit.results.plain import from_plain, to_plain
from stabilitykit.sweeps.family import Family
from stabilitykit.typed import DTYPES, one_of, whole

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Measurement

_SHORT = {"boundary": "first_change"}
_LISTS = ("models", "dtypes", "prompts", "directions")
_DIRECTIONS = ("direction", "directions")
_NAMES = (name for home, names in HOMES.items() if home.startswith("measurements.") for name in names)
_CLASSES = {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(): name for name in _NAMES if name[0].isupper()}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question by its name, such as `boundary` (FirstChange) or `regimes`, and what it is asked of.

    Every prompt of every model in every dtype is a subject (`path`, `batch`, `site`). With `directions`, families such
    as `gaussian:4096`, the question is asked along them, `unit` at a time; without, once with its own. `parameters` are
    the fields of the measurement that shall differ from their defaults. UsageError for what cannot be meant.
    """

    question: str
    models: tuple[str, ...] = ("smollm2",)
    dtypes: tuple[str, ...] = ("float32",)
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    directions: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    path: str = "decode"
    batch: int = 64
    site: str = "post_norm"
    unit: int = 256
    seed: int = 0
    attention: str | None = None
    experts: str | None = None
    load_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant before anything is loaded."""
        for name in _LISTS:
            listed = getattr(self, name)
            if isinstance(listed, str) or not (listed or name == "directions") or len(set(listed)) < len(listed):
                raise UsageError(f"{name} of a sweep is a list of different ones, not {listed!r}")
        for dtype in self.dtypes:
            one_of("dtype", dtype, DTYPES)
        one_of("path", self.path, ("prefill", "decode"))
        whole("batch", self.batch, 1)
        whole("unit", self.unit, 1)
        if self.directions and self._field is None:
            raise UsageError(f"{self.question} takes no directions; leave them out")
        try:
            to_plain(self.parameters)
        except TypeError:
            raise UsageError(
                f"parameters of a sweep are numbers, texts and lists of them, not {self.parameters}"
            ) from None
        self.measurement()
        self.families  # noqa: B018 - read so that an unknown one is refused here

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families of directions, in order."""
        return tuple(map(Family.parse, self.directions))

    def measurement(self, directions: Any = None) -> Measurement:
        """Return the question, along these directions where they are given."""
        chosen = {key: _tuples(value) for key, value in self.parameters.items()}
        if directions is not None and self._field:
            chosen[self._field] = directions
        known = [one.name for one in fields(self._kind)]
        if unknown := [name for name in chosen if name not in known]:
            raise UsageError(f"{self.question} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
        try:
            return self._kind(**chosen)
        except TypeError as error:
            raise UsageError(f"{self.question} cannot be asked with the parameters {chosen}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain data."""
        plain: dict[str, Any] = to_plain({one.name: getattr(self, one.name) for one in fields(self)})
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sweep:
        """Rebuild what `to_dict` gave."""
        plain = from_plain(data)
        return cls(**plain | {name: tuple(plain[name]) for name in _LISTS})

    @cached_property
    def _kind(self) -> type[Measurement]:
        name = _SHORT.get(self.question, self.question)
        found = getattr(stabilitykit, _CLASSES.get(name, ""), None)
        if not _is_asked_of_a_model(found):
            raise UsageError(
                f"{self.question!r} is no question to sweep; name a measurement of a CausalLMSubject, such as "
                "boundary, regimes or boundary_jump"
            )
        return cast("type[Measurement]", found)

    @cached_property
    def _field(self) -> str | None:
        return next((one.name for one in fields(self._kind) if one.name in _DIRECTIONS), None)


def _is_asked_of_a_model(kind: Any) -> bool:
    from stabilitykit.subjects.causal_lm import CausalLMSubject

    base = stabilitykit.Measurement
    asked = isinstance(kind, type) and issubclass(kind, base) and kind is not base
    return asked and issubclass(CausalLMSubject, kind.needs)


def _tuples(value: Any) -> Any:
    """Return JSON's lists as tuples, which the fields of measurements are."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
