"""A run made by hand: each measurement that has a figure, verdicts of every tone, and the texts that break reports."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from stabilitykit.results.metric import Metric, Reading, readings
from stabilitykit.results.record import Record, Run
from stabilitykit.results.result import Execution, Result, Worst

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "a;=1+1",
    " =1",
    "＝1",
    "\r",
    "\n",
    "\x00nul",
    "\x1b[31mred",
    "\u202eright to left",
    "\u200bzero width",
    "\ud800 lone surrogate",
    "\ufffe noncharacter",
    "\u2028line",
    "NaN",
    "None",
    "",
    "\\x41 backslash",
    '"quoted", and a comma',
    "{{ 7*7 }}{% raw %}",
    "<!--",
    "&lt;",
    "'; DROP",
)

SUBJECT = {
    "name": "SmolLM2-135M-Instruct",
    "model": "SmolLM2-135M-Instruct",
    "model_digest": "9f2c1f0ab3",
    "architecture": "LlamaForCausalLM",
    "dtype": "float32",
    "device": "cpu",
    "path": "decode",
    "site": "post_norm",
    "batch": 16,
    "hidden_size": 576,
    "layers": 30,
    "prompt": "The capital of France is",
    "token_ids": [504, 3575, 282, 4649, 314],
    "proofs": {"repeatable": True, "lanes_independent": True},
}
ENVIRONMENT = {"torch": "2.12.0", "processor": "x86_64", "threads": 2, "deterministic": False}

RADIUS = Metric("radius", "L2", "higher", "largest step along the direction for which every output bit is the same")
LATTICE = Metric("lattice_radius", "L2", "neither", "step at which the rounded input itself first changes")
RHO = Metric("rho", "ratio", "neither", "radius over lattice radius: how much of the grid the model absorbs")
CELLS = Metric("cells", "count", "neither", "cells of the input crossed up to the first change")
AMPLIFICATION = Metric("amplification", "ratio", "lower", "output jump over input step at the first change")
SIGMA = tuple(Metric(f"sigma_{k}", "ratio", "lower", f"singular value {k} of the Jacobian") for k in range(1, 5))
RESIDUAL = Metric("residual_1", "ratio", "lower", "distance of the first triplet from the equation it satisfies")
BITS = Metric("differing_bits", "count", "lower", "elements whose bits differ from the row run alone")
ULP = Metric("max_ulp", "ULP", "lower", "largest difference, counted in floats between the two values")
SCALED = Metric("max_scaled_ulp", "ULP", "lower", "largest difference in units of the gap at the largest output")
RUNS = Metric("runs", "count", "neither", "repetitions compared with the first")
BOUND = Metric("rate_bound", "share", "lower", "upper bound of the rate of differing runs, at 95 % confidence")


def reading(metric: Metric, value: float, **place: str) -> Reading:
    return Reading(metric, value, place=place)


def result(measurement: str, sentence: str, metrics: Mapping[Metric, float | Reading], **parts: Any) -> Result:
    values = {metric.name: value for metric, value in metrics.items()}
    identity = parts.pop("check_id", measurement.lower())
    return Result(
        measurement=measurement,
        check_id=identity,
        title=f"{measurement}()",
        verdict=parts.pop("verdict", "measured"),
        sentence=sentence,
        readings=readings(tuple(metrics), values),
        subject=parts.pop("subject", SUBJECT),
        environment=ENVIRONMENT,
        execution=parts.pop("execution", Execution(forwards=512, screened=64, calls=36, seconds=1.25)),
        **parts,
    )


def filed(check_id: str, found: Result | None, verdict: str = "measured", **parts: Any) -> Record:
    return Record(check_id, f"stability_tests/test_it.py::test_{check_id}", verdict, found, **parts)


def fan(angles: int = 72) -> Result:
    chance = random.Random(12)
    rows = []
    for number in range(angles):
        angle = 360 * number / angles
        grid = 1.1e-9 * (1 + 0.6 * abs(math.cos(math.radians(angle * 2)))) * chance.uniform(0.8, 1.25)
        cells = chance.choice([1, 1, 2, 3, 5, 8])
        radius = grid * (1 + 0.35 * (cells - 1))
        sure = number % 17 != 3
        rows.append(
            {"angle_deg": angle, "radius": radius, "lattice_radius": grid, "rho": radius / grid, "cells": cells}
            | {"exact": sure, "censored": False, "verdict": "measured"}
        )
    least = min(rows, key=lambda row: row["radius"])
    return result(
        "StabilityFan",
        f"In {angles} directions of the plane of v1 and v2 the output stays the same, bit for bit, for steps up to "
        f"{least['radius']:.3g}; the nearest change is at {least['angle_deg']:g} degrees.",
        {
            RADIUS: reading(RADIUS, least["radius"], angle=f"{least['angle_deg']:g}", slot="3"),
            LATTICE: min(row["lattice_radius"] for row in rows),
            RHO: max(row["rho"] for row in rows),
        },
        rows=tuple(rows),
        arrays={"plane": np.eye(2, 576), "file": np.arange(3)},
        parameters={"plane": ["v1", "v2"], "angles": angles, "s_max": 1e-6},
        noise="largest difference of mathematically equal evaluations: 3.1e-6",
    )


def spectrum(count: int = 12) -> Result:
    rows = tuple(
        {"index": k, "sigma": 38.4 * k**-0.9, "residual": 2.1e-5 * k if k % 4 else 4.5} for k in range(1, count + 1)
    )
    values = {metric: rows[k]["sigma"] for k, metric in enumerate(SIGMA)}
    return result(
        "SingularSpectrum",
        "A small change of the input along v1 leaves the model 38.4 times as long.",
        {**values, RESIDUAL: 2.1e-5},
        rows=rows,
        parameters={"k": count},
        execution=Execution(backwards=64, tangents=60, calls=31, seconds=4.1),
    )


def batches() -> Result:
    rows = []
    for path in ("prefill", "decode"):
        for length in (1, 5, 17, 64):
            for size in (2, 3, 4, 8, 16, 64):
                differs = path == "prefill" and size > 2 and length > 1
                ulp = (length * size) % 23 + 1 if differs else 0
                rows.append(
                    {"path": path, "length": length, "size": size, "slot": size // 2, "neighbours": "random"}
                    | {"differing_bits": 400 * differs, "share": 0.7 * differs, "max_ulp": 900 * ulp}
                    | {"max_scaled_ulp": 0.25 * ulp, "l2": 1e-6 * ulp, "bits_equal": not differs}
                )
    return result(
        "BatchInvariance",
        "The row changes its bits among other rows: on path prefill, from batches of 3 on, in up to 5.75 scaled ULP.",
        {
            BITS: 400,
            ULP: reading(ULP, 20700, batch="8", slot="4", layer="11", path="prefill", module="=model.mlp"),
            SCALED: reading(SCALED, 5.75, batch="8", token=HOSTILE[0], neighbours="random"),
        },
        verdict="differs",
        rows=tuple(rows),
        parameters={"sizes": [2, 3, 4, 8, 16, 64], "lengths": [1, 5, 17, 64], "seed": 3},
        worst=Worst("y[117]", "alone", "-1.8249 (0xbfe9a1b2)", "in batch of 8", "-1.8251 (0xbfe9a7c0)"),
        causes=("another kernel is chosen for another batch size", "a reduction is split over threads"),
    )


def runs() -> Result:
    rows = tuple({"run": number, "differs": False, "max_ulp": 0} for number in range(1, 301))
    return result(
        "RunToRun",
        "300 of 300 repetitions gave the same bits: at 95 % confidence fewer than 0.994 % of runs differ.",
        {RUNS: 300, BITS: 0, BOUND: Reading(BOUND, 0.00994, low=0.0, high=0.00994)},
        rows=rows,
        parameters={"repetitions": 300},
    )


def changes(count: int = 48) -> Result:
    chance = random.Random(3)
    rows = []
    for number in range(count):
        grid, cells = 10 ** chance.uniform(-10, -8.4), chance.choice([1, 1, 1, 2, 2, 3, 4, 6, 9])
        radius, step = grid * (1 + 0.4 * (cells - 1)), 10 ** chance.uniform(-9, -7.5)
        jump = step * 10 ** chance.uniform(0.5, 2.4)
        rows.append(
            {"direction": f"gaussian(seed={number})", "radius": radius, "s_last_same": radius}
            | {"s_first_changed": math.nextafter(radius, 1), "lattice_radius": grid, "rho": radius / grid}
            | {"cells": cells, "coordinate": 7 * number % 576, "input_step": step, "output_jump": jump}
            | {"amplification": jump / step, "exact": number % 9 != 4, "censored": number == 20, "slot": number % 16}
            | {"verdict": "measured"}
        )
    return result(
        "FirstChange",
        "The output stays the same, bit for bit, for steps up to 1.02e-10 along the nearest of 48 directions.",
        {RADIUS: min(row["radius"] for row in rows), CELLS: 9, AMPLIFICATION: max(r["amplification"] for r in rows)},
        rows=tuple(rows),
        parameters={"directions": count, "s_max": 1e-6},
    )


def worst_direction() -> Result:
    row = {"direction": "axis(417, sign=-1)", "radius": 3.1e-11, "lattice_radius": 3.1e-11, "rho": 1.0, "cells": 1}
    more = {"input_step": 2.9e-11, "output_jump": 8.8e-7, "amplification": 30344.8, "exact": True, "censored": False}
    return result(
        "FirstChange",
        "The worst of 200 drawn directions is one coordinate: a step of 2.9e-11 moves the output 30345 times as far.",
        {
            RADIUS: reading(RADIUS, 3.1e-11, direction="axis(417, sign=-1)"),
            AMPLIFICATION: reading(AMPLIFICATION, 30344.8, direction="axis(417, sign=-1)"),
        },
        rows=(row | more,),
        parameters={"direction": "axis(417, sign=-1)", "seed": 11},
    )


def hostile() -> Result:
    count = Metric("tokens", "count", "neither", "tokens read: <b>not markup</b>")
    worst = Metric("margin", "<logit>", "higher", "=distance to the runner-up")
    rows = tuple({"token": text, "token_id": number, "=margin": math.inf} for number, text in enumerate(HOSTILE))
    return result(
        "TokenTable",
        f"Hostile sentence {HOSTILE[1]} {HOSTILE[14]}",
        {count: len(HOSTILE), worst: Reading(worst, -math.inf, low=math.nan, high=1e300, place={"token": HOSTILE[2]})},
        rows=rows,
        subject={**SUBJECT, "prompt": "".join(HOSTILE), "dtype": "bfloat16", "name": HOSTILE[0]},
        parameters={"text": HOSTILE[3], HOSTILE[2]: HOSTILE[16]},
        noise=HOSTILE[13],
    )


def made_records() -> list[Record]:
    failure = (
        "BatchInvariance(sizes=[2, 3, 4, 8, 16, 64]): max_scaled_ulp 5.75 breaks <= 4 on SmolLM2-135M-Instruct "
        "[float32, cpu, decode, post_norm]\n\n  metric          observed  limit  unit\n"
        "  max_ulp            20700      -  ULP\n  max_scaled_ulp      5.75   <= 4  ULP\n\n"
        "worst at y[117]: alone -1.8249 (0xbfe9a1b2)   in batch of 8 -1.8251 (0xbfe9a7c0)\n\n"
        "This usually means (a) another kernel is chosen for another batch size, or (b) a reduction is split."
    )
    limits = {"max_scaled_ulp": "<=4"}
    return [
        filed("run_to_run[smollm2-float32]", runs(), "pass", limits={"differing_bits": "==0"}, gate=True),
        filed("batch_invariance[smollm2-float32]", batches(), "fail", message=failure, limits=limits, gate=True),
        filed("batch_invariance[smollm2-bfloat16]", batches(), "differs", worker="gw1"),
        filed("first_change[smollm2-float32]", changes(), "new"),
        filed("first_change_worst[smollm2-float32]", worst_direction(), examples=200),
        filed("singular_spectrum[smollm2-float32]", spectrum()),
        filed("stability_fan[smollm2-float32]", fan()),
        filed("margins[tiny]", None, "invalid", message="tiny: output 3 of row 0 is nan; nothing is measured"),
        filed("ties[tiny]", None, "skipped", message="not in profile quick"),
        filed(f"hostile[{HOSTILE[1]}]", hostile(), message=f"first {HOSTILE[14]}\nsecond {HOSTILE[0]}"),
    ]


def made_run() -> Run:
    return Run(
        run_id="20250102T030405Z-1a2b",
        started="2025-01-02T03:04:05+00:00",
        command=f"pytest --stability-suite {HOSTILE[0]}",
        settings={"profile": "quick", "dtype": "float32", "seed": 0, "hostile": HOSTILE[2]},
        environment={**ENVIRONMENT, "host": HOSTILE[16]},
        notes=("2 checks were left out: the budget of 300 seconds was spent.",),
    )
