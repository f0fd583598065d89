"""`--stability-budget`: what a run has time for, in the order of what it tells, and a list of the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.plugin import suite
from stabilitykit.plugin.options import SETTINGS

if TYPE_CHECKING:
    from stabilitykit.results.record import Record
    from stabilitykit.settings import Settings

# The suite's files, what a gate needs first: do bits come back, in other company too; then how near the edge is; then
# why. Tests of the user's own come before all of them.
ORDER = (
    *("determinism", "batch_invariance", "invariances", "boundary", "margins", "ties", "generation"),
    *("regimes", "gain", "noise", "spectrum", "propagation", "kernels", "ledger", "landscape", "readout"),
    *(
        "defects",
        "weights",
        "representability",
        "staircase",
        "rotation",
        "chains",
        "directions",
        "prompts",
        "prediction",
    ),
)
_CLOCK = time.time  # of the wall: workers are other processes
_BEGAN, _INPUT, _SPENT = pytest.StashKey[float](), "stability_began", "the budget of "


def order(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is a budget, sort the files by what they tell; its time starts here."""
    if config.stash[SETTINGS].budget is None:
        return
    began(config)
    items.sort(key=_place)


def began(config: pytest.Config) -> float:
    """Return when the run began, in seconds of the wall clock; on a worker when the controller did."""
    given = getattr(config, "workerinput", {}).get(_INPUT)
    return config.stash.setdefault(_BEGAN, _CLOCK() if given is None else given)


def tell(node: Any) -> None:
    """Tell an xdist worker when the run began: all of them end at the same time."""
    node.workerinput[_INPUT] = began(node.config)


def check(item: pytest.Item) -> None:
    """Skip a test that would begin after the budget is spent; one that has begun is finished."""
    limit = item.config.stash[SETTINGS].budget
    if limit is not None and _CLOCK() - began(item.config) > limit:
        pytest.skip(f"{_SPENT}{limit:g} s was spent before it began")


def note(settings: Settings, records: Sequence[Record]) -> list[str]:
    """Return the sentence that lists what was not measured."""
    left = [record.check_id for record in records if record.verdict == "skipped" and _SPENT in record.message]
    if not left:
        return []
    noun = "check was" if len(left) == 1 else "checks were"
    return [f"{_SPENT}{settings.budget:g} s was spent: {len(left)} {noun} not measured: {', '.join(left)}"]


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return ORDER.index(name) if suite.contains(item.path) and name in ORDER else -1
