"""The run that the tests of reports share."""

from __future__ import annotations

import pytest
from oracles.made_run import made_records, made_run

from stabilitykit.results.record import Record, Run


@pytest.fixture(scope="session")
def run() -> Run:
    return made_run()


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return made_records()
