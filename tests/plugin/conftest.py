"""Inner pytest sessions with toy measurements; most run in this process, so that torch is imported once."""

from __future__ import annotations

import ast
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
from stabilitykit.report.journal import lines

TOYS = '''
from dataclasses import dataclass

import torch

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.function_subject import FunctionSubject


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


ALONG = '''
from hypothesis import given
from stabilitykit import strategies
from stabilitykit.strategies import Direction

DIM = 6
SUBJECT = FunctionSubject(lambda X: X, torch.zeros(DIM), name="search")
BASIS = torch.eye(DIM, dtype=torch.float64)[[4, 2]]


@dataclass(frozen=True, eq=False)
class Along(Measurement):
    """Two readings along d that different directions are the worst of: |d_0|, and how many coordinates move."""

    direction: object = None
    metrics = (
        Metric("first", "", "lower", "size of coordinate 0"),
        Metric("filled", "coordinates", "lower", "coordinates that are not zero"),
        Metric("seen", "", "neither", "coordinate 4"),
    )
    asked = []

    def cost(self, subject):
        return Cost()

    def find(self, subject):
        d = self.direction.expand()
        Along.asked.append(repr(self.direction))
        values = {"first": abs(float(d[0])), "filled": int((d != 0).sum()), "seen": float(d[4])}
        rows = ({"direction": repr(self.direction), "first": values["first"]},)
        return Finding(values, "along", rows=rows, arrays={"d": d.numpy()})


class Forgetful(Along):
    """Does not repeat: its answer grows with each question."""

    metrics = (*Along.metrics, Metric("calls", "", "neither", "questions so far"))

    def find(self, subject):
        found = super().find(subject)
        return Finding({**found.values, "calls": len(Along.asked)}, "along", arrays=found.arrays)


LISTED = [
    Direction("axis", (1, 1), DIM), Direction("axis", (0, -1), DIM),
    Direction("sign", (0,), DIM), Direction("subspace", (3, 4), DIM),
]


def test_search(stability):
    SEARCH


def test_then():
    print("ASKED", Along.asked)
'''
OF_A_LIST = """
    for direction in LISTED:
        stability.measure(Along(direction=direction.on(BASIS)), SUBJECT)
"""
OF_DRAWS = """
    @stability.examples("along", DIM)
    @strategies.settings_for("quick")
    @given(direction=strategies.directions(DIM, BASIS))
    def search(direction):
        stability.measure(Along(direction=direction.on(BASIS)), SUBJECT)
        assert True

    search()
"""


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
        whole, _ = lines(self.folder / "journal.jsonl")
        found = [json.loads(text) for kind, text in whole if kind == "record"]
        return {record["check_id"]: record for record in found}

    @property
    def asked(self) -> list[str]:
        """The directions that the toys of a search were asked along, in order; needs -s."""
        line = next(line for line in self.text.splitlines() if "ASKED [" in line)
        return ast.literal_eval(line.split("ASKED ", 1)[1])

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

    def run(source: str, *options: str, apart: bool = False, into: str = "out") -> Inner:
        pytester.makepyfile(test_inner="import pytest\nfrom toys import *\n\n" + source)
        arguments = ("-p", "no:cacheprovider", "-p", "no:benchmark", f"--stability-report={into}", *options)
        runner = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return Inner(runner(*arguments), pytester.path / into)

    return run


@pytest.fixture
def listed() -> str:
    """Return a test file with a search through four directions, on its own measurement."""
    return ALONG.replace("    SEARCH\n", OF_A_LIST.strip("\n") + "\n")


@pytest.fixture
def drawn() -> str:
    """Return a test file with a Hypothesis search, whose `assert True` holds for each draw."""
    return ALONG.replace("    SEARCH\n", OF_DRAWS.strip("\n") + "\n")


@pytest.fixture(params=["alone", pytest.param("xdist", marks=pytest.mark.long)])
def either(request: pytest.FixtureRequest, inner: Callable[..., Inner]) -> Callable[..., Inner]:
    """As `inner`, once in one process and once with two workers."""
    if request.param == "alone":
        return inner
    pytest.importorskip("xdist")
    return lambda source, *options, into="out": inner(source, "-n", "2", *options, apart=True, into=into)
