"""Tensor parallelism as a device: other bits from the first sum over ranks on, the same tokens, and clear refusals."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stabilitykit as sk
from stabilitykit.subjects import launch, standing
from stabilitykit.traces import sharded
from stabilitykit.traces.elsewhere import Ask, record_elsewhere, setting_named
from stabilitykit.traces.sharded import equal_stages

PAGE = Path(__file__).parents[2] / "docs" / "many-devices.md"
ASK = {"prompts": ("ab",), "tokens": 3}


def test_two_ranks_part_at_the_first_sum_over_both_as_the_page_says(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    shown = block.split("# ")[1].strip()
    assert capsys.readouterr().out.strip() == shown
    result = names["result"]
    assert result.verdict == "differs"
    assert shown.endswith("layers.0.self_attn.o_proj")
    assert result.readings["share_diverged"].value == 0
    assert 0 < result.readings["max_kl"].value < 1e-10
    changed = {row["field"]: (row["reference"], row["this"]) for row in result.rows if row["part"] == "environment"}
    assert changed["tensor_parallel"] == ("None", "2")
    assert "they are one device" not in result.sentence


def test_what_cannot_be_shared_is_refused_before_any_process_starts(tiny, monkeypatch):
    def refused(name, loaded, **asked):
        with pytest.raises(sk.UnsupportedError) as caught:
            record_elsewhere(loaded, setting_named(name), Ask(**{**ASK, **asked}))
        return str(caught.value)

    monkeypatch.setattr("stabilitykit.subjects.launch.ask", None)
    assert "4 heads and 2 key-value heads of tiny are not shared out evenly among 3" in refused("cpu-tp3", tiny)
    assert "GPT2LMHeadModel has no plan" in refused("cpu-tp2", sk.load("tiny:gpt2"))
    assert "single operations of a share" in refused("cpu-tp2", tiny, level="op")


def test_shares_of_other_weights_are_refused(tiny, monkeypatch):
    """A folder may have changed since the model was loaded."""
    other = sk.load("tiny").model
    other.lm_head.weight[3, 5] += 1e-6
    monkeypatch.setattr(sharded.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: other)
    with pytest.raises(sk.UnsupportedError, match="are not the whole; nothing is recorded"):
        sharded.sharded(tiny, "folder", 2)


def test_names():
    assert setting_named("cpu-tp12").ranks == 12
    for name in ("cpu-tp1", "cpu-tp0", "cpu-tp"):
        with pytest.raises(sk.UsageError, match="cpu-tp2"):
            setting_named(name)


def test_a_stage_is_shared_where_all_ranks_have_its_bits_in_every_step_of_every_prompt():
    digests = np.random.default_rng(0).integers(0, 256, (2, 4, 16), dtype=np.uint8)
    other, third = digests.copy(), digests.copy()
    other[1, 2, 15] ^= 1
    third[0, 0, 0] ^= 1
    assert equal_stages([[digests, digests], [digests, other], [third, digests]]).tolist() == [False, True, False, True]
    assert equal_stages([[digests]]).all()


def test_the_reason_of_a_rank_is_found_among_what_its_launcher_says():
    said = "[rank1]: Traceback\n[rank1]: stabilitykit.errors.UnsupportedError: no shares\nE1130 ...\n=====\n"
    assert launch._reason(said) == "stabilitykit.errors.UnsupportedError: no shares"
    assert launch._reason("Killed\n") == "Killed"
    assert launch._reason("") == "no message"


@pytest.mark.parametrize(("heeds", "grace"), [(True, 30.0), (False, 0.2)])
def test_a_launcher_that_is_given_up_can_take_its_processes_along(tmp_path, monkeypatch, heeds, grace):
    told = tmp_path / "told"
    ending = f"open({str(told)!r}, 'w').close()" + ("; sys.exit(0)" if heeds else "")
    source = (
        "import signal, sys, time\n"
        f"def end(*_):\n    {ending}\n"
        "signal.signal(signal.SIGTERM, end)\nsys.stderr.write('x')\n"
        "while True:\n    time.sleep(0.05)\n"
    )
    monkeypatch.setattr(standing, "GRACE", grace)
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        launch._run([sys.executable, "-c", source], os.environ, 2.0)
    assert told.exists()
    assert time.monotonic() - begun < 20


@pytest.mark.long
@pytest.mark.model
def test_smollm2_is_shared_among_three_but_not_two():
    loaded = sk.load("smollm2")
    asked = {"prompts": ("The capital of France is",), "tokens": 4}
    with pytest.raises(sk.UnsupportedError, match="9 heads and 3 key-value heads of smollm2"):
        record_elsewhere(loaded, setting_named("cpu-tp2"), Ask(**asked))
    result = sk.measure(sk.CrossDevice("cpu-tp3", **asked), loaded, progress=False)
    assert result.readings["first_step"].place["stage"] == "module:model.layers.0.self_attn.o_proj"
    assert result.readings["share_diverged"].value == 0
