"""Inner pytest sessions with toy measurements; most run in this process, so that torch is imported once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - an inner session in this process must find it imported, since it cannot be imported twice

import stabilitykit.measurements.determinism
import stabilitykit.measurements.directions
import stabilitykit.measurements.measure
import stabilitykit.plugin.judging
import stabilitykit.report.csv
import stabilitykit.report.html
import stabilitykit.strategies.drawing
import stabilitykit.strategies.examples
import stabilitykit.subjects.causal_lm
import stabilitykit.subjects.models

TOYS = '''
from dataclasses import dataclass

import torch

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.subject import FunctionSubject


@dataclass(frozen=True, eq=False)
class ToyDrift(Measurement):
    """Drifts by what it is told."""

    drift: float = 0.0
    direction: str | None = None
    metrics = (
        Metric("max_ulp", "ULP", "lower", "drift"),
        Metric("radius", "input", "higher", "room"),
        Metric("cells", "inputs", "neither", "count"),
    )
    requires = {"max_ulp": "<= 0"}
    causes = ("a planted cause",)

    def find(self, subject):
        values = {"max_ulp": self.drift, "radius": 100.0 - self.drift, "cells": 7 * self.drift}
        rows = ({"drift": self.drift},)
        return Finding(values, f"drifted by {self.drift}", "differs" if self.drift else "measured", rows)

    def cost(self, subject):
        return Cost()


class ToyGate(ToyDrift):
    gate = True


class ToyInvalid(ToyDrift):
    def find(self, subject):
        raise InvalidError("toy: output 3 of row 0 is nan; nothing is measured")


class ToyUnsupported(ToyDrift):
    def find(self, subject):
        raise UnsupportedError("toy has no derivative")


TOY = FunctionSubject(lambda X: X, torch.zeros(3), name="toy")
'''


class Inner:
    """An inner session: its outcome and what it reported."""

    def __init__(self, result: pytest.RunResult, folder: Path) -> None:
        self.result = result
        self.folder = folder

    @property
    def text(self) -> str:
        return self.result.stdout.str() + self.result.stderr.str()

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The journal's records by check id; ids that two tests share are still one here."""
        lines = (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line)["record"] for line in lines]
        return {record["check_id"]: record for record in found}

    @property
    def verdicts(self) -> dict[str, str]:
        return {check_id: record["verdict"] for check_id, record in self.records.items()}


@pytest.fixture(scope="session", autouse=True)
def _imported_once() -> None:
    """Import all that a tiny model needs: an inner session in this process forgets at its end what it imported, and
    neither torch nor transformers bears a second import.
    """
    subject = stabilitykit.subjects.causal_lm.CausalLMSubject(stabilitykit.subjects.models.load("tiny"), "one two")
    stabilitykit.measurements.determinism.RunToRun(runs=1).measure(subject)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Inner]:
    """Run a test file against the toys and report into `out`."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makepyfile(toys=TOYS)

    def run(source: str, *options: str, apart: bool = False) -> Inner:
        pytester.makepyfile(test_inner="import pytest\nfrom toys import *\n\n" + source)
        arguments = ("-p", "no:cacheprovider", "-p", "no:benchmark", "--stability-report=out", *options)
        runner = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return Inner(runner(*arguments), pytester.path / "out")

    return run


@pytest.fixture(params=["alone", "xdist"])
def either(request: pytest.FixtureRequest, inner: Callable[..., Inner]) -> Callable[..., Inner]:
    """As `inner`, once in one process and once with two workers."""
    if request.param == "alone":
        return inner
    pytest.importorskip("xdist")
    return lambda source, *options: inner(source, "-n", "2", *options, apart=True)
