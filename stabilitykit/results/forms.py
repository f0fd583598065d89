"""Whether JSON data has the form that it was written in: what has not is named, before anything is made of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stabilitykit.errors import UnreadableError

_NAMES = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object", list: "a list"}


@dataclass(frozen=True, slots=True)
class Each:
    """An object of any names, whose values have one form."""

    form: Any


@dataclass(frozen=True, slots=True)
class Maybe:
    """A form, or null."""

    form: Any


@dataclass(frozen=True, slots=True)
class Optional:
    """A field that may be missing: what a former version did not write."""

    form: Any


class Number:
    """A number that a float can hold; infinity and nan have a form of their own, see `stabilitykit.results.plain`."""


def check(data: Any, form: Any, where: str) -> None:
    """Refuse data of another form: UnreadableError says `where` and which field.

    A form is a type, a tuple of texts to choose from, `[form]` for a list, `{name: form}` for an object of these fields
    and no others, `Each`, `Maybe`, `Number`, or `object` for anything. A bool is no int.
    """
    if wrong := _misfit(data, form, ""):
        raise UnreadableError(f"{where} is damaged, or was not written here: {wrong}")


def _misfit(data: Any, form: Any, at: str) -> str:
    if isinstance(form, Maybe):
        return "" if data is None else _misfit(data, form.form, at)
    if isinstance(form, Optional):
        return _misfit(data, form.form, at)
    if form is Number:
        return "" if _is_number(data) else f"{at or 'it'} is {_shown(data)}, not a number"
    if isinstance(form, Each):
        return _is(data, dict, at) or _first(_misfit(one, form.form, _in(at, name)) for name, one in data.items())
    if isinstance(form, list):
        return _is(data, list, at) or _first(_misfit(one, form[0], f"{at}[{n}]") for n, one in enumerate(data))
    if isinstance(form, Mapping):
        return _is(data, dict, at) or _fields(data, form, at)
    if isinstance(form, tuple):
        known = isinstance(data, str) and data in form
        return "" if known else f"{at or 'it'} is {_shown(data)}, not one of {', '.join(form)}"
    return _is(data, form, at)


def _fields(data: Mapping[str, Any], form: Mapping[str, Any], at: str) -> str:
    odd = next((name for name in data if name not in form), None)
    if odd is not None:
        return f"nothing is known of {_in(at, odd)}"
    missing = next((name for name, one in form.items() if name not in data and not isinstance(one, Optional)), None)
    if missing is not None:
        return f"{_in(at, missing)} is missing"
    return _first(_misfit(data[name], one, _in(at, name)) for name, one in form.items() if name in data)


def _is(data: Any, kind: type, at: str) -> str:
    fits = isinstance(data, kind) and (kind is not int or not isinstance(data, bool))
    return "" if fits else f"{at or 'it'} is {_shown(data)}, not {_NAMES[kind]}"


def _is_number(data: Any) -> bool:
    if isinstance(data, Mapping):
        return data.keys() == {"float"} and data["float"] in ("inf", "-inf", "nan")
    return isinstance(data, int | float) and not isinstance(data, bool) and abs(data) <= sys.float_info.max


def _first(found: Iterable[str]) -> str:
    return next((one for one in found if one), "")


def _in(at: str, name: str) -> str:
    named = name if name.isidentifier() and len(name) <= 40 else _shown(name)
    return f"{at}.{named}" if at else named


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
