"""A campaign: one kind of trial against the kit, thousands of times, each trial decided by its number alone."""

from __future__ import annotations

import atexit
import importlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Trial = Callable[[int], str | None]
"""Given its number it returns None, or one sentence about the fault; an exception that it lets through is one too."""

FOLDER = Path(__file__).parent / "campaigns"
_ID = re.compile(r"T(\d{1,2})([a-z]?)")


@dataclass(frozen=True)
class Campaign:
    """One row of the test plan. `full` and `ci` count trials, each of which is `each` units.

    `planted` are the same trial against a defect that was put in on purpose: each must report a fault within `ci`
    trials, or the campaign could not fail. What a trial needs is made when it is first asked for, never at import.
    One that is `long` is left to `make test-long`, one with `model` needs the SmolLM2 weights.
    `rooms` are the folders of the kit that a trial depends on: trials count while their sources are the same.
    """

    id: str
    title: str
    unit: str
    full: int
    ci: int
    trial: Trial
    planted: Mapping[str, Trial]
    each: int = 1
    rooms: tuple[str, ...] = (".",)
    model: bool = False
    long: bool = False
    note: str = ""
    source: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not self.planted or not 0 < self.ci <= self.full:
            raise ValueError(f"campaign {self.id!r}: an id is like T3 or T4b, a defect is planted, and 0 < ci <= full")

    @property
    def key(self) -> str:
        """By what it is sorted and filed: T03 for T3."""
        number, part = _ID.fullmatch(self.id).groups()
        return f"T{int(number):02d}{part}"


def draw(id: str, number: int) -> np.random.Generator:
    """Return the random numbers of one trial: always the same, whatever was run before it."""
    row, part = _ID.fullmatch(id).groups()
    return np.random.Generator(np.random.PCG64([int(row), ord(part or "\0"), number]))


def fault(trial: Trial, number: int) -> str | None:
    """Run one trial; return its fault in one line, or None. A warning is an error here, as it is to pytest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = trial(number)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    return None if found is None else " ".join(str(found).split())[:400] or "a fault without a word"


def unnoticed(campaign: Campaign) -> list[str]:
    """Return the planted defects that the campaign's trial does not report within `ci` trials: there must be none.

    The trial has to say it in a sentence of its own: an exception might be of the planting.
    """
    return [
        name
        for name, trial in campaign.planted.items()
        if not any(_reported(trial, number) for number in range(campaign.ci))
    ]


def _reported(trial: Trial, number: int) -> bool:
    try:
        return trial(number) is not None
    except Exception:
        return False


def campaigns() -> list[Campaign]:
    """Return the campaigns of all files in `campaigns/`, each of which lists its own in CAMPAIGNS."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"torture.campaigns.{path.stem}")
        for one in module.CAMPAIGNS:
            object.__setattr__(one, "source", path)
            found.append(one)
    return sorted(found, key=lambda one: one.key)


def scratch(name: str) -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
