"""A kernel under test: a function of several tensors, the axes they have, and the numbers it is tried with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stabilitykit.errors import StabilityError, UnsupportedError, UsageError
from stabilitykit.numerics.bits import FORMATS, format_of, name_of
from stabilitykit.subjects.draws import Draw, mirrored, named, repeated
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.precision import true_float64
from stabilitykit.subjects.signature import Signature, Size

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

Function = Callable[..., Tensor]
Inputs = Callable[[dict[str, int], Callable[..., Tensor]], Sequence[Tensor]]
"""Inputs of one's own: the length of each axis, and `numbers(*shape)`, which draws float64; tensors out."""


class Kernel(Measurable):
    """`fn(*tensors) -> tensor`, whose tensors have the axes that `signature` names: `"mk,kn->mn"`, `"bh,h->bh"`.

    `batch_axis` is the axis whose rows are independent, by default the first of the first input if it has others; None
    if there is none. `sizes` fixes the length of axes that are not free, such as the width of a layer. Inputs are drawn
    in `dtype` on the CPU and moved to `device`; `inputs(sizes, numbers)` makes them otherwise, from `numbers(*shape)`.

    `exact` is the same function as it runs on float64 tensors on the CPU, by default `fn` itself. Each run gets tensors
    of its own, so that a kernel may write to them. `loaded` is the model it is part of, if it is. The counter counts
    calls: a kernel has no lanes.
    """

    made_by: ClassVar[str] = 'Kernel(fn, "bh->bh")'

    def __init__(
        self,
        fn: Function,
        signature: str,
        *,
        name: str | None = None,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
        batch_axis: str | None = "auto",
        sizes: Mapping[str, int] | None = None,
        inputs: Inputs | None = None,
        exact: Function | None = None,
        loaded: LoadedModel | None = None,
    ) -> None:
        self.fn, self.exact, self.inputs, self.loaded = fn, exact or fn, inputs, loaded
        self.signature = Signature.parse(signature)
        self.name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self.dtype = _dtype(dtype)
        self.device = torch.device(device)
        self.fixed = dict(sizes or {})
        self.batch_axis = self.signature.rows if batch_axis == "auto" else batch_axis
        if self.batch_axis not in (None, *(set(self.signature.axes) & set(self.signature.output))):
            raise UsageError(f"{self.name}: batch axis {batch_axis!r} is not in an input and the output of {signature}")
        if unknown := set(self.fixed) - set(self.signature.axes):
            raise UsageError(f"{self.name}: sizes names {sorted(unknown)}, which no input of {signature!r} has")

    @classmethod
    def of_module(cls, module: nn.Module, signature: str = "bh->bo", **parts: Any) -> Kernel:
        """Return a module as a kernel in its own dtype, on its own device; its float64 twin has its weights, widened.

        `sizes={"h": width}` fixes the axis that the weights fix. A module without weights is float32 on the CPU.
        """
        weight = next(module.parameters(), torch.empty(0))
        own = {"name": type(module).__name__, "dtype": weight.dtype, "device": weight.device}
        return cls(module, signature, exact=_Twin(module), **{**own, **parts})

    def __repr__(self) -> str:
        """Return e.g. `Kernel(softmax, 'bh->bh', float32)`, the same in every process."""
        return f"Kernel({self.name}, '{self.signature}', {name_of(self.dtype)})"

    def describe(self) -> dict[str, Any]:
        """Return what identifies the kernel but for its code, which has no name."""
        return {
            "name": self.name,
            "signature": str(self.signature),
            "batch_axis": self.batch_axis,
            "sizes": dict(self.fixed),
            "dtype": name_of(self.dtype),
            "device": str(self.device),
            **({"model": self.loaded.spec, "model_digest": self.loaded.digest} if self.loaded else {}),
        }

    def lengths(self, size: Size) -> dict[str, int]:
        """Return the length of each axis for a size as users give it; UsageError where it does not fit."""
        return self.signature.sizes(size, self.fixed)

    def draw(self, size: Size, draw: str | Draw = "normal", seed: int | Sequence[int] = 0) -> tuple[Tensor, ...]:
        """Return the inputs of one size, on the CPU: the same bits on every machine, process and device.

        `cancelling` makes the halves of the summed axis opposite in the first input that has it, equal in the others.
        """
        lengths, random = self.lengths(size), np.random.Generator(np.random.PCG64(seed))
        fill = named(draw, self.dtype)

        def numbers(*shape: int) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(fill(shape, random)))

        if self.inputs is not None:
            drawn = list(self.inputs(lengths, numbers))
        else:
            drawn = [numbers(*shape) for shape in self.signature.shapes(lengths)]
            if draw == "cancelling":
                drawn = self._cancelled(drawn, random)
        self._check_inputs(drawn, lengths)
        return tuple(x.to(self.dtype) if x.is_floating_point() else x for x in drawn)

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Run the kernel on exactly these tensors, at their addresses; UsageError for an output of another shape."""
        self.counter.calls += 1
        with torch.no_grad():
            return self._checked(self.fn(*tensors), tensors)

    def on_device(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return contiguous copies on the kernel's device, for one run."""
        return [x.contiguous().to(self.device, copy=True) for x in tensors]

    def rows(self, tensors: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """Return the inputs of some rows of the batch: slices where a tensor has the batch axis, else the whole."""
        places = [axes.find(self.batch_axis or " ") for axes in self.signature.inputs]
        return [
            x if place < 0 else x.narrow(place, start, stop - start) for x, place in zip(tensors, places, strict=True)
        ]

    def by_row(self, output: Tensor) -> Tensor:
        """Return an output with its batch axis in front, (B, elements of a row); one row without a batch axis."""
        if self.batch_axis is None:
            return output.reshape(1, -1)
        return output.movedim(self.signature.output.index(self.batch_axis), 0).flatten(1) if output.dim() else output

    def true(self, tensors: Sequence[Tensor], reference: Function | None = None) -> Tensor:
        """Return the result in true float64 on the CPU, of `reference` or of the kernel's own formula.

        UnsupportedError where that cannot be run on float64, or where what it returns is narrower.
        """
        self.counter.calls += 1
        wide = [x.cpu().double() if x.is_floating_point() else x.cpu() for x in tensors]
        try:
            with true_float64(), torch.no_grad():
                result = (reference or self.exact)(*(x.clone() for x in wide))
        except StabilityError:
            raise
        except Exception as error:
            # A kernel's own code may raise anything; what its author needs to know is the same.
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(
                f"{self.name} does not run on float64 CPU tensors ({said}); give reference=, a function that does"
            ) from error
        if isinstance(result, Tensor) and result.dtype != torch.float64:
            raise UnsupportedError(
                f"{self.name}: the reference made {name_of(result.dtype)} of float64; give one that stays in float64"
            )
        return self._checked(result, wide)

    def _cancelled(self, drawn: list[Tensor], random: np.random.Generator) -> list[Tensor]:
        axis = self.signature.summed
        holders = [n for n, axes in enumerate(self.signature.inputs) if axis is not None and axis in axes]
        for n in holders:
            place = self.signature.inputs[n].index(axis or "")
            values = drawn[n].numpy()
            changed = mirrored(values, place, random) if n == holders[0] else repeated(values, place)
            drawn[n] = torch.from_numpy(np.ascontiguousarray(changed))
        return drawn

    def _check_inputs(self, drawn: Sequence[Tensor], lengths: Mapping[str, int]) -> None:
        expected = list(self.signature.shapes(lengths))
        found = [tuple(x.shape) for x in drawn]
        if found != expected:
            raise UsageError(f"{self.name}: inputs= returned shapes {found} where {self.signature} says {expected}")

    def _checked(self, output: Any, tensors: Sequence[Tensor]) -> Tensor:
        if not isinstance(output, Tensor):
            raise UsageError(f"{self.name} returned a {type(output).__name__}; let it return the tensor to be judged")
        if output.dtype not in FORMATS:
            raise UnsupportedError(f"{self.name} returned {name_of(output.dtype)}, which has no ULP")
        named_axes = zip(self.signature.inputs, tensors, strict=True)
        lengths = {axis: length for axes, x in named_axes for axis, length in zip(axes, x.shape, strict=True)}
        expected = [lengths.get(axis) for axis in self.signature.output]
        fits = output.dim() == len(expected) and all(
            want in (None, have) for want, have in zip(expected, output.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"{self.name} returned shape {tuple(output.shape)}, which {self.signature} does not allow")
        return output.detach()


class _Twin:
    """A module's function on float64, from a copy that is made when it is first asked for."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @cached_property
    def _wide(self) -> nn.Module:
        return copy.deepcopy(self._module).cpu().double()

    def __call__(self, *tensors: Tensor) -> Tensor:
        found: Tensor = self._wide(*tensors)
        return found


def _dtype(given: str | torch.dtype) -> torch.dtype:
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"dtype {given!r} is not one of {', '.join(map(name_of, FORMATS))}")
    format_of(dtype)
    return dtype
