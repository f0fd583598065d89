"""Two real recordings of SmolLM2 in bfloat16, made by processes with other kernels: what the drift says is so."""

import math
import os
from fractions import Fraction
from pathlib import Path

import pytest

import stabilitykit as sk
from stabilitykit.subjects import launch
from stabilitykit.traces.store import read_recording

ASKED = {"dtype": "bfloat16", "prompts": 1, "tokens": 24}
ROOT = Path(sk.__file__).parents[1]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    found = []
    for name, environ in (("native", {}), ("portable", {"ATEN_CPU_CAPABILITY": "default"})):
        place = tmp_path_factory.mktemp(name)
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        launch.ask("oracles.recorder", place, ASKED, {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environ}, 500)
        found.append(read_recording(place / "recording"))
    native, portable = found
    if native.probe == portable.probe:
        pytest.skip("this processor has no other kernels than the portable ones")
    return native, portable, sk.measure(sk.Drift(native, sk.load("smollm2", dtype="bfloat16")), portable)


def rows(result, part):
    return [row for row in result.rows if row["part"] == part]


@pytest.mark.model
def test_states_drift_from_equal_embeddings_and_the_bits_agree_with_the_digests(measured):
    native, portable, result = measured
    assert result.readings["embedding_equal"].value == 1
    assert result.readings["max_ulp"].value > 0
    assert 0 < result.readings["relative_l2"].value < 0.1
    a, b = native.generations[0], portable.generations[0]
    assert result.readings["compared"].value == len(rows(result, "token"))
    stages = rows(result, "stage")
    step = stages[0]["position"]
    assert step > 0  # one token a forward: then a digest is of this one vector
    assert len(stages) > 400
    for row in stages:
        if row["stage"] != "module:model.rotary_emb":  # whose digest is of two tensors
            index = native.stage(row["stage"])
            assert row["bit_equal"] == (a.digests[step, index] == b.digests[step, index]).all(), row["stage"]
    for row in rows(result, "token"):
        left, right = (one.states["post_norm"][row["position"]].double().tolist() for one in (a, b))
        l2 = math.sqrt(sum((Fraction(y) - Fraction(x)) ** 2 for x, y in zip(left, right, strict=True)))
        assert row["l2"] == pytest.approx(l2, rel=1e-12)


@pytest.mark.model
def test_the_head_repeats_both_runs_and_the_lens_ends_in_their_logits(measured):
    native, portable, result = measured
    result.check(head_same=1, head_bits=1)
    for flip in rows(result, "flip"):
        step = flip["position"]
        ends = rows(result, "preference")[-1]
        assert (ends["stage"], ends["position"]) == ("logits", step)
        for run, own, one in (("a", "token_a", native), ("b", "token_b", portable)):
            generation = one.generations[0]
            assert generation.tokens[step] == flip[own]
            assert ends[f"prefers_{run}"] in (run, "tie")
            assert flip[f"tie_{run}"] == (ends[f"prefers_{run}"] == "tie")
            logits = dict(zip(generation.top_ids[step].tolist(), generation.top_logits[step].tolist(), strict=True))
            assert ends[f"ahead_{run}"] == logits[flip["token_a"]] - logits[flip["token_b"]]
        assert native.generations[0].tokens[:step].tolist() == portable.generations[0].tokens[:step].tolist()
