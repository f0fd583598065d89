"""What block 0 reads its input through: where that is unchanged, so is the block, at a sixth of its cost.

A pre-norm block is h -> r + mlp(norm2(r)) with r = h + attention(p(norm1(h))), p the projections. It reads h through
the projections' outputs and through r alone. Where both have the bits of the baseline, so has the block's output, and
neither tokens are mixed nor the wide layer is run. That a block is of this kind is seen, not believed: see `find`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.block_parts import attention_of, norm_names
from stabilitykit.subjects.sites import Tap
from stabilitykit.subjects.subject import Screening, rows_differ

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules on the way into a block; `projections` are those of attention that are given what `norm` gives."""

    norm: nn.Module
    attention: nn.Module
    projections: tuple[nn.Module, ...]
    second: nn.Module

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return what the projections make of the block's input h (B, T, H)."""
        with torch.no_grad():
            normed = self.norm(h)
            return tuple(module(normed) for module in self.projections)


@dataclass(frozen=True, eq=False)
class Passed:
    """What one forward showed: the block's input, the projections' and attention's outputs, the second norm's input."""

    h: Tensor
    projected: tuple[Tensor, ...]
    attended: Tensor
    summed: Tensor


@dataclass(frozen=True, eq=False)
class Entry:
    """The way into block 0, and what the baseline shows on it in every slot."""

    parts: Parts
    at_rest: Passed

    def changed(self, h: Tensor) -> Tensor:
        """Return (B,) whether any bit differs of what the block reads its input h (B, T, H) through."""
        found = rows_differ(h + self.at_rest.attended, self.at_rest.summed)
        for now, before in zip(self.parts.project(h), self.at_rest.projected, strict=True):
            found |= rows_differ(now, before)
        return found


def screening(subject: CausalLMSubject) -> tuple[Screening, ...]:
    """Return the subject's screening by its entry, none where it has no entry that can be trusted."""
    entry = find(subject)
    if entry is None:
        return ()

    def entered(X: Tensor) -> Tensor:
        subject.counter.screened += len(X)
        subject.counter.calls += 1
        with subject.running():
            return entry.changed(subject.embedded(X))

    return (entered,)


def find(subject: CausalLMSubject) -> Entry | None:
    """Return the entry of the subject's block 0, or None unless all of this holds, bit for bit and in every slot.

    - The embeddings are the block's input; projections called alone give what they give in a forward; r is the sum.
    - A strongly perturbed input whose projections are replaced by the baseline's leaves attention's output as it was,
      and r is still its sum with the input: attention reads the input through them alone.
    - The input 2 r0 with attention's output replaced by -r0 has r = r0 exactly, and the block gives the baseline's
      state: behind r nothing reads the input.

    Parallel blocks, norms behind attention and scaled branches fail. Cost: five first blocks, uncounted.
    """
    x0 = subject.copies(subject.batch)
    strong = -3 * x0 + x0.roll(1, dims=1)
    try:
        parts = _parts(subject, x0)
    except (AttributeError, UnsupportedError):
        return None
    at_x0, at_strong = (_passed(subject, parts, X) for X in (x0, strong))
    if at_x0 is None or at_strong is None:
        return None
    entry = Entry(parts, at_x0)
    alone = all(_alone(subject, parts, X, passed) for X, passed in ((x0, at_x0), (strong, at_strong)))
    moved = bool(rows_differ(at_strong.attended, at_x0.attended).all())
    held = alone and moved and _reads_by_projections(subject, entry, strong) and _forgets(subject, entry)
    return entry if held else None


def _parts(subject: CausalLMSubject, X: Tensor) -> Parts:
    """Return the parts of block 0 by their names and by who is given the norm's output; AttributeError for others."""
    block = subject.anatomy.blocks[0]
    attention = attention_of(block)
    norm, second = (block.get_submodule(name) for name in norm_names(block))
    normed: list[Any] = []
    readers: list[nn.Module] = []

    def reads(module: nn.Module, args: tuple[Any, ...]) -> None:
        inside_another = any(module in reader.modules() for reader in readers)
        if args and normed and args[0] is normed[-1] and not inside_another:
            readers.append(module)

    with ExitStack() as hooks:
        hooks.callback(norm.register_forward_hook(lambda _m, _i, output: normed.append(output)).remove)
        for module in list(attention.modules())[1:]:
            hooks.callback(module.register_forward_pre_hook(reads).remove)
        subject.stopped_after(X, 1)
    return Parts(norm, attention, tuple(dict.fromkeys(readers)), second)


def _passed(
    subject: CausalLMSubject, parts: Parts, X: Tensor, replaced: Sequence[Tensor] | None = None
) -> Passed | None:
    """Run block 0 on (B, H), the projections' outputs replaced if given; None if a part ran not exactly once."""
    watched = [Tap(subject.anatomy.blocks[0], before=True), Tap(parts.attention), Tap(parts.second, before=True)]
    seen: list[list[Tensor]] = [[] for _ in range(len(watched) + len(parts.projections))]
    with ExitStack() as hooks:
        for tap, states in zip([*watched, *map(Tap, parts.projections)], seen, strict=True):
            hooks.enter_context(tap.reading(_kept(states)))
        for module, output in zip(parts.projections, replaced or (), strict=False):
            hooks.enter_context(Tap(module).reading(_given(output)))
        subject.stopped_after(X, 1)
    if any(len(states) != 1 for states in seen):
        return None
    (h,), (attended,), (summed,), *projected = seen
    return Passed(h, tuple(output for (output,) in projected), attended, summed)


def _alone(subject: CausalLMSubject, parts: Parts, X: Tensor, passed: Passed) -> bool:
    """Return whether the embeddings are the block's input, and the parts called by themselves give the same bits."""
    h = subject.embedded(X)
    found = (h, *parts.project(h), h + passed.attended)
    return all(map(bits_equal, found, (passed.h, *passed.projected, passed.summed)))


def _reads_by_projections(subject: CausalLMSubject, entry: Entry, strong: Tensor) -> bool:
    passed = _passed(subject, entry.parts, strong, entry.at_rest.projected)
    return passed is not None and bits_equal(passed.attended, entry.at_rest.attended)


def _forgets(subject: CausalLMSubject, entry: Entry) -> bool:
    """Return whether the block's state is the baseline's where r is, though its two terms are others."""
    moving = subject.x0.numel() // subject.anatomy.hidden_size
    at_rest = entry.at_rest
    replaced = at_rest.attended.clone()
    replaced[:, -moving:] = -at_rest.summed[:, -moving:]
    X = 2 * at_rest.summed[:, -moving:].flatten(1)
    with Tap(entry.parts.attention).reading(_given(replaced)):
        state = subject.stopped_after(X, 1)
    apart = bool(rows_differ(X, subject.copies(len(X))).all())
    return apart and bits_equal(state, subject.stopped_after(subject.copies(len(X)), 1))


def _kept(states: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda state: states.append(state.clone())


def _given(output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: output
