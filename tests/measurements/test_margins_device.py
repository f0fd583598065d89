"""The flip forecast on SmolLM2 in bfloat16 against a device it has not seen: plain kernels in a fresh process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import stabilitykit as sk
from stabilitykit.numerics.calibration import auc

PROMPTS = ("The capital of France is", "Mount Everest lies on the border between", "class Stack:", "Half of 250 is")
TOKENS = 32
SAFE = 1e-4
DEVICE = {"ATEN_CPU_CAPABILITY": "default"}
PROGRAM = """
import json, sys
import stabilitykit as sk
from stabilitykit.subjects.generation import Text, first_largest

loaded = sk.load("smollm2", dtype="bfloat16")
for prompt, said in json.load(sys.stdin):
    text = Text(loaded, prompt, len(said))
    rows = [row for piece in text.forced(sk.Way(), said) for row in piece]
    print(json.dumps([[first_largest(row), float(row[token])] for row, token in zip(rows, said)]))
"""


@pytest.fixture(scope="module")
def here():
    return sk.measure(sk.Margins(PROMPTS, TOKENS), sk.load("smollm2", dtype="bfloat16"), progress=False)


@pytest.fixture(scope="module")
def there(here):
    """The ids that the other device takes, after the same tokens, and the logits of ours."""
    said = [here.arrays["tokens"][here.arrays["prompt"] == k].tolist() for k in range(len(PROMPTS))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(zip(PROMPTS, said, strict=True))),
        env={**os.environ, **DEVICE},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return np.array([row for line in done.stdout.splitlines() for row in json.loads(line)])


@pytest.mark.model
@pytest.mark.long
def test_the_other_device_flips_no_token_that_was_called_safe(here, there):
    """Most tokens are called safe; what flips there is among the rest, and has the highest forecasts.

    True on any processor if the forecast is: below SAFE stand some hundred tokens, of which it expects a thousandth.
    """
    forecast = here.arrays["forecast"]
    logits = [row["logit"] for row in here.rows if row["part"] == "token"]
    if np.array_equal(there[:, 1], logits):
        pytest.skip("this processor has one set of kernels: the other device has the same bits")
    flipped = there[:, 0] != here.arrays["tokens"]
    assert (forecast < SAFE).mean() > 0.5
    assert not flipped[forecast < SAFE].any()
    assert flipped.sum() <= here.readings["expected_flips"].high + 5
    if flipped.any():
        assert auc(forecast, flipped) > 0.9


@pytest.mark.model
@pytest.mark.long
def test_bfloat16_has_noise_that_float32_has_not(here):
    """The noise of a margin is near an ULP of the logits in both; in float32 that is 65536 times less, and no tie."""
    fine = sk.measure(sk.Margins(PROMPTS[:2], 8), sk.load("smollm2"), progress=False)
    ratio = here.readings["noise"].value / fine.readings["noise"].value
    assert 1e3 < ratio < 1e5
    assert fine.readings["exact_ties"].value == 0
    assert fine.readings["expected_flips"].value < 1e-3
    assert here.readings["distinct_ways"].value >= 3
