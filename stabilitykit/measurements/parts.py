"""Parts of a model as linear maps: a module, a branch of modules that follow each other, and what a norm can do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics import spectrum
from stabilitykit.numerics.linear_map import LinearMap, Product
from stabilitykit.numerics.spectrum import Triplets
from stabilitykit.subjects.branches import branches, heaviest, norm_bound
from stabilitykit.subjects.calls import FOREIGN, Call, recorded
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.module_subject import Call as RecordedCall
from stabilitykit.subjects.module_subject import ModuleSubject, calls_of

STEP = 1e-6
"""Length of the change, relative to |x0|, whose course through the float64 model stands for J v."""


@dataclass(frozen=True)
class Part:
    """One row's worth of the model: modules that follow each other, from each output to the next input.

    `kind` is block, branch, norm, final_norm or module; `label` its name relative to the block; `scale` the factor a
    block gives a branch; `bound` a norm's analytic bound, nan for anything else.
    """

    kind: str
    modules: tuple[str, ...]
    label: str
    block: int | None = None
    scale: float = 1.0
    bound: float = math.nan

    @property
    def name(self) -> str:
        """The qualified names, one after the other."""
        return " > ".join(self.modules)


@dataclass(eq=False)
class Linear:
    """The Jacobians of a subject's modules at their own inputs, each module isolated once.

    What they are given is recorded in one forward for all of `names`. UnsupportedError, from any product, for a module
    that cannot be run alone or has no derivative.
    """

    parent: CausalLMSubject
    names: Sequence[str]
    _alone: dict[str, ModuleSubject | UnsupportedError] = field(default_factory=dict)

    @cached_property
    def _calls(self) -> dict[str, list[RecordedCall]]:
        return calls_of(self.parent, self.names, 1)

    def alone(self, name: str) -> ModuleSubject:
        """Return a module as a subject of its own."""
        if name not in self._alone:
            try:
                self._alone[name] = ModuleSubject(self.parent, name, calls=self._calls.get(name))
            except UnsupportedError as error:
                self._alone[name] = error
            except FOREIGN as error:
                self._alone[name] = UnsupportedError(f"{name} cannot be run alone: {error}")
        found = self._alone[name]
        if isinstance(found, UnsupportedError):
            raise found
        return found

    def map_of(self, modules: Sequence[str], scale: float = 1.0, identity: bool = False) -> LinearMap:
        """Return scale J_n ... J_1 of modules that follow each other, plus the identity if asked."""
        chain = [self.alone(name).linear_map() for name in modules]

        def through(products: Iterable[Product], rows: Tensor) -> Tensor:
            state = rows
            for product in products:
                state = product(state)
            return scale * state + rows if identity else scale * state

        return LinearMap(
            lambda V: through((one.apply for one in chain), V),
            lambda U: through((one.apply_adjoint for one in reversed(chain)), U),
            (chain[-1].shape[0], chain[0].shape[1]),
            min(one.rows for one in chain),
        )

    def top(self, part: Part, tolerance: float, max_products: int, *, identity: bool = False) -> Triplets:
        """Return the largest singular triplet of a part."""
        J = self.map_of(part.modules, part.scale, identity)
        return spectrum.top(J, 1, tolerance=tolerance, max_products=max_products)


@dataclass(frozen=True)
class Course:
    """The course of a small change through the float64 model: what each module was given and returned, without it and
    with it."""

    still: Mapping[str, Call]
    moved: Mapping[str, Call]

    def entered(self, name: str) -> Tensor:
        """The change of a module's input at the last token."""
        return self.moved[name].entered[-1] - self.still[name].entered[-1]

    def left(self, name: str) -> Tensor:
        """The change of its output."""
        return self.moved[name].left[-1] - self.still[name].left[-1]

    def knows(self, name: str) -> bool:
        """Whether the module was called once, from one vector a token to another."""
        return name in self.still and name in self.moved


def follow(twin: CausalLMSubject, direction: Tensor, names: Sequence[str]) -> Course:
    """Run x0 and x0 + STEP |x0| d / |d| through the float64 model. Cost: two forwards."""
    d = direction.double().to(twin.x0)
    length = STEP * (float(twin.x0.norm()) or 1.0)
    moved = twin.x0 + length * d / torch.linalg.vector_norm(d)
    return Course(recorded(twin, twin.x0, names), recorded(twin, moved, names))


def inside(twin: CausalLMSubject, course: Course, block: int) -> list[Part] | str:
    """Return the branches and norms of a block, or why it cannot be taken apart."""
    stem = twin.anatomy.block_names[block]
    if not course.knows(stem):
        return "the block is not called once, from one vector a token to another"
    states = {
        name: (course.still[name].entered[-1], course.still[name].left[-1])
        for name in children(twin, block)
        if course.knows(name)
    }
    call = course.still[stem]
    found = branches(call.entered[-1], call.left[-1], states)
    if not found:
        return "what the block adds to its input is no sum of its children's outputs"
    norms = [(name, norm_bound(twin.model.get_submodule(name), *states[name])) for name in states]
    return [
        *(
            Part("branch", one.modules, relative(heaviest(twin.model, one.modules), stem), block, one.scale)
            for one in found
        ),
        *(Part("norm", (name,), relative(name, stem), block, 1.0, bound) for name, bound in norms if bound == bound),
    ]


def children(subject: CausalLMSubject, block: int) -> list[str]:
    """Return the qualified names of a block's direct children."""
    stem = subject.anatomy.block_names[block]
    return [f"{stem}.{name}" for name, _ in subject.model.get_submodule(stem).named_children()]


def relative(name: str, stem: str) -> str:
    """Return a name without that of the block it is in."""
    return name.removeprefix(f"{stem}.")
