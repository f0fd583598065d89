"""T19: what checks take beside what they said before: rows through the model, memory, and the time they were given."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torture.campaign import Campaign, scratch
from torture.suite_session import QUICKEST, checks
from torture.tree import ROOT

MODELS = ("tiny", "smollm2")
FACTOR, SLACK = 2, 100
"""Rows that may be taken for one that was stated, and rows more."""
MEMORY = {"tiny": 1.5, "smollm2": 4.0}
"""GiB that a process of the suite may hold at most."""
BUDGET, LAST = 5.0, 60.0
"""Seconds of `--stability-budget`, and how long the test that had begun may go on."""
# Not the peak of getrusage: that of a process begins with what the one held that started it.
_PEAK = "import pytest, re, sys; code = pytest.main(sys.argv[2:]); status = open('/proc/self/status').read(); "
_PEAK += "open(sys.argv[1], 'w').write(re.search(r'VmHWM:\\s+(\\d+)', status)[1]); sys.exit(code)"


def session(model: str, words: list[str]) -> tuple[dict[str, Any], float]:
    """Return the run.json of a session of the suite and the most memory that its process held, in GiB."""
    folder = scratch("budget")
    command = [sys.executable, "-c", _PEAK, str(folder / "peak"), "-q", "-p", "no:cacheprovider"]
    command += ["-p", "stabilitykit.plugin", f"--rootdir={folder}", "--stability-model", model]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ["PYTHONPATH"] = str(ROOT)
    subprocess.run(
        [*command, "--stability-report", str(folder / "report"), *words],
        cwd=folder, env=environ, capture_output=True, timeout=3600, check=False,
    )  # fmt: skip
    data = json.loads((folder / "report" / "run.json").read_text(encoding="utf-8"))
    return data, int(Path(folder / "peak").read_text(encoding="utf-8")) / 2**20


def run(number: int) -> str | None:
    """Look at one check on one model, or at a whole run that was given a few seconds."""
    if number >= len(MODELS) * len(checks()):
        return cut_off()
    model, test = MODELS[number // len(checks())], checks()[number % len(checks())]
    return judged(model, *session(model, [f"{ROOT}/stability_tests/{test}"]))


def judged(model: str, data: dict[str, Any], peak: float, factor: float = FACTOR) -> str | None:
    """Return which check took more than it had said."""
    for one in data["records"]:
        if one["result"] is None:
            continue
        spent, said = one["result"]["execution"], one["stated"]
        took = spent["forwards"] + spent["backwards"] + spent["tangents"]
        stated = said.get("forwards", 0) + said.get("backwards", 0)
        if took > factor * stated + SLACK * (factor > 1):
            return f"{one['check_id']} stated {stated} rows through the model and took {took}"
    return f"{model}: {peak:.2f} GiB were held, {MEMORY[model]} are allowed" if peak > MEMORY[model] else None


def cut_off() -> str | None:
    """Give the whole suite a few seconds: it ends soon after, and names what was not measured."""
    begun = time.monotonic()
    data, _ = session("tiny", ["--stability-suite", f"--stability-budget={BUDGET}"])
    took, notes = time.monotonic() - begun, " ".join(data["run"]["notes"])
    left = [one for one in data["records"] if one["verdict"] == "skipped"]
    if took > BUDGET + LAST or not left or f"{len(left)} checks were not measured" not in notes:
        return f"a budget of {BUDGET:g} s: {took:.0f} s were taken, {len(left)} checks left out; said: {notes[:200]}"
    return None


@functools.cache
def _first() -> tuple[dict[str, Any], float]:
    return session("tiny", [f"{ROOT}/stability_tests/{QUICKEST}"])


def _liar(_number: int) -> str | None:
    """Hold a check to half of what it stated."""
    return judged("tiny", *_first(), factor=0.5)


def _hoarder(_number: int) -> str | None:
    data, peak = _first()
    return judged("tiny", data, peak + MEMORY["tiny"])


CAMPAIGNS = [
    Campaign(
        "T19", "rows through the model as stated, memory below its bound, and a budget that is kept", "checks",
        full=len(MODELS) * len(checks()) + 1, ci=1, trial=run,
        planted={"a check that takes twice what it stated": _liar, "memory that nobody stated": _hoarder},
        note="a check may take twice the rows it stated; 1.5 GiB with a tiny model, 4 GiB with SmolLM2",
    ),
]  # fmt: skip
