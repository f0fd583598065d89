"""Blocks alone: a chain of random matrices, one weight matrix of a model, one block of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.amplification import EPSILONS, METRICS, PRODUCTS, STUDY_EPSILONS, Steps, amplify
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.directions import Directions
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.chain import Chain, ChainRecipe
from stabilitykit.subjects.module_subject import ModuleSubject
from stabilitykit.subjects.subject import Subject
from stabilitykit.subjects.weights import dtype_named

Asked = TypeVar("Asked", Chain, CausalLMSubject)


@dataclass(frozen=True, eq=False)
class _Magnification(Measurement[Asked]):
    """What the three have in common: the steps, the readings, and the block they are tried on."""

    epsilons: tuple[float, ...] = field(default=EPSILONS, kw_only=True)
    directions: int | Directions = field(default=4, kw_only=True)
    unit: str = field(default="rel", kw_only=True)
    rule: str = field(default="p64r", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    causes: ClassVar[tuple[str, ...]] = (
        "steps below the spacing of the input's floats, where rounding decides what changes",
        "a dtype or kernel with more rounding, if the share of rounding grew",
        "other weights, if the spectral norm moved",
    )

    def __post_init__(self) -> None:
        """Refuse steps that are none."""
        self._steps()

    @abstractmethod
    def block(self, subject: Asked) -> tuple[Subject, Mapping[str, Any]]:
        """Return the block as a subject, and what the result says about it."""

    def find(self, subject: Asked) -> Finding:
        """Try every step on the block."""
        block, about = self.block(subject)
        return amplify(block, self._steps(), about)

    def _steps(self) -> Steps:
        return Steps(self.epsilons, self.directions, self.unit, self.rule, self.seed)


@dataclass(frozen=True, eq=False)
class MatmulChain(_Magnification[Chain]):
    """How a chain of random matrices magnifies a small change of its input: y = W_depth ... W_1 x.

    It needs no model and is asked of its own subject: `chain = MatmulChain(dim=512)`, then
    `measure(chain, chain.subject("bfloat16"))`; any other measurement takes that subject too. Weights N(0,
    `weight_scale`^2), by default 1 / sqrt(dim), and x ~ N(0, 1), drawn from `seed` on the CPU.

    For each of `epsilons` (lengths in `unit`: "rel" |x|, "ulp" median spacing, "abs") along `directions` (so many
    random ones and v1, or given ones) a row: `input_step` |dx| as it is after rounding, `coords_moved`, `output_jump`
    |dy|, `magnification_realised` = |dy| / |dx|, nan where the input did not change; `magnification_true`, the same in
    true float64 at the same inputs; `rounding_share` = |dy - dy64| / |dy64|; `magnification_nominal`, |dy| over the
    step that was meant, which the study reported. Readings in `amplification.METRICS`. UsageError for impossible steps
    or another subject. Cost: two rows a step, 240 products and a noise floor; no model. Source: the study's 10.3.
    """

    depth: int = 12
    dim: int = 1024
    weight_scale: float | None = None

    needs: ClassVar[type[Chain]] = Chain

    @classmethod
    def study(cls) -> MatmulChain:
        """Return the study's own question: 12 matrices of 4096 x 4096 and scale 0.01, absolute steps 1e-6 to 1e-19."""
        return cls(depth=12, dim=4096, weight_scale=0.01, epsilons=STUDY_EPSILONS, unit="abs", rule="p32")

    def __post_init__(self) -> None:
        """Refuse what is no chain, and steps that are none."""
        super().__post_init__()
        self._recipe()

    def subject(
        self, dtype: str | torch.dtype = "float32", device: str | torch.device = "cpu", batch: int = 1
    ) -> Chain:
        """Return the chain. Memory: depth * dim^2 numbers."""
        kind = dtype if isinstance(dtype, torch.dtype) else dtype_named(dtype)
        return Chain(self._recipe(), kind, device=device, batch=batch)

    def block(self, subject: Chain) -> tuple[Subject, Mapping[str, Any]]:
        """Return the chain itself, if it is the one that the parameters describe."""
        if subject.recipe != self._recipe():
            raise UsageError(
                f"this chain is {subject.recipe}, the question is about {self._recipe()}; use its .subject()"
            )
        return subject, {}

    def cost(self, subject: Chain) -> Cost:
        """Upper bound, in rows of the chain."""
        rows = subject.batch * math.ceil(self._steps().count / subject.batch)
        return Cost(forwards=2 * rows + 6 * subject.batch + 14, backwards=PRODUCTS)

    def _recipe(self) -> ChainRecipe:
        return ChainRecipe(self.depth, self.dim, self.weight_scale, self.seed)


@dataclass(frozen=True, eq=False)
class _ModuleMagnification(_Magnification[CausalLMSubject]):
    """A module of the model, alone, at the input it has there for the prompt's last token."""

    needs: ClassVar[type[CausalLMSubject]] = CausalLMSubject

    @abstractmethod
    def name_in(self, subject: CausalLMSubject) -> str:
        """Return the module's name in `model.named_modules()`."""

    def block(self, subject: CausalLMSubject) -> tuple[Subject, Mapping[str, Any]]:
        """Return the module as a subject, at the prompt's own input."""
        name = self.name_in(subject)
        block = ModuleSubject(subject, name, batch=subject.batch)
        about = {"module": name, "module_input": block.x0.numel(), "module_output": block.baseline.shape[1]}
        return block, about

    def cost(self, subject: CausalLMSubject) -> Cost:
        """Upper bound: the forwards of the model that give the module its input in each batch shape."""
        return Cost(forwards=3 * subject.batch + 20)


@dataclass(frozen=True, eq=False)
class WeightGain(_ModuleMagnification):
    """How one weight matrix of the model magnifies a small change of its input, at the input it has in the model.

    `weight` names the module that holds it ("model.layers.0.self_attn.q_proj", with or without ".weight"), by default
    the first in block 0; its input is what it is given for the prompt's last token, after the norm before it. Rows and
    readings as in MatmulChain; for a plain matrix `plateau_over_norm` is at most 1 and the tenth of rounding that the
    plateau admits. UsageError for a module without a matrix. Cost: a forward of the prompt for each batch shape; the
    rest is the matrix alone.
    Source: the study's 10.4, which fed it a raw embedding.
    """

    weight: str | None = None

    def name_in(self, subject: CausalLMSubject) -> str:
        """Return the named module if it holds a matrix, or the first of block 0 that does."""
        modules = dict(subject.model.named_modules())
        if self.weight is None:
            block = f"{subject.anatomy.block_names[0]}."
            for name, module in modules.items():
                if name.startswith(block) and _is_matrix(module):
                    return str(name)
            raise UnsupportedError(f"{subject.name}: block 0 has no module with a matrix; name one with weight=")
        name = self.weight.removesuffix(".weight")
        if name in modules and not _is_matrix(modules[name]):
            raise UsageError(f"module {name!r} has no weight matrix of its own; BlockGain takes any module")
        return name


@dataclass(frozen=True, eq=False)
class BlockGain(_ModuleMagnification):
    """How one module of the model magnifies a small change of its input, at the input it has in the model.

    `module` is a name in `model.named_modules()`: an MLP, an attention, a whole block. By default it is block 0's MLP:
    the last part of block 0 that holds several matrices, or the whole block if fewer than two parts do. Only the last
    token's input moves. Rows and readings as in MatmulChain; a curved block can leave `spectral_norm` behind at large
    steps. UnsupportedError for a module that cannot run alone. Cost as for WeightGain. Source: the study's 10.5, which
    fed the MLP a raw embedding and had no bound.
    """

    module: str | None = None

    def name_in(self, subject: CausalLMSubject) -> str:
        """Return the named module, or block 0's MLP, or block 0."""
        if self.module is not None:
            return self.module
        block: str = subject.anatomy.block_names[0]
        parts = [name for name, part in subject.anatomy.blocks[0].named_children() if _matrices(part) > 1]
        return f"{block}.{parts[-1]}" if len(parts) > 1 else block


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2


def _matrices(module: nn.Module) -> int:
    return sum(parameter.dim() > 1 for parameter in module.parameters())
