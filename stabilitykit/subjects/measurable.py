"""What a question can be asked of: a subject, a kernel, a model. Each counts its work and says what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar


@dataclass
class Counter:
    """Rows run so far: whole forwards, rows stopped after the first blocks, backward and tangent rows, calls."""

    forwards: int = 0
    screened: int = 0
    backwards: int = 0
    tangents: int = 0
    calls: int = 0


class Measurable(ABC):
    """A kind of thing that measurements are asked of; `Measurement.needs` names the kind.

    `made_by` is the call that makes one, for whoever gave something else.
    """

    made_by: ClassVar[str]

    @cached_property
    def counter(self) -> Counter:
        """The work done so far; a measurement takes the difference."""
        return Counter()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what identifies it, JSON-plain: the same description means the same bits are expected."""
