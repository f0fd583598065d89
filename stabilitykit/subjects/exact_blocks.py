"""A model beside its true-float64 twin, block by block: each block's own rounding error, and where it leads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import InvalidError
from stabilitykit.subjects import oracle
from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.generation import attending, finite
from stabilitykit.subjects.sites import Tap
from stabilitykit.subjects.stream import joined, listening

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

_SAME = 1e-12
"""How far logits may lie apart, relative to their size, that one float64 computation gave twice."""

_ROWS = 4
"""Copies of a text that one float64 forward carries; the logits of all their tokens are held at once."""


@dataclass(frozen=True, eq=False)
class Passed:
    """One text through the model as it is: `states` (L + 1, T, H), what block 0 read and each block left, in float64.

    `logits` (T, V) in the model's dtype.
    """

    ids: Tensor
    states: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """The twin without error: what each block returned, `left`, and the logits (T, V).

    `skippable`: whether the last block needs nothing of the others but that, so that they need not run again.
    """

    left: Sequence[Any]
    logits: Tensor
    skippable: bool


@dataclass(frozen=True, eq=False)
class Carried:
    """Where errors have led: the last block's state (T, H) and the logits (T, V), both float64."""

    state: Tensor
    logits: Tensor


class ExactBlocks:
    """The true-float64 twin of a model, whose blocks can be given the model's own states and errors.

    UnsupportedError where the twin fails its self-test, or where blocks do not pass one state from each to the next.
    Cost: that of `oracle.of`, on the tokens `ids` of some text.
    """

    def __init__(self, loaded: LoadedModel, ids: list[int]) -> None:
        self.loaded = loaded
        self.subject = CausalLMSubject(loaded, ids)
        self._twin = oracle.of(self.subject)

    @property
    def anatomy(self) -> Anatomy:
        """The parts of the model itself."""
        return self.subject.anatomy

    def passed(self, ids: list[int]) -> Passed:
        """Run one text through the model as it is; one forward."""
        given = torch.tensor([ids], device=self.loaded.model.device)
        with torch.no_grad(), listening(self.anatomy) as taken:
            logits = finite(self.loaded.model(input_ids=given, use_cache=False).logits[0])
        self._count(1)
        states = joined(self.loaded, self.anatomy, taken, len(ids))
        if not bool(states.isfinite().all()):
            raise InvalidError(f"a state of {self.loaded.spec} is not finite; no error can be taken of it")
        return Passed(given, states, logits.cpu())

    def own_errors(self, passed: Passed) -> Tensor:
        """Return e_K = B_K(x_K) - B64_K(x_K), (L, T, H): what each block returned less what its twin does on its input.

        The position tables are the twin's, so that their rounding counts as the blocks'. One float64 forward.
        """
        exact: list[list[Tensor]] = []
        with ExitStack() as held:
            for block, state in zip(self._twin.anatomy.blocks, passed.states[:-1], strict=True):
                held.enter_context(Tap(block, before=True).reading(_given(state)))
                exact.append(held.enter_context(_kept(block)))
            self._run(passed.ids)
        return passed.states[1:] - torch.cat([state for (state,) in exact])

    def reference(self, passed: Passed) -> Reference:
        """Run the twin from what the model's block 0 read, without any error. Two float64 forwards."""
        left: list[Any] = []
        with ExitStack() as held:
            for block in self._twin.anatomy.blocks:
                handle = block.register_forward_hook(lambda _m, _i, output: left.append(output))
                held.callback(handle.remove)
            logits = self._started(passed, passed.ids)
        found = Reference(left, logits[0], skippable=True)
        with self._skipping(found, len(left) - 1, 1):
            again = self._started(passed, passed.ids)[0]
        return replace(found, skippable=bool((again - logits[0]).norm() <= _SAME * logits[0].norm()))

    def carried(self, passed: Passed, errors: Tensor, weights: Tensor, exact: Reference) -> Iterator[Carried]:
        """Yield where the twin ends for each row of `weights` (R, L, T): block K's output gets weights[r, K] errors[K].

        Blocks up to the first error are not run again where the model allows it: what they return is `exact`'s. That it
        does is seen in `reference`, where the last block alone gives the same logits. At most R rows in float64.
        """
        for part in torch.split(weights.double(), _ROWS):
            begin = int(part.any(dim=2).any(dim=0).nonzero().min()) + 1 if exact.skippable and bool(part.any()) else 0
            with ExitStack() as held:
                held.enter_context(self._skipping(exact, begin, len(part)))
                for number, block in enumerate(self._twin.anatomy.blocks):
                    held.enter_context(Tap(block).reading(_adding(part[:, number, :, None] * errors[number])))
                last = held.enter_context(_kept(self._twin.anatomy.blocks[-1]))
                logits = self._started(passed, passed.ids.expand(len(part), -1))
            yield from map(Carried, last[-1], logits)

    def sinks(self, passed: Passed) -> Tensor | None:
        """Return the weight that each block's attention gives to the first token, (L,), None where none is returned.

        The mean over heads and over all tokens but the first, in the twin. One float64 forward.
        """
        if not hasattr(self._twin.model.config.get_text_config(), "num_attention_heads"):
            return None
        with attending(self._twin.model, "eager"):
            weights = getattr(self._run(passed.ids, output_attentions=True), "attentions", None)
        if not weights or len(weights) != self.anatomy.layers or any(one is None for one in weights):
            return None
        return torch.stack([one[0, :, 1:, 0].double().mean() for one in weights]).cpu()

    def _started(self, passed: Passed, ids: Tensor) -> Tensor:
        """Return the twin's logits (R, T, V) of copies of a text, from what the model's block 0 read."""
        first = Tap(self._twin.anatomy.blocks[0], before=True)
        with first.reading(_given(passed.states[0])):
            logits: Tensor = self._run(ids).logits
        return logits.cpu()

    @contextmanager
    def _skipping(self, exact: Reference, begin: int, rows: int) -> Iterator[None]:
        """Let the twin's blocks in front of `begin` return what they did, for so many copies; the twin is no user's."""
        skipped = self._twin.anatomy.blocks[:begin]
        for block, output in zip(skipped, exact.left, strict=False):
            state = _copies(output, rows)
            block.forward = lambda *_args, _state=state, **_kwargs: _state
        try:
            yield
        finally:
            for block in skipped:
                del block.forward

    def _run(self, ids: Tensor, **asked: Any) -> Any:
        self._count(len(ids))
        with torch.no_grad(), self._twin.running():
            return self._twin.model(input_ids=ids, use_cache=False, **asked)

    def _count(self, rows: int) -> None:
        self.loaded.counter.forwards += rows
        self.loaded.counter.calls += 1


def _copies(output: Any, rows: int) -> Any:
    """Return what a block returned for one text, for copies of it."""
    first, *rest = output if isinstance(output, tuple) else (output,)
    state = first.expand(rows, -1, -1)
    return (state, *rest) if isinstance(output, tuple) else state


def _given(state: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda found: state.to(found.device).expand_as(found)


@contextmanager
def _kept(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the states (B, T, H) that a block returns."""
    kept: list[Tensor] = []
    with Tap(block).reading(lambda state: kept.append(state.cpu())):
        yield kept


def _adding(error: Tensor) -> Callable[[Tensor], Tensor | None]:
    return (lambda state: state + error.to(state.device)) if bool(error.any()) else (lambda _: None)
