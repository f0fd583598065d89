"""The operations a language model is made of, on stored inputs that every machine draws alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation gives it

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.draws import normal
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.weights import dtype_named


@dataclass(frozen=True)
class Operator:
    """One operation: a name, the family whose kernels change together, the shapes of its inputs, and what is run."""

    name: str
    family: str
    shapes: tuple[tuple[int, ...], ...]
    run: Callable[..., Tensor]

    def inputs(self, dtype: torch.dtype, seed: int) -> list[Tensor]:
        """Return nearly normal inputs, drawn on the CPU from integers, rounded once."""
        random = np.random.Generator(np.random.PCG64([seed, *self.name.encode()]))
        return [torch.from_numpy(normal(shape, random)).to(dtype) for shape in self.shapes]


def chain(depth: int, dim: int) -> Operator:
    """Return the study's chained products, X W_1 ... W_depth, with W scaled by 1 / sqrt(dim)."""

    def products(X: Tensor, *weights: Tensor) -> Tensor:
        for W in weights:
            X = X @ (W * dim**-0.5)
        return X

    return Operator(f"{depth} chained matmuls", "matmul", ((dim, dim),) * (depth + 1), products)


def _elementwise(name: str, run: Callable[[Tensor], Tensor]) -> Operator:
    return Operator(name, "elementwise", ((4096,),), run)


def _causal(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(Q, K, V, is_causal=True)


def _targets(x: Tensor) -> Tensor:
    """Return a place for each row of x, of 8 in all, so that several rows meet at each."""
    return torch.arange(len(x), device=x.device) * 5 % 8


OPERATORS: tuple[Operator, ...] = (
    Operator("matmul 20x256x256", "matmul", ((20, 256), (256, 256)), torch.matmul),
    Operator("matmul 3x256x256", "matmul", ((3, 256), (256, 256)), torch.matmul),
    Operator("linear 20x576x1536", "matmul", ((20, 576), (1536, 576)), F.linear),
    Operator("linear 1x576x8192", "matrix-vector", ((1, 576), (8192, 576)), F.linear),
    Operator("bmm 8x16x64x64", "matmul", ((8, 16, 64), (8, 64, 64)), torch.bmm),
    Operator("softmax 20x1000", "softmax", ((20, 1000),), lambda x: x.softmax(-1)),
    Operator("log_softmax 20x1000", "softmax", ((20, 1000),), lambda x: x.log_softmax(-1)),
    Operator("layer_norm 20x576", "norm", ((20, 576),), lambda x: F.layer_norm(x, (576,))),
    Operator("rms_norm 20x576", "norm", ((20, 576),), lambda x: F.rms_norm(x, (576,), eps=1e-6)),
    Operator("sum of 100000", "reduction", ((100_000,),), lambda x: x.sum()[None]),
    Operator("mean 64x1000", "reduction", ((64, 1000),), lambda x: x.mean(-1)),
    Operator("cumsum 64x256", "reduction", ((64, 256),), lambda x: x.cumsum(-1)),
    Operator(
        "index_add 64x32", "reduction", ((64, 32),), lambda x: torch.zeros_like(x[:8]).index_add(0, _targets(x), x)
    ),
    Operator("attention 4x12x32", "attention", ((1, 4, 12, 32),) * 3, _causal),
    _elementwise("silu", F.silu),
    _elementwise("gelu", F.gelu),
    _elementwise("gelu tanh", lambda x: F.gelu(x, approximate="tanh")),
    _elementwise("sigmoid", torch.sigmoid),
    _elementwise("exp", torch.exp),
    _elementwise("tanh", torch.tanh),
    _elementwise("sin", torch.sin),
    _elementwise("cos", torch.cos),
    _elementwise("rsqrt", lambda x: (x * x + 1).rsqrt()),
)
"""Small enough for milliseconds, large enough that kernels of several threads and vector widths are used."""


class Machine(Measurable):
    """A device and a dtype, without any model: what its operations give on stored inputs."""

    made_by: ClassVar[str] = "Machine(dtype, device)"

    def __init__(self, dtype: str | torch.dtype = "float32", device: str | torch.device = "cpu") -> None:
        self.dtype = dtype if isinstance(dtype, torch.dtype) else dtype_named(dtype)
        self.device = torch.device(device)

    def run(self, operator: Operator, inputs: list[Tensor]) -> Tensor:
        """Run an operator here and return its output on the CPU; UnsupportedError where it is not implemented."""
        self.counter.calls += 1
        try:
            with torch.no_grad():
                return operator.run(*(one.to(self.device) for one in inputs)).cpu()
        except (NotImplementedError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedError(f"{operator.name} does not run in {name_of(self.dtype)}: {reason}") from error

    def describe(self) -> dict[str, Any]:
        """Return device and dtype."""
        return {
            "name": f"{self.device} {name_of(self.dtype)}",
            "dtype": name_of(self.dtype),
            "device": str(self.device),
        }
