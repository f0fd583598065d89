"""Fields of a file that others wrote: each is read once, checked, and refused by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stabilitykit.errors import UnreadableError

_LARGEST = 1 << 63


@dataclass(frozen=True)
class Field:
    """A value of JSON and where it stands, such as `operations.json: entries[3].module`.

    Each method returns the value as the type it is named after, or raises UnreadableError with place and reason.
    """

    value: Any
    where: str

    def __getitem__(self, name: str) -> Field:
        """Return a field of an object."""
        if not isinstance(self.value, dict):
            raise self.wrong("is no object")
        if name not in self.value:
            raise UnreadableError(f"{self.where}: {name} is missing")
        joint = "." if ": " in self.where else ": "
        return Field(self.value[name], f"{self.where}{joint}{name}")

    def items(self, most: int = 1_000_000) -> Iterator[Field]:
        """Yield the items of a list of at most so many."""
        if not isinstance(self.value, list):
            raise self.wrong("is no list")
        if len(self.value) > most:
            raise self.wrong(f"has {len(self.value)} items; more than {most} are not read")
        for index, item in enumerate(self.value):
            yield Field(item, f"{self.where}[{index}]")

    def text(self, pattern: str = "", longest: int = 100_000) -> str:
        """Return a string, of a pattern if one is given."""
        if not isinstance(self.value, str) or len(self.value) > longest:
            raise self.wrong(f"is no text of at most {longest} characters")
        if pattern and not re.fullmatch(pattern, self.value):
            raise self.wrong(f"{self.value[:60]!r} is not of the form {pattern}")
        return self.value

    def whole(self, least: int = 0, most: int = _LARGEST) -> int:
        """Return an integer; a bool is none."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not least <= self.value <= most:
            raise self.wrong(f"is no whole number from {least} to {most}")
        return self.value

    def wholes(self, least: int = 0) -> tuple[int, ...]:
        """Return a list of integers."""
        return tuple(one.whole(least) for one in self.items())

    def wrong(self, reason: str) -> UnreadableError:
        """Return the error that says what is wrong with this field."""
        return UnreadableError(f"{self.where} {reason}")
