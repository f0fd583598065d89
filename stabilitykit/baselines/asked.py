"""What the options ask of baselines, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stabilitykit.baselines.store import place
from stabilitykit.baselines.tolerance import Tolerance
from stabilitykit.errors import UsageError

UPDATES = ("new", "all")


def asked(raw: Mapping[str, Any], roots: Mapping[str, Path]) -> dict[str, Any]:
    """Return the settings about baselines; UsageError for one that has nothing to work on.

    A name lies in the folder `.stability` of `roots`: of the working directory, or of the ini file that names it.
    """
    for name in ("compare-fail", "update", "require-baseline"):
        if raw[name] and not raw["baseline"]:
            raise UsageError(f"{name} works on a baseline; name it with baseline")
    save, baseline = (place(raw[name].strip(), roots[name]) if raw[name] else None for name in ("save", "baseline"))
    if save is not None and save == baseline:
        raise UsageError(f"save {raw['save']!r} is compared with as the baseline; update it, or save another")
    if raw["update"] and raw["update"] not in UPDATES:
        raise UsageError(f"update {raw['update']!r} is none of {', '.join(UPDATES)}")
    return {
        "save": save,
        "baseline": baseline,
        "compare_fail": tuple(Tolerance.parse(expression) for expression in raw["compare-fail"]),
        "update": raw["update"],
        "require_baseline": bool(raw["require-baseline"]),
    }
