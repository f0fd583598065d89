"""A test that leaves torch changed fails with the setting's name, and does not touch the next one."""

import pytest

LEAKS = {
    "number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "grad mode": "torch.set_grad_enabled(not torch.is_grad_enabled())",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True, warn_only=True)",
    "float32 matmul precision": "torch.set_float32_matmul_precision('medium')",
    "math attention": "torch.backends.cuda.enable_math_sdp(False)",
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_named_and_put_back(inner, name):
    run = inner(
        f"""
from stabilitykit.plugin.hygiene import _SETTINGS

BEFORE = {{name: setting.read(torch) for name, setting in _SETTINGS.items()}}

def test_leaks(stability):
    stability.measure(ToyDrift(0.0), TOY)
    {LEAKS[name]}

def test_next(stability):
    assert {{name: setting.read(torch) for name, setting in _SETTINGS.items()}} == BEFORE
"""
    )
    run.result.assert_outcomes(failed=1, passed=1)
    assert f"the test left torch's {name} at" in run.text
    assert run.verdicts["toy_drift[test_leaks]"] == "fail"


def test_a_leak_is_a_note_on_another_failure(inner):
    run = inner(
        """
def test_leaks(stability):
    torch.set_num_threads(torch.get_num_threads() + 1)
    assert False, "first of all"
"""
    )
    run.result.assert_outcomes(failed=1)
    assert "first of all" in run.text
    assert "the test left torch's number of threads" in run.text


def test_other_tests_are_left_alone(inner):
    source = "def test_mine():\n    torch.set_num_threads(torch.get_num_threads() + 1)\n"
    source += "\ndef test_back():\n    torch.set_num_threads(torch.get_num_threads() - 1)\n"
    inner(source).result.assert_outcomes(passed=2)


MODEL = """
import stabilitykit as sk

LOADED = sk.load("tiny")

def ask(stability, runs=1):
    stability.measure(sk.RunToRun(runs=runs), sk.CausalLMSubject(LOADED, [1, 2, 3]))

def test_before(stability):
    ask(stability)

def test_changes(stability):
    ask(stability)
    {change}

def test_after(stability):
    ask(stability)
"""
CHANGES = {
    "weight 'model.layers.1.mlp.up_proj.weight'": "LOADED.model.model.layers[1].mlp.up_proj.weight[3, 5] = 7.0",
    "weight 'model.norm.weight'": "LOADED.model.model.norm.weight.data = LOADED.model.model.norm.weight * 1.0",
    "module 'model.layers.2'": "LOADED.model.model.layers[2].train()",
    "module 'lm_head'": "LOADED.model.lm_head.register_forward_hook(lambda *_: None)",
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_model_that_a_test_changed_is_named_and_then_refused(inner, part):
    """What is measured afterwards would be filed under the digest of other weights."""
    run = inner(MODEL.format(change=CHANGES[part]))
    run.result.assert_outcomes(passed=1, failed=2)
    assert f"the test left {part} of tiny changed" in run.text
    assert f"{part} of tiny is not what it was when it was first measured" in run.text


def test_a_model_that_is_put_back_in_the_test_is_no_finding(inner):
    lines = "handle = LOADED.model.lm_head.register_forward_hook(lambda *_: None); ask(stability, 2); handle.remove()"
    inner(MODEL.format(change=lines)).result.assert_outcomes(passed=3)
