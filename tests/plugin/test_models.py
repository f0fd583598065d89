"""Tests that ask for a model run once for each model and dtype; a user's own model replaces them all."""

import pytest

import stabilitykit.errors

HOOK = """
def pytest_stability_load_model(spec, dtype):
    return None if spec == "smollm2-absent" else f"{spec} in {dtype}"
"""
ASKS = """
def test_model(stability_model):
    print("MODEL", stability_model)

def test_plain():
    pass
"""


def passed(run):
    return [line.split("::", 1)[1].split()[0] for line in run.result.outlines if "::" in line and "PASSED" in line]


def test_one_test_for_each_model_and_dtype(pytester, inner):
    pytester.makeconftest(HOOK)
    run = inner(
        ASKS, "-v", "--stability-model=/some/folder/mine", "--stability-model=org/name@main",
        "--stability-dtype=float32,bfloat16",
    )  # fmt: skip
    ids = ["mine-float32", "mine-bfloat16", "name@main-float32", "name@main-bfloat16"]
    assert passed(run) == [*(f"test_model[{one}]" for one in ids), "test_plain"]


def test_a_model_is_loaded_once_and_let_go_before_the_next(pytester, inner):
    pytester.makeconftest(
        """
class Model:
    alive = []

    def __init__(self, dtype):
        self.dtype = dtype
        Model.alive.append(dtype)

    def __del__(self):
        Model.alive.remove(self.dtype)

def pytest_stability_load_model(dtype):
    assert not Model.alive, Model.alive
    return Model(dtype)
"""
    )
    source = "\ndef test_a(stability_model):\n    pass\n\ndef test_b(stability, stability_model):\n"
    source += "    assert stability.load(dtype=stability_model.dtype) is stability_model\n"
    inner(source, "--stability-dtype=float32,bfloat16").result.assert_outcomes(passed=4)


@pytest.mark.parametrize("body", ["stability): return 'my own'", "stability_model): yield f'own {stability_model}'"])
def test_an_overridden_model_is_what_is_tested(pytester, inner, body):
    """Extending the plugin's fixture keeps its repetition; replacing it ends it."""
    pytester.makeconftest(HOOK + f"\nimport pytest\n\n@pytest.fixture(scope='session')\ndef stability_model({body}\n")
    run = inner(ASKS, "-v", "--stability-dtype=float32,bfloat16")
    own = ["test_model", "test_plain"]
    kept = ["test_model[smollm2-float32]", "test_model[smollm2-bfloat16]", "test_plain"]
    assert passed(run) == (kept if "yield" in body else own)


def test_a_missing_model_is_an_error_with_the_loaders_sentence(inner, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = inner("def test_model(stability, stability_model):\n    pass\n", "--stability-model=./absent-folder")
    run.result.assert_outcomes(errors=1)
    assert "absent-folder" in run.text
    assert run.verdicts == {"model[absent-folder-float32]": "invalid"}


def test_a_subject_of_a_tiny_model_is_built_once(inner):
    run = inner(
        """
def test_subject(stability, stability_subject, stability_model):
    assert stability.subject() is stability_subject
    assert stability.subject(loaded=stability_model) is stability_subject
    assert stability.subject(path="decode", batch=2) is not stability_subject
    assert [subject.prompt for subject in stability.subjects()] == list(stability.prompts)
    assert stability_subject.prompt == stability.prompts[0]

def test_subject_without_the_fixture(stability):
    assert stability.subject().loaded is stability.load()
""",
        "--stability-model=tiny",
    )
    run.result.assert_outcomes(passed=2)


def test_a_subject_that_cannot_be_had_skips_with_the_reason(inner, monkeypatch):
    def refuse(*_, **__):
        raise stabilitykit.errors.UnsupportedError("its lanes see each other")

    monkeypatch.setattr("stabilitykit.subjects.causal_lm.CausalLMSubject", refuse)
    source = "def test_body(stability):\n    stability.subject()\n\ndef test_fixture(stability_subject):\n    pass\n"
    run = inner(source, "--stability-model=tiny", "-rs")
    run.result.assert_outcomes(skipped=2)
    assert set(run.verdicts.values()) == {"unsupported"}
    assert "its lanes see each other" in run.text
