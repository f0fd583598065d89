"""`--stability-plant`: a fault in every forward of a test, and what it did there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.testlog import log_of

if TYPE_CHECKING:
    from stabilitykit.settings import Settings


@contextmanager
def around(item: pytest.Item) -> Iterator[None]:
    """Run a test with the fault that the options name, anew in each test, and put its counts on the test's records.

    Fixtures and what other processes compute are spared: a model is loaded, and another device answers, without it.
    """
    settings = item.config.stash[SETTINGS]
    if not settings.plant or settings.dry_run:
        yield
        return
    from stabilitykit.faults.planted import planted

    with planted(settings.plant) as fault:
        try:
            yield
        finally:
            done = {"fault": fault.fault.name, "calls": fault.calls, "fired": fault.fired}
            log = log_of(item)
            for check_id, record in log.records.items():
                log.records[check_id] = replace(record, planted=done)


def announced(settings: Settings) -> str:
    """Return what the header adds: nobody shall take such a run for one of the model as it is."""
    return f", with the fault {settings.plant} planted" if settings.plant else ""


def note(settings: Settings) -> list[str]:
    """Return what the report says of it."""
    if not settings.plant:
        return []
    return [f"the fault {settings.plant} was planted in every forward: the numbers are those of a broken model"]
