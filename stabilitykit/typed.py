"""Values of options as people type them: each is read, or refused in one sentence that names the option."""

from __future__ import annotations

import math
import re

from stabilitykit.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16", "float64")
_DEVICE = re.compile(r"(cpu|mps|(cuda|xpu)(:\d+)?)\Z")


def text(name: str, value: str) -> str:
    """Return the value without blanks around it; UsageError for none."""
    if not value.strip():
        raise UsageError(f"{name} is empty; give a name, or leave the option out for its default")
    return value.strip()


def whole(name: str, value: str | int, least: int) -> int:
    """Return a whole number from `least` up; UsageError for what is none."""
    try:
        found = int(value) if str(value).isdecimal() else least - 1
    except ValueError:  # more digits than Python converts
        found = least - 1
    if found < least:
        raise UsageError(f"{name} {value!r} is not a whole number from {least} up")
    return found


def seconds(name: str, value: str | float) -> float:
    """Return a finite number above 0; UsageError for what is none."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(f"{name} {value!r} is not a number of seconds above 0")
    return found


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return the value; UsageError for one that is not known."""
    if value not in known:
        raise UsageError(f"{name} {value!r} is none of {', '.join(known)}")
    return value


def dtypes(value: str) -> tuple[str, ...]:
    """Return the dtypes of a comma-separated list; UsageError for another name."""
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in DTYPES:
            raise UsageError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return names


def devices(value: str) -> tuple[str, ...]:
    """Return the devices of a comma-separated list; one that is named twice gets two workers."""
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if not _DEVICE.match(name):
            raise UsageError(f"device {name!r} is none of cpu, cuda, cuda:N, mps, xpu, xpu:N")
    return names
