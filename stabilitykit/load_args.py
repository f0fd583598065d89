"""Arguments for a model's loader, as they are typed: KEY=VALUE, where VALUE is JSON if it can be read as such."""

from __future__ import annotations

import json
import re
from typing import Any

from stabilitykit.errors import UsageError

_ADVICE = re.compile(r"[^\s=]+=.*\Z", re.DOTALL)


def parsed(pairs: list[str]) -> tuple[tuple[str, Any], ...]:
    """Return keys and values, each key once with what was said last; UsageError for what is no pair."""
    found: dict[str, Any] = {}
    for pair in pairs:
        if not _ADVICE.match(pair):
            raise UsageError(f"load-arg {pair!r} is not KEY=VALUE, for example trust_remote_code=false")
        key, value = pair.split("=", 1)
        found[key] = _json_or_text(value)
    return tuple(found.items())


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, a number beyond all, too deep
        return value
