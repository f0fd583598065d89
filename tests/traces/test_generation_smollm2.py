"""Two devices without a GPU: really other kernels, a real model, and tokens that an independent script confirms."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stabilitykit as sk
from stabilitykit.prompts import GENERATION_PROMPTS
from stabilitykit.traces.elsewhere import Ask, record_elsewhere, setting_named

pytestmark = pytest.mark.model

SCRIPT = Path(__file__).with_name("plain_generation.py")
PROMPTS, TOKENS = GENERATION_PROMPTS[:5], 27
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Both sides compute with one thread, whatever this process has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(loaded, environ):
    """Return the tokens of each prompt as the independent script finds them under these variables."""
    asked = json.dumps([prompt.text for prompt in PROMPTS])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), loaded.source, "bfloat16", str(TOKENS), asked],
        env={**os.environ, **ONE, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def first_other(ours, theirs):
    """Return the first index at which two lists differ, None if they do not."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False)]
    differing = [index for index, (a, b) in enumerate(pairs) if a != b]
    if differing:
        return differing[0]
    return None if len(ours) == len(theirs) else len(pairs)


@pytest.mark.long
def test_in_bfloat16_texts_part_where_an_independent_script_says(tmp_path):
    loaded = sk.load("smollm2", dtype="bfloat16")
    ask = Ask(PROMPTS, TOKENS, level="block")
    native, portable = (record_elsewhere(loaded, setting_named(name), ask) for name in ("cpu-native", "cpu-aten"))
    result = sk.measure(sk.TraceComparison(native, distinct=True), portable, progress=False)
    ours, theirs = plain(loaded, {}), plain(loaded, {"ATEN_CPU_CAPABILITY": "default"})
    rows = [row for row in result.rows if row["part"] == "prompt"]
    assert [one.tokens.tolist() for one in native.generations] == ours
    assert [one.tokens.tolist() for one in portable.generations] == theirs
    found = [row["divergence_index"] for row in rows]
    assert found == [first_other(a, b) for a, b in zip(ours, theirs, strict=True)]
    parted = [row for row in rows if row["divergence_index"] is not None]
    assert len(parted) >= 4
    assert result.verdict == "differs"
    for row in parted:  # a near-tie each time: one unit of bfloat16, or none
        assert min(row["margin_ulp"], row["other_margin_ulp"]) <= 1
        assert row["explained"]


def test_in_float32_bits_differ_and_no_token_does_and_the_sentence_says_exactly_that(smollm2_float32):
    here = sk.CrossDevice("cpu-mkl", prompts=PROMPTS[:2], tokens=8)
    result = sk.measure(here, smollm2_float32, progress=False)
    assert result.verdict == "differs"
    assert result.readings["share_diverged"].value == 0
    assert result.readings["differing_stages"].value > 0
    assert result.sentence.startswith("All 16 tokens of 2 prompts are equal. ")
    assert " digests differ, the first at stage module:model.layers.0.self_attn.q_proj of step 0." in result.sentence


@pytest.mark.long
def test_the_same_setting_gives_nothing_that_differs_in_twenty_repeats(smollm2_float32):
    result = sk.measure(sk.Trace(prompts=PROMPTS[:1], tokens=2, repeats=20), smollm2_float32, progress=False)
    assert result.verdict == "pass"
    assert result.readings["differing_stages"].value == 0
    assert result.readings["compared_stages"].value == 20 * 2 * result.readings["stages"].value


@pytest.mark.long
def test_a_fresh_process_in_the_same_setting_is_not_distinct(smollm2_float32):
    result = sk.measure(sk.CrossDevice("cpu-native", prompts=PROMPTS[:1], tokens=3), smollm2_float32, progress=False)
    assert result.verdict == "not-distinct"


@pytest.fixture(scope="module")
def smollm2_float32():
    return sk.load("smollm2")
