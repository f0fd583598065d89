"""Reading what a file claims: each field is there, is of its kind, and is named in the sentence that refuses it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from stabilitykit.errors import UnreadableError


class Fields:
    """One JSON object of a file; `where` begins every sentence about it."""

    def __init__(self, data: Any, where: str) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise UnreadableError(f"{where}: {_shown(data)} is no object")
        self._data: dict[str, Any] = data

    def __contains__(self, name: object) -> bool:
        """Return whether a field is there."""
        return name in self._data

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._data)

    def only(self, *names: str) -> None:
        """Refuse a field that nothing reads."""
        for name in self._data:
            if name not in names:
                raise UnreadableError(f"{self.where}: nothing is known of a field {_shown(name)}")

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._get(name)
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """Return a text of a few."""
        value = self.text(name)
        return value if value in known else self._refuse(name, value, f"one of {', '.join(known)}")

    def float(self, name: str) -> float:
        """Return a number written by `float.hex`, infinity too; nan is none."""
        text = self.text(name)
        try:
            value = float.fromhex(text)
        except (ValueError, OverflowError):
            self._refuse(name, text, "a number in hex")
        if math.isnan(value) or value.hex() != text:
            self._refuse(name, text, "a number in hex")
        return value

    def whole(self, name: str) -> int:
        """Return a whole number."""
        value = self._get(name)
        return value if type(value) is int else self._refuse(name, value, "a whole number")

    def facts(self, name: str) -> Mapping[str, Any]:
        """Return an object of any content."""
        return Fields(self._get(name), f"{self.where}, {name}")._data

    def inner(self, name: str) -> Fields:
        """Return an object inside."""
        return Fields(self._get(name), f"{self.where}, {name}")

    def several(self, name: str) -> list[Fields]:
        """Return the objects of a list; none where there is no such field."""
        value = self._data.get(name, [])
        if not isinstance(value, list):
            self._refuse(name, value, "a list")
        return [Fields(one, f"{self.where}, {name}") for one in value]

    def _get(self, name: str) -> Any:
        if name not in self._data:
            raise UnreadableError(f"{self.where}: the field {name!r} is missing")
        return self._data[name]

    def _refuse(self, name: str, value: Any, kind: str) -> NoReturn:
        raise UnreadableError(f"{self.where}: {name} is {_shown(value)}, not {kind}")


def parsed(text: str, where: str) -> Any:
    """Return strict JSON: no name twice in an object, no nan; UnreadableError otherwise, also where it is too deep."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{where}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one name stands in an object twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
