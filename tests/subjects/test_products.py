"""Jacobian products: against differences, against a dense Jacobian of an independent closure, and each other."""

from contextlib import contextmanager

import pytest
import torch
from oracles.cache_name import ATTENTION
from transformers import DynamicCache

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects import products
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.linearised import Linearised
from stabilitykit.subjects.models import load

IDS = [(7 * i + 3) % 258 for i in range(12)]
FAMILIES = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "mixtral"]
# float64 all the way through; the other families round norms or softmaxes to float32.
DOUBLE = ["gpt2", "gpt_neox"]


def double(family, path="prefill", **options):
    return CausalLMSubject(load(f"tiny:{family}", dtype="float64"), IDS, path=path, **options)


def closure(subject):
    """x (H,) -> y (M,), written without the kit."""
    base = subject.model.base_model
    E = subject.model.get_input_embeddings()(torch.tensor([IDS]))

    def whole(x):
        rows = torch.cat([E[:, :-1], x[None, None]], dim=1)
        return base(inputs_embeds=rows, use_cache=False).last_hidden_state[0, -1]

    def last(x):
        cache = DynamicCache(config=subject.model.config)
        with torch.no_grad():
            base(inputs_embeds=E[:, :-1], **{ATTENTION: cache}, use_cache=True)
        return base(inputs_embeds=x[None, None], **{ATTENTION: cache}, use_cache=True).last_hidden_state[0, -1]

    return whole if subject.path == "prefill" else last


def vectors(count, width, seed=0):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", DOUBLE)
def test_products_are_those_of_the_dense_jacobian(family, path):
    subject = double(family, path)
    J = torch.autograd.functional.jacobian(closure(subject), subject.x0)
    V, U = vectors(3, 64), vectors(4, 64, seed=1)
    torch.testing.assert_close(subject.jvp(V), V @ J.T, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(subject.vjp(U), U @ J, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", DOUBLE)
def test_products_are_the_slope_of_central_differences(family, path):
    subject = double(family, path)
    f, h = closure(subject), 1e-5
    V, U = vectors(2, 64), vectors(1, 64, seed=1)
    slopes = torch.stack([(f(subject.x0 + h * v) - f(subject.x0 - h * v)) / (2 * h) for v in V])
    torch.testing.assert_close(subject.jvp(V), slopes, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(subject.vjp(U) @ V.T, U @ slopes.T, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("site", ["block:1", "logits"])
def test_products_belong_to_the_site(site):
    subject = double("gpt2", site=site)
    v, h = vectors(1, 64), 1e-5
    slope = (subject.evaluate(subject.x0 + h * v) - subject.evaluate(subject.x0 - h * v)) / (2 * h)
    torch.testing.assert_close(subject.jvp(v), slope, rtol=1e-7, atol=1e-7)
    assert subject.vjp(subject.jvp(v)).shape == (1, 64)


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_reverse_are_adjoint_and_their_primals_known(family, path):
    subject = CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=4)
    stated = subject.linearisation()
    assert 0 <= stated["adjoint_defect"] < 1e-5
    assert stated["adjoint_bound"] == pytest.approx(2.0**-11.5)
    assert stated["derivative_path"] == "decode"
    assert stated["reverse_primal"] == digest(subject.copied(path="decode").evaluate(subject.copies(1))[0])
    assert stated["primal_distance"] < 1e-4
    assert (stated["forward_primal"] == stated["reverse_primal"]) == (stated["primal_distance"] == 0)


def test_both_primals_are_of_the_measured_input():
    subject = CausalLMSubject(load("tiny:llama"), IDS, path="decode")
    forward, reverse = products.jvp(subject, vectors(3, 64))[0], products.vjp(subject, vectors(3, 64))[0]
    assert digest(reverse) == digest(subject.with_batch(3).baseline)
    torch.testing.assert_close(forward, reverse, rtol=1e-4, atol=1e-5)
    assert not forward.requires_grad
    assert not reverse.requires_grad


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_every_dtype_keeps_its_bound(dtype):
    """float64 models with float32 norms, and float16, which overflows at 65504, have products too."""
    subject = CausalLMSubject(load("tiny:llama", dtype=dtype), IDS)
    result = SingularSpectrum(k=2).measure(subject)
    assert result.readings["adjoint_defect"].value < subject.linearisation()["adjoint_bound"]
    exact = SingularSpectrum(k=2).measure(CausalLMSubject(load("tiny:llama"), IDS))
    distance = abs(result.readings["sigma_1"].value - exact.readings["sigma_1"].value)
    assert distance < {"float64": 1e-3, "bfloat16": 0.2, "float16": 0.02}[dtype] * exact.readings["sigma_1"].value


@pytest.mark.parametrize("side", ["vjp", "jvp"])
@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_planted_wrong_product_stops_the_spectrum(monkeypatch, path, side):
    right = getattr(Linearised, side)
    monkeypatch.setattr(Linearised, side, lambda kept, rows: 1.001 * right(kept, rows))
    subject = CausalLMSubject(load("tiny:llama"), IDS, path=path)
    with pytest.raises(InvalidError, match="forward and reverse products are not adjoint"):
        SingularSpectrum(k=2).measure(subject)
    monkeypatch.undo()
    assert SingularSpectrum(k=2).measure(subject).readings["adjoint_defect"].value < 1e-5


class NoTangent(torch.autograd.Function):
    """2 x, with a backward of its own and no forward rule."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Once(NoTangent):
    """The same with a backward that cannot be differentiated again."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


@contextmanager
def ending_in(loaded, operation):
    handle = loaded.model.transformer.ln_f.register_forward_hook(lambda _m, _a, out: operation(out))
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_an_operation_without_a_forward_rule_is_differentiated_backwards_twice(path):
    subject = double("gpt2", path)
    V, U = vectors(3, 64), vectors(2, 64, seed=1)
    wanted, plain = subject.jvp(V), products.jvp(subject, V)
    assert plain.mode == "dual numbers"
    assert subject.linearisation()["forward_mode"] == "dual numbers"
    with ending_in(subject.loaded, NoTangent.apply):
        subject = CausalLMSubject(subject.loaded, IDS, path=path)
        found = products.jvp(subject, V)
        assert found.mode == "reverse mode twice"
        torch.testing.assert_close(found.tangent, 2 * wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.primal, 2 * plain.primal, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(subject.vjp(U) @ V.T, U @ found.tangent.T, rtol=1e-11, atol=1e-11)
        assert not found.primal.requires_grad
        assert not found.tangent.requires_grad
        assert subject.linearisation()["forward_mode"] == "reverse mode twice"


def test_an_operation_without_a_second_derivative_is_named():
    loaded = load("tiny:gpt2")
    with ending_in(loaded, Once.apply):
        subject = CausalLMSubject(loaded, IDS)
        assert subject.vjp(vectors(1, 64)).shape == (1, 64)
        with pytest.raises(UnsupportedError, match=r"\(GPT2LMHeadModel, prefill\) has no forward derivative: You must"):
            subject.jvp(vectors(1, 64))


def test_an_operation_without_a_derivative_is_named():
    loaded = load("tiny:gpt2")
    with ending_in(loaded, torch.Tensor.detach):
        subject = CausalLMSubject(loaded, IDS)
        with pytest.raises(UnsupportedError, match="drops forward derivatives"):
            subject.jvp(vectors(1, 64))
        with pytest.raises(UnsupportedError, match="has no reverse derivative"):
            subject.vjp(vectors(1, 64))


@pytest.mark.parametrize("family", ["mamba", "zamba2"])
def test_states_that_are_written_in_place_have_both_products(family):
    """The cache of a state-space model is overwritten in the forward; against central differences in float64."""
    twin = CausalLMSubject(load(f"tiny:{family}"), IDS, path="decode", batch=2).in_float64()
    V, U, h = vectors(2, 64), vectors(2, 64, seed=1), 1e-6
    slopes = (twin(twin.x0 + h * V) - twin(twin.x0 - h * V)) / (2 * h)
    torch.testing.assert_close(twin.jvp(V), slopes, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(twin.vjp(U) @ V.T, U @ slopes.T, rtol=1e-6, atol=1e-7)
    assert twin.prefix(2).intact()


def test_grouped_experts_get_forward_products_from_batched_ones():
    loaded = load("tiny:mixtral", experts="grouped_mm")
    subject = CausalLMSubject(loaded, IDS)
    V, U = vectors(2, 64), vectors(2, 64, seed=1)
    left, right = (U.float() * subject.jvp(V)).sum(), (subject.vjp(U) * V.float()).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    assert loaded.model.config._experts_implementation == "grouped_mm"


def test_products_count_rows_and_need_no_gradient_mode():
    subject = CausalLMSubject(load("tiny:llama"), IDS)
    with torch.no_grad():
        inside = subject.vjp(vectors(2, 64))
    assert digest(inside) == digest(subject.vjp(vectors(2, 64)))
    assert subject.counter.backwards == 4
    assert all(p.grad is None and not p.requires_grad for p in subject.model.parameters())
