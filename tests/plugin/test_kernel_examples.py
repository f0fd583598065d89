"""A test of a kernel under Hypothesis is one row, and a failure names the smallest shape."""

import re

KERNELS = """
import torch
from hypothesis import given, settings
import stabilitykit as sk
from stabilitykit import strategies
from stabilitykit.numerics.bits import nudge

def tiled(x):
    y = x.clone()
    if x.dtype == torch.float32 and x.shape[1] >= 5:
        y[0, -1] = nudge(y[0, -1], 100)
    return y

GOOD, BAD = sk.Kernel(torch.clone, "bh->bh", name="good"), sk.Kernel(tiled, "bh->bh", name="bad")
searched = settings(database=None, max_examples=30, derandomize=True, deadline=None)

@searched
@given(shape=strategies.shapes(GOOD, 12))
def test_good(stability, shape):
    stability.measure(sk.KernelAccuracy(shapes=[shape], draws=["normal"], tries=1), GOOD).check(max_ulp=0)

@searched
@given(shape=strategies.shapes(BAD, 12))
def test_bad(stability, shape):
    stability.measure(sk.KernelAccuracy(shapes=[shape], draws=["normal"], tries=1), BAD).check(max_ulp=4)

def test_wrong_kind(stability):
    stability.measure(sk.RunToRun(), GOOD)
"""


def test_examples_of_shapes_become_one_row(inner):
    run = inner(KERNELS)
    run.result.assert_outcomes(passed=1, failed=2)
    good, bad = (run.records[f"kernel_accuracy[test_{name}]"] for name in ("good", "bad"))
    assert (good["verdict"], bad["verdict"]) == ("measured", "fail")
    assert good["examples"] >= 30
    worst = {reading["metric"]: reading for reading in bad["result"]["readings"]}["max_ulp"]
    assert worst["value"] == 100
    assert re.search(r"shape=\(\s*E?\s*1,[^)]*\b5,", run.result.stdout.str())
    run.result.stdout.fnmatch_lines(["*RunToRun is asked of a Subject, not of a Kernel; make one with Causal*"])
