"""Products from kept forwards: against products of their own, a dense Jacobian, and what cannot be kept."""

import pytest
import torch

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects import linearised
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.linearised import Linearised, rows_at_once
from stabilitykit.subjects.models import load
from stabilitykit.subjects.module_subject import ModuleSubject

IDS = [(7 * i + 3) % 258 for i in range(12)]


def vectors(count, width=64, seed=0):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def subject_of(family, path="prefill", dtype="float32", **options):
    return CausalLMSubject(load(f"tiny:{family}", dtype=dtype), IDS, path=path, **options)


def slopes(subject, V, h=1e-5):
    """Central differences of the subject's own forward."""
    return torch.cat(
        [subject.evaluate((subject.x0 + h * v)[None]) - subject.evaluate((subject.x0 - h * v)[None]) for v in V]
    ) / (2 * h)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_both_products_are_slopes_of_the_measured_function(path):
    subject = subject_of("gpt2", path, "float64")
    J, V, U = subject.linear_map(), vectors(3), vectors(2, seed=1)
    wanted = slopes(subject, V)
    torch.testing.assert_close(J.apply(V), wanted, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(J.apply_adjoint(U) @ V.T, U @ wanted.T, rtol=1e-7, atol=1e-8)
    assert (subject.counter.tangents, subject.counter.backwards) == (3, 2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "gpt_oss", "bloom", "mamba", "zamba2"])
@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_they_are_the_products_that_each_run_a_forward(family, path):
    subject = subject_of(family, path, batch=2)
    J, V, U = subject.linear_map(), vectors(3), vectors(5, seed=1)
    for found, wanted in ((J.apply(V), subject.jvp(V)), (J.apply_adjoint(U), subject.vjp(U))):
        assert float((found - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_a_forward_is_run_once_each_way_and_for_one_row():
    subject = subject_of("llama", "decode")
    kept, seen = Linearised(subject.linear), []
    handle = subject.anatomy.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for rows in (1, 3, 8):
        kept.vjp(vectors(rows))
        kept.jvp(vectors(rows))
    handle.remove()
    assert seen == [1, 1]


@pytest.mark.parametrize(
    ("family", "path", "options", "taken"),
    [
        ("llama", "prefill", {}, "decode"),
        ("llama", "decode", {"batch": 4}, "decode"),
        ("llama", "prefill", {"rows": "all"}, "prefill"),
        ("mamba", "prefill", {}, "prefill"),
        ("mamba", "decode", {}, "prefill"),
    ],
)
def test_derivatives_are_taken_behind_the_prefix_where_its_states_stay(family, path, options, taken):
    subject = subject_of(family, path, **options)
    assert (subject.linear.path, subject.linear.batch) == (taken, 1)
    assert subject.at(subject.x0 + 1).linear.x0.equal(subject.x0 + 1)


def test_a_cached_path_that_is_another_function_is_not_taken(monkeypatch):
    """As with positions that are scaled by the length of the text."""
    embedded = CausalLMSubject.embedded

    def scaled(subject, X):
        return embedded(subject, 1.1 * X if subject.path == "decode" else X)

    monkeypatch.setattr(CausalLMSubject, "embedded", scaled)
    assert subject_of("llama").linear.path == "prefill"
    monkeypatch.undo()
    assert subject_of("llama").linear.path == "decode"


class Doubled(torch.autograd.Function):
    """2 x, whose backward leaves torch, as kernels of other libraries do: it knows nothing of many rows at once."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(2 * gradient.detach().numpy())

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


def test_what_leaves_no_graph_to_keep_has_products_of_its_own():
    subject = subject_of("gpt2", dtype="float64")
    V, U = vectors(3), vectors(2, seed=1)
    wanted = subject.linear_map()
    wanted = 2 * wanted.apply(V), 2 * wanted.apply_adjoint(U)
    handle = subject.anatomy.final_norm.register_forward_hook(lambda _m, _a, out: Doubled.apply(out))
    try:
        subject = CausalLMSubject(subject.loaded, IDS)
        J = subject.linear_map()
        torch.testing.assert_close(J.apply(V), wanted[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(J.apply_adjoint(U), wanted[1], rtol=1e-11, atol=1e-11)
        assert subject.linearisation()["forward_mode"] == "dual numbers"
    finally:
        handle.remove()


def test_what_has_no_derivative_is_named():
    subject = subject_of("gpt2")
    handle = subject.anatomy.final_norm.register_forward_hook(lambda _m, _a, out: out.detach())
    try:
        J = CausalLMSubject(subject.loaded, IDS).linear_map()
        with pytest.raises(UnsupportedError, match="has no reverse derivative"):
            J.apply_adjoint(vectors(1))
        with pytest.raises(UnsupportedError, match="drops forward derivatives"):
            J.apply(vectors(1))
    finally:
        handle.remove()


def test_a_module_alone_is_mapped_alike_and_its_products_are_calls():
    module = ModuleSubject(subject_of("llama"), "model.layers.1.mlp")
    J, V, U, before = module.linear_map(), vectors(3), vectors(2, seed=1), module.counter.calls
    torch.testing.assert_close(J.apply(V).float(), module.jvp(V), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(J.apply_adjoint(U).float(), module.vjp(U), rtol=1e-5, atol=1e-6)
    assert module.counter.calls == before + 4


def test_rows_at_once_fit_the_budget(monkeypatch):
    layer = torch.nn.Linear(10, 400)
    monkeypatch.setattr(linearised, "CHUNK_BYTES", 16 * 4 * 400 * 7)
    assert rows_at_once([layer], ends=10, tokens=1, itemsize=4) == 7
    assert rows_at_once([layer], ends=10, tokens=3, itemsize=4) == 2
    assert rows_at_once([layer], ends=2800, tokens=1, itemsize=4) == 1
    assert rows_at_once([torch.nn.LayerNorm(10)], ends=10**9, tokens=1, itemsize=4) == 1
    subject = subject_of("llama", "decode")
    J, seen, vjp = subject.linear_map(), [], Linearised.vjp
    monkeypatch.setattr(Linearised, "vjp", lambda kept, U: seen.append(len(U)) or vjp(kept, U))
    J.apply_adjoint(vectors(40))
    assert seen[0] == 400 * 7 // subject.model.config.intermediate_size
    assert sum(seen) == 40
