"""An argument of a kind that a measurement cannot take is refused by name, whatever the check of it stumbled over."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from stabilitykit.errors import StabilityError, UsageError

_LONGEST = 60
"""Characters of a value in an error; the rest of a longer one says nothing more."""

Check = Callable[[Any], None]


def told(check: Check) -> Check:
    """Return `check`, the `__post_init__` of a dataclass, so that it raises no error but the kit's own.

    A comparison or a loop over what has another type than the field declares raises TypeError and its like. They end
    as UsageError with the field, the value and what it takes.
    """

    @functools.wraps(check)
    def checked(self: Any) -> None:
        try:
            check(self)
        except StabilityError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise UsageError(_sentence(self)) from error

    return checked


def _sentence(asked: Any) -> str:
    kind = type(asked)
    given = [one for one in dataclasses.fields(kind) if not _is_default(one, getattr(asked, one.name))]
    chosen = [one for one in given if not _needed(one)]
    if len(chosen) > 1:
        needed = {one.name: getattr(asked, one.name) for one in given if _needed(one)}
        chosen = [one for one in chosen if _stumbles(kind, {**needed, one.name: getattr(asked, one.name)})]
    told = [f"{one.name}={_short(getattr(asked, one.name))}, but takes {one.type}" for one in chosen or given]
    return f"{kind.__name__} was given {'; '.join(told)}"


def _needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _is_default(one: dataclasses.Field[Any], value: Any) -> bool:
    if one.default_factory is not dataclasses.MISSING:
        return bool(value == one.default_factory())
    return value is one.default


def _stumbles(kind: type, arguments: dict[str, Any]) -> bool:
    """Whether these alone are not taken either, for the same kind of reason."""
    try:
        kind(**arguments)
    except UsageError as error:
        return error.__cause__ is not None
    return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
