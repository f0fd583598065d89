"""True float64: the study's oracle was float32 in disguise; this one proves that it is not."""

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.subjects.module_subject import ModuleSubject
from stabilitykit.subjects.precision import double_of, true_float64

PROMPT = "The capital of France is"
STEPS = (1e-5, 1e-8, 1e-10, 1e-11)


@pytest.fixture(scope="module")
def loaded():
    return sk.load("tiny")


def gains(model, E, context):
    """Return |f(x + e v) - f(x)| / e of the last token for each step, f being the model called plainly."""
    torch.manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(E.shape[-1], dtype=torch.float64), dim=0)

    def last(E):
        return model.base_model(inputs_embeds=E, use_cache=False).last_hidden_state[0, -1]

    found = []
    with torch.no_grad(), context():
        for step in STEPS:
            moved = E.clone()
            moved[0, -1] += step * v
            found.append(float((last(moved) - last(E)).norm() / step))
    return found


def test_a_doubled_model_still_rounds_to_float32_and_the_oracle_does_not(loaded):
    """The study's float64 runs: RMSNorm casts to float32, so the gain at small steps is noise, then nothing."""
    from contextlib import nullcontext

    model = double_of(loaded.model)
    E = loaded.model.get_input_embeddings()(torch.tensor([[72, 101, 108, 108, 111]])).double()
    large, _, *tiny = gains(model, E, nullcontext)
    assert all(abs(gain - large) > 0.5 * large for gain in tiny)
    large, *others = gains(model, E, true_float64)
    assert others == pytest.approx([large] * 3, rel=1e-3)


def test_the_norm_alone_loses_29_bits_when_doubled(loaded):
    """The cast itself, in one module: to float32 and back, against the exact quotient."""
    norm = double_of(loaded.model).model.norm
    x = torch.linspace(1, 2, 64, dtype=torch.float64) / 3
    exact = norm.weight * x / ((x * x).mean() + norm.variance_epsilon).sqrt()
    with true_float64():
        assert float((norm(x) - exact).abs().max()) < 1e-15
    assert 1e-9 < float((norm(x) - exact).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("path", "batch", "rows"), [("prefill", 1, "last"), ("decode", 4, "last"), ("prefill", 2, "all")]
)
def test_the_twin_is_the_same_function_to_float32_accuracy(loaded, path, batch, rows):
    subject = sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch, rows=rows)
    twin = subject.in_float64()
    assert torch.equal(twin.x0, subject.x0.double())
    assert twin.baseline.dtype == torch.float64
    relative = (twin.baseline - subject.baseline).norm() / twin.baseline.norm()
    assert 1e-9 < relative < 1e-5
    assert twin.describe()["arithmetic"] == "true float64"
    assert loaded.model.dtype == torch.float32


def test_the_products_of_the_twin_are_the_derivative(loaded):
    """Reverse and forward products against central differences, which need a smooth function."""
    twin = sk.CausalLMSubject(loaded, PROMPT).in_float64()
    v = torch.nn.functional.normalize(torch.arange(1.0, 65.0, dtype=torch.float64), dim=0)
    step = 1e-6
    difference = (twin((twin.x0 + step * v)[None]) - twin((twin.x0 - step * v)[None]))[0] / (2 * step)
    assert torch.allclose(twin.jvp(v[None])[0], difference, rtol=1e-6, atol=1e-8)
    u = torch.nn.functional.normalize(torch.cos(torch.arange(64.0, dtype=torch.float64)), dim=0)
    assert float(twin.vjp(u[None])[0] @ v) == pytest.approx(float(u @ difference), rel=1e-6)


def test_the_casts_of_a_mode_are_widened_and_nothing_else_is():
    x = torch.ones(3, dtype=torch.float64) / 3
    counts = torch.arange(3)
    with true_float64():
        assert x.float().dtype == x.half().dtype == x.bfloat16().dtype == torch.float64
        assert torch.equal(x.to(torch.float32), x)
        assert x.to(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float64
        assert x.to(device="cpu", dtype=torch.float16).dtype == torch.float64
        assert x.type_as(torch.zeros(1)).dtype == torch.float64
        assert x.type(torch.float32).dtype == x.type(dtype=torch.float16).dtype == torch.float64
        assert x.type(torch.int64).dtype == torch.int64
        assert x.type() == "torch.DoubleTensor"
        assert torch.softmax(x, 0, dtype=torch.float32).dtype == torch.float64
        assert torch.zeros(2, dtype=torch.float32).dtype == torch.float64
        assert counts.float().dtype == torch.float64
        assert x.to(torch.int64).dtype == x.long().dtype == torch.int64
        assert x.type_as(counts).dtype == torch.int64
        assert x.to("cpu").dtype == torch.float64
    assert x.float().dtype == torch.float32


def test_a_function_brings_its_own_twin_or_is_asked_in_float64():
    plain = sk.FunctionSubject(torch.tanh, torch.linspace(-1, 1, 5))
    assert torch.equal(plain.in_float64().baseline[0], torch.tanh(plain.x0.double()))
    narrow = nn.Linear(5, 3).requires_grad_(False)
    with pytest.raises(sk.UnsupportedError, match="give exact="):
        sk.FunctionSubject(narrow, plain.x0).in_float64()
    twin = sk.FunctionSubject(narrow, plain.x0, exact=double_of(narrow)).in_float64()
    assert torch.allclose(twin.baseline[0].float(), narrow(plain.x0), atol=1e-6)


def test_an_oracle_that_rounds_inside_is_refused():
    """The planted defect: a cast that the mode cannot see, through numpy."""

    def hidden(X):
        return torch.from_numpy(X.numpy().astype("float32").astype("float64")) * 2

    with pytest.raises(sk.UnsupportedError, match="something narrower hides inside"):
        sk.FunctionSubject(lambda X: X * 2, torch.ones(4) / 3, exact=hidden).in_float64()


def test_a_module_has_a_twin_that_is_given_the_same_arguments(loaded):
    parent = sk.CausalLMSubject(loaded, PROMPT)
    module = ModuleSubject(parent, "model.layers.1.mlp")
    twin = module.in_float64()
    assert torch.equal(twin.x0, module.x0.double())
    assert 1e-9 < float((twin.baseline - module.baseline).norm() / twin.baseline.norm()) < 1e-5


def test_each_twin_has_to_pass_the_self_test(loaded, monkeypatch):
    """The planted defect: a context that widens nothing, so that the norms go on rounding to float32."""
    from contextlib import nullcontext

    from stabilitykit.subjects import module_subject, oracle

    subject = sk.CausalLMSubject(loaded, PROMPT)
    module = ModuleSubject(subject, "model.layers.1")
    monkeypatch.setattr(oracle, "true_float64", nullcontext)
    monkeypatch.setattr(module_subject, "true_float64", nullcontext)
    for part in (subject, module):
        with pytest.raises(sk.UnsupportedError, match="is not smooth in float64"):
            part.in_float64()


def test_a_copy_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    model = nn.Linear(1024, 1024).requires_grad_(False)
    monkeypatch.setattr("stabilitykit.numerics.memory.free_bytes", lambda device: 1024)
    with pytest.raises(sk.UnsupportedError, match=r"needs 0\.0 GiB for a copy of the weights and 0\.0 GiB are free"):
        double_of(model)
    monkeypatch.undo()
    assert double_of(model) is double_of(model)
