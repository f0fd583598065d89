"""The story that baselines are for, on a real model's checks: nothing changed, one bit of one weight, other threads."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from stabilitykit.baselines.store import read
from stabilitykit.numerics.bits import nudge
from stabilitykit.subjects.models import load

SOURCE = """
import stabilitykit as sk

def test_boundary(stability, stability_model):
    subject = stability.subject("The sky is")
    stability.measure(sk.FirstChange(direction="v1"), subject)

def test_repeats(stability, stability_subject):
    stability.measure(sk.RunToRun(runs=2), stability_subject)
"""


@pytest.fixture
def story(inner, pytester):
    """Run two checks on a model in a folder, whose weights are the test's to change."""
    tiny = load("tiny")
    tiny.model.save_pretrained(pytester.path / "model")
    tiny.tokenizer.save_pretrained(pytester.path / "model")
    return lambda *more, into: inner(SOURCE, "--stability-model=./model", *more, into=into)


def nudge_a_weight(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    weight = tensors["model.layers.1.mlp.down_proj.weight"]
    weight[0, 0] = nudge(weight[0, 0], 1)
    save_file(tensors, path, metadata={"format": "pt"})


def test_save_keep_nudge_other_threads_update(story, pytester):
    saved = story("--stability-save=main", into="saved")
    saved.result.assert_outcomes(passed=2)
    path = pytester.path / ".stability" / "main.jsonl"

    again = story("--stability-baseline=main", "--stability-require-baseline", into="again")
    again.result.assert_outcomes(passed=2)
    assert set(again.verdicts.values()) == {"pass"}

    nudge_a_weight(pytester.path / "model")
    nudged = story("--stability-baseline=main", into="nudged")
    nudged.result.assert_outcomes(passed=1, failed=1)
    failed, passed = sorted(nudged.records.values(), key=lambda record: record["verdict"])
    assert (failed["result"]["measurement"], failed["verdict"]) == ("FirstChange", "fail")
    assert (passed["result"]["measurement"], passed["verdict"]) == ("RunToRun", "pass")
    (entry,) = read(path).of(failed["check_id"])
    now = failed["result"]["environment"]["weight_digest"]
    assert f"Changed since: weights was {entry.weights[:12]}, is {now[:12]}." in failed["message"]
    moved = {name: one["kind"] for name, one in failed["baseline"]["readings"].items()}
    assert (moved["output_jump"], moved["lattice_radius"]) == ("worse", "same"), "along the vector that v1 was"
    assert failed["message"].startswith("FirstChange(direction=v1 as recorded): output_jump ")

    before, count = path.read_bytes(), torch.get_num_threads()
    try:
        torch.set_num_threads(count + 1)
        other = story("-k", "repeats", "--stability-baseline=main", into="other")
        other.result.assert_outcomes(passed=1, deselected=1)
        ((check, record),) = other.records.items()
        assert record["verdict"] == "incomparable"
        assert f"other numeric environments only; threads was {count}, is {count + 1}" in record["message"]
        assert path.read_bytes() == before
        story("-k", "repeats", "--stability-baseline=main", "--stability-update=new", into="other")
        assert len(read(path).of(check)) == 2
    finally:
        torch.set_num_threads(count)

    story("--stability-baseline=main", "--stability-update=all", into="updated").result.assert_outcomes(passed=2)
    green = story("--stability-baseline=main", "--stability-require-baseline", into="green")
    green.result.assert_outcomes(passed=2)
    assert set(green.verdicts.values()) == {"pass"}
    assert len(read(path).entries) == 3
