"""Kernels: their inputs, their runs, their truth, and what they refuse."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.draws import DRAWS
from stabilitykit.subjects.kernel import Kernel
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.model_kernels import attention_kernels, fused_attention, model_kernels, plain_attention
from stabilitykit.subjects.models import LoadedModel, load


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


SOFTMAX, MATMUL = Kernel(softmax, "bh->bh"), Kernel(matmul, "mk,kn->mn")


# ---- what it is ----


def test_a_kernel_describes_itself_the_same_in_every_process() -> None:
    assert repr(MATMUL) == "Kernel(matmul, 'mk,kn->mn', float32)"
    assert MATMUL.describe() == {
        "name": "matmul",
        "signature": "mk,kn->mn",
        "batch_axis": "m",
        "sizes": {},
        "dtype": "float32",
        "device": "cpu",
    }
    assert isinstance(MATMUL, Measurable)
    json.dumps(Kernel(softmax, "bh->bh", sizes={"h": 3}, name="other", dtype=torch.bfloat16).describe())
    assert Kernel(softmax, "bh->bh", name="other").name == "other"
    assert Kernel(nn.Softmax(-1), "bh->bh").name == "Softmax"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "float31"}, "dtype 'float31' is not one of float64, float32"),
        ({"dtype": torch.int32}, "int32 has no floating-point lattice"),
        ({"batch_axis": "z"}, "softmax: batch axis 'z' is not in an input and the output of bh->bh"),
        ({"sizes": {"z": 3}}, r"softmax: sizes names \['z'\], which no input of 'bh->bh' has"),
    ],
)
def test_what_does_not_fit_is_refused_on_construction(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Kernel(softmax, "bh->bh", **given)


# ---- inputs ----


@pytest.mark.parametrize("draw", DRAWS)
def test_inputs_have_the_shapes_and_dtype_and_come_back_by_their_seed(draw: str) -> None:
    kernel = Kernel(matmul, "mk,kn->mn", dtype="bfloat16")
    a, b = kernel.draw((2, 6, 3), draw, seed=5)
    assert (a.shape, b.shape, a.dtype, b.dtype) == ((2, 6), (6, 3), torch.bfloat16, torch.bfloat16)
    again, other = kernel.draw((2, 6, 3), draw, seed=5), kernel.draw((2, 6, 3), draw, seed=6)
    assert all(bits_equal(x, y) for x, y in zip((a, b), again, strict=True))
    assert not bits_equal(a, other[0])
    assert not bits_equal(a.flatten()[:6], b.flatten()[:6])


def test_cancelling_inputs_lose_ten_bits_of_their_sum_and_normal_ones_do_not() -> None:
    def lost(draw: str) -> float:
        a, b = (x.double() for x in MATMUL.draw((8, 64, 8), draw))
        return float(math.log2(((a.abs() @ b.abs()) / (a @ b).abs()).median()))

    assert lost("normal") < 6
    assert 11 < lost("cancelling") < 16
    (x,) = SOFTMAX.draw((4, 8), "cancelling")
    assert (x.sum(1).abs() < 0.05 * x.abs().sum(1)).all()
    _, k, v = Kernel(plain_attention, "bhtd,bhsd,bhsd->bhtd").draw((1, 2, 3, 4, 6), "cancelling")
    assert (k[:, :, :3] + k[:, :, 3:]).abs().max() < 0.05
    assert bits_equal(v[:, :, :3].contiguous(), v[:, :, 3:].contiguous())


def test_inputs_of_ones_own_get_the_sizes_and_a_source_of_numbers() -> None:
    def masked(sizes: dict[str, int], numbers: Any) -> list[Tensor]:
        assert sizes == {"b": 2, "h": 5}
        return [numbers(2, 5), torch.tensor([True, False, True, True, True])]

    kernel = Kernel(lambda x, m: x.masked_fill(~m, 0), "bh,h->bh", inputs=masked, dtype="float16")
    x, mask = kernel.draw((2, 5), "normal")
    assert (x.dtype, mask.dtype) == (torch.float16, torch.bool)
    assert kernel.run([x, mask])[:, 1].eq(0).all()
    assert kernel.true([x, mask]).dtype == torch.float64
    bad = Kernel(softmax, "bh->bh", inputs=lambda sizes, numbers: [numbers(3, 3)])
    with pytest.raises(UsageError, match=r"inputs= returned shapes \[\(3, 3\)\] where bh->bh says \[\(2, 5\)\]"):
        bad.draw((2, 5))


def test_a_draw_of_ones_own_is_rounded_to_the_dtype() -> None:
    def thirds(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return np.full(shape, 1 / 3)

    (x,) = Kernel(softmax, "bh->bh", dtype="bfloat16").draw((1, 2), thirds)
    assert bits_equal(x, torch.full((1, 2), 1 / 3, dtype=torch.bfloat16))


# ---- runs ----


def test_each_run_is_counted_once_and_may_write_to_its_inputs() -> None:
    kernel = Kernel(lambda x: x.mul_(2), "bh->bh", name="doubled in place")
    (x,) = kernel.draw((2, 3))
    kept = x.clone()
    copies = kernel.on_device([x])
    assert bits_equal(kernel.run(copies), kept * 2)
    assert bits_equal(kernel.true([x]), kept.double() * 2)
    assert bits_equal(x, kept)
    wide = x.double()
    kernel.true([wide])
    assert bits_equal(wide, kept.double())
    assert (kernel.counter.calls, kernel.counter.forwards) == (3, 0)


def test_nothing_is_recorded_for_a_derivative() -> None:
    weight = nn.Parameter(torch.ones(3))
    kernel = Kernel(lambda x: x * weight, "bh->bh")
    assert not kernel.run(kernel.draw((2, 3))).requires_grad


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda x: (x, x), UsageError, "returned a tuple; let it return the tensor to be judged"),
        (lambda x: x.T, UsageError, r"returned shape \(3, 2\), which bh->bh does not allow"),
        (lambda x: x.sum(), UsageError, r"returned shape \(\), which bh->bh does not allow"),
        (lambda x: x.argsort(), UnsupportedError, "returned int64, which has no ULP"),
    ],
)
def test_an_output_that_cannot_be_judged_is_refused(fn: Any, error: type[Exception], message: str) -> None:
    kernel = Kernel(fn, "bh->bh", name="toy")
    with pytest.raises(error, match=f"toy {message}"):
        kernel.run(kernel.draw((2, 3)))


def test_an_axis_of_the_output_alone_may_have_any_length() -> None:
    kernel = Kernel(lambda x: torch.cat([x, x], 1), "bi->bo")
    assert kernel.run(kernel.draw((2, 3))).shape == (2, 6)


def test_rows_are_taken_along_the_batch_axis_wherever_it_is() -> None:
    kernel = Kernel(lambda x, w: (x * w[:, None]).cumsum(0), "hb,h->hb", batch_axis="b")
    x, w = kernel.draw((4, 3))
    part, same = kernel.rows([x, w], 1, 3)
    assert bits_equal(part, x[:, 1:3])
    assert same is w
    assert bits_equal(kernel.by_row(x), x.T)
    alone = Kernel(softmax, "h->h")
    assert alone.batch_axis is None
    assert alone.by_row(torch.ones(3)).shape == (1, 3)
    assert bits_equal(alone.rows([w], 0, 1)[0], w)
    cube = torch.arange(24.0).reshape(2, 3, 4)
    assert bits_equal(Kernel(softmax, "abc->abc", batch_axis="b").by_row(cube), cube.movedim(1, 0).reshape(3, 8))


# ---- the truth ----


def test_the_truth_is_the_kernels_own_formula_without_its_narrow_steps() -> None:
    def narrowing(x: Tensor) -> Tensor:
        return (x.bfloat16() / 3).float().to(x.dtype)

    kernel = Kernel(narrowing, "bh->bh")
    (x,) = kernel.draw((2, 3))
    assert bits_equal(kernel.true([x]), x.double() / 3)
    assert bits_equal(kernel.true([x], lambda x: x * 2), x.double() * 2)
    assert bits_equal(Kernel(narrowing, "bh->bh", exact=torch.exp).true([x]), x.double().exp())


def test_a_truth_that_cannot_be_had_is_refused_with_what_to_give() -> None:
    narrow = Kernel(lambda x: torch.from_numpy(x.numpy().astype(np.float32)), "bh->bh", name="narrow")
    with pytest.raises(UnsupportedError, match="narrow: the reference made float32 of float64; give one that stays"):
        narrow.true(narrow.draw((2, 3)))
    weight = torch.ones(3, 3)
    fixed = Kernel(lambda x: x @ weight, "bh->bo", name="fixed")
    with pytest.raises(UnsupportedError, match=r"fixed does not run on float64 CPU tensors \(.*\); give reference="):
        fixed.true(fixed.draw((2, 3)))
    wrong = Kernel(lambda x: x[0], "bh->bh", name="wrong")
    with pytest.raises(UsageError, match=r"wrong returned shape \(3,\)"):
        wrong.true(wrong.draw((2, 3)))


# ---- modules and models ----


def test_a_module_is_judged_by_its_own_weights_widened() -> None:
    linear = nn.Linear(4, 6).to(torch.bfloat16)
    kernel = Kernel.of_module(linear, "bi->bo", sizes={"i": 4})
    (x,) = kernel.draw(3)
    assert (kernel.name, kernel.dtype, x.dtype) == ("Linear", torch.bfloat16, torch.bfloat16)
    assert bits_equal(kernel.run([x]), linear(x).detach())
    expected = x.double() @ linear.weight.detach().double().T + linear.bias.detach().double()
    assert torch.allclose(kernel.true([x]), expected, rtol=1e-14, atol=0)
    assert linear.weight.dtype == torch.bfloat16
    assert Kernel.of_module(nn.Softmax(-1), "bh->bh").dtype == torch.float32


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load("tiny", dtype="bfloat16")


def test_a_models_norm_and_largest_matrix_are_kernels_of_its_dtype(tiny: LoadedModel) -> None:
    norm, matrix = model_kernels(tiny)
    assert norm.name.endswith("model.norm")
    assert ".layers.0.mlp." in matrix.name
    for kernel in (norm, matrix):
        assert kernel.dtype == torch.bfloat16
        assert kernel.describe()["model_digest"] == tiny.digest
        output = kernel.run(kernel.draw(2))
        assert torch.allclose(output.double(), kernel.true(kernel.draw(2)), rtol=0.02, atol=0.02)


def test_both_attentions_are_one_function(tiny: LoadedModel) -> None:
    fused, plain = attention_kernels(tiny)
    config = tiny.model.config
    assert fused.fixed == plain.fixed
    assert fused.fixed["h"] == config.num_attention_heads
    assert (fused.fn, plain.fn) == (fused_attention, plain_attention)
    inputs = fused.draw((2, 3, 5))
    assert inputs[0].shape == (2, config.num_attention_heads, 3, fused.fixed["d"])
    assert torch.allclose(fused.true(inputs), plain.true(inputs), rtol=1e-12, atol=1e-14)
    brute = torch.einsum("bhts,bhsd->bhtd", *_weights(*(x.double() for x in inputs)))
    assert torch.allclose(fused.true(inputs), brute, rtol=1e-12, atol=1e-14)


def _weights(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True), v
