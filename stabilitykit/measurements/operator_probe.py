"""Which bits does this machine give for the operations a model is made of, and how near to the truth are they?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics import statistics
from stabilitykit.numerics.accuracy import accuracy
from stabilitykit.numerics.digest import digest
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Row
from stabilitykit.subjects.operators import OPERATORS, Machine, Operator, chain
from stabilitykit.subjects.precision import true_float64


@dataclass(frozen=True, eq=False)
class OperatorProbe(Measurement[Machine]):
    """Digest and accuracy of a set of operations on stored inputs: an identity for a device, operation by operation.

    Inputs are nearly normal, made on the CPU from integers drawn from `seed`, rounded once to the dtype, so every
    machine has the same ones; their digest is in the row. The operations are `operators.OPERATORS` and the study's
    chain X W_1 ... W_k, `chain` = (k, dim). Each is run `repeats` times after a first. Rows: operator, family,
    input_digest, digest (SHA-256 of the output), differing_runs, correct (share), max_ulp, median_ulp, max_scaled_ulp
    against true float64 rounded once; of float64 itself that says nothing. `probe`, in the result's subject, is a
    digest of all rows: equal probes mean that these operations are one device. An operation that the dtype lacks has
    a row that says so. UsageError for no repetition. Cost: repeats + 1 calls each, and the truth; no model.
    Source: the study's experiment 10.1-2, which drew its inputs on the device.
    """

    repeats: int = 10
    chain: tuple[int, int] = (10, 256)
    seed: int = 0
    confidence: float = 0.95

    needs: ClassVar[type[Machine]] = Machine
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("operators", "operators", "neither", "operations that ran"),
        Metric("unsupported", "operators", "lower", "operations that the dtype or device lacks"),
        Metric("differing_operators", "operators", "lower", "operations of which a repetition gave other bits"),
        Metric(
            "rate_bound",
            "share",
            "lower",
            "upper confidence bound on the rate of differing repetitions, taken together",
        ),
        Metric("max_ulp", "ULP", "lower", "largest distance from true float64, rounded once, near zero too"),
        Metric("max_scaled_ulp", "ULP", "lower", "largest difference from true float64 over the row's largest ULP"),
    )
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"differing_operators": "<= 0"}
    causes: ClassVar[tuple[str, ...]] = (
        "an atomic or racing reduction, if a repetition differs",
        "a narrow accumulator or a fast approximation, if an operation is many scaled ULP from the truth",
    )

    def __post_init__(self) -> None:
        """Refuse what compares nothing."""
        if self.repeats < 1:
            raise UsageError(f"repeats={self.repeats} compares nothing; give at least 1")
        if min(self.chain) < 1:
            raise UsageError(f"chain={self.chain}: give how many products, and of which dimension")

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operations, the chain last."""
        return (*OPERATORS, chain(*self.chain))

    def cost(self, subject: Machine) -> Cost:
        """An upper bound: an operation that the dtype lacks is called once."""
        return Cost(calls=(self.repeats + 1) * len(self.operators))

    def find(self, subject: Machine) -> Finding:
        """Run every operation again and again, and once in true float64."""
        rows: list[Row] = []
        with bar(len(self.operators), "operators", "operator") as progress:
            for operator in self.operators:
                rows.append(self._row(subject, operator))
                progress.update()
        ran = [row for row in rows if row["verdict"] != "unsupported"]
        differing = [row for row in ran if row["differing_runs"]]
        probe = identity(ran)
        return Finding(
            self._values(rows, ran, differing),
            _sentence(ran, differing, probe, self.repeats),
            verdict="differs" if differing else "pass",
            rows=tuple(rows),
            about={"probe": probe},
        )

    def _row(self, machine: Machine, operator: Operator) -> Row:
        inputs = operator.inputs(machine.dtype, self.seed)
        row = {"operator": operator.name, "family": operator.family, "input_digest": digest(*inputs)}
        try:
            first = machine.run(operator, inputs)
        except UnsupportedError as error:
            return {**row, "verdict": "unsupported", "reason": str(error)}
        found = digest(first)
        others = sum(digest(machine.run(operator, inputs)) != found for _ in range(self.repeats))
        with torch.no_grad(), true_float64():
            truth = operator.run(*(one.double() for one in inputs))
        return {
            **row,
            "verdict": "differs" if others else "pass",
            "digest": found,
            "differing_runs": others,
            **_accuracy(first, truth),
        }

    def _values(self, rows: Sequence[Row], ran: Sequence[Row], differing: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        values: dict[str, float | Reading] = {
            "operators": len(ran),
            "unsupported": len(rows) - len(ran),
            "differing_operators": len(differing),
            "rate_bound": statistics.rate_bound(
                sum(row["differing_runs"] for row in ran), self.repeats * len(ran), self.confidence
            ),
        }
        for name in ("max_ulp", "max_scaled_ulp"):
            worst = max(ran, key=lambda row: math.inf if math.isnan(row[name]) else row[name])
            values[name] = Reading(schema[name], worst[name], place={"op": worst["operator"]})
        return values


@lru_cache(16)
def probe(dtype: torch.dtype, device: str, threads: int) -> str:
    """Return `identity` of a machine whose operations are run once each: who a device is, without how it fares.

    `threads` is the ambient number, on which the answer depends: it is here to be asked anew when that changes. Cost:
    about a second on a CPU.
    """
    asked, machine, rows = OperatorProbe(), Machine(dtype, device), []
    for operator in asked.operators:
        try:
            output = machine.run(operator, operator.inputs(dtype, asked.seed))
        except UnsupportedError:
            continue
        rows.append({"operator": operator.name, "digest": digest(output)})
    return identity(rows)


def identity(rows: Sequence[Row]) -> str:
    """Return 12 hexadecimal digits over every operation's name and output digest, in order."""
    text = "\n".join(f"{row['operator']} {row['digest']}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _accuracy(y: Tensor, truth: Tensor) -> dict[str, Any]:
    """Compare as rows of the last axis; nothing of the inputs' own rounding is excused here."""
    M = y.shape[-1]
    found = accuracy(y.reshape(-1, M), truth.reshape(-1, M).cpu(), torch.zeros(y.numel() // M, dtype=torch.float64))
    return {
        "correct": found.correct / found.elements,
        "max_ulp": found.max_ulp,
        "median_ulp": found.median_ulp,
        "max_scaled_ulp": found.max_scaled_ulp,
    }


def _sentence(ran: Sequence[Row], differing: Sequence[Row], probe: str, repeats: int) -> str:
    if differing:
        return f"Repeated {repeats} times, {', '.join(row['operator'] for row in differing)} gave other bits."
    worst = max(ran, key=lambda row: row["max_scaled_ulp"])
    return (
        f"{len(ran)} operations, each repeated {repeats} times, gave the same bits: of all repetitions "
        f"{statistics.sentence(0, repeats * len(ran))}, of each operation's {statistics.sentence(0, repeats)}. The "
        f"farthest from true float64 is {worst['operator']}, {worst['max_scaled_ulp']:.3g} scaled ULP. Their digest is "
        f"{probe}."
    )
