"""Where a recording listens: the embedding, every block and submodule, the norm, in the order in which they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UsageError
from stabilitykit.traces import LEVELS

if TYPE_CHECKING:
    from stabilitykit.subjects.anatomy import Anatomy

Heard = Callable[[int, tuple[Tensor, ...]], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """One place of the forward: what `module` returns, or what it is given (`before`).

    `name` is a site (`embed`, `block:K`, `post_norm`, `logits`, `module:NAME`) or `input:NAME`. `block` is the number
    of the block it lies in and `part` its name there, such as `self_attn.q_proj`; outside of blocks None and the
    module's own name. `volatile` stages are overwritten before the forward is over.
    """

    name: str
    module: str
    before: bool = False
    block: int | None = None
    part: str = ""
    volatile: bool = False


LOGITS = Stage("logits", "", part="logits")
"""The last stage of every recording: what the model returns, which no hook is needed for."""


def discover(model: nn.Module, anatomy: Anatomy, run: Callable[[], Tensor], level: str) -> list[Stage]:
    """Return the stages that one forward passes through, in order, without those that are another's tensor.

    `run` runs it and returns its logits, of one row.

    What a module returns or is given is a stage unless the same memory, not written since, was one already: an
    attention's output is its output projection's, a product's input is what the module before it returned. Everything
    that passes is held until the forward is over, since freed memory would make other tensors look the same. Cost:
    that forward. UsageError for an unknown level.
    """
    if level not in LEVELS:
        raise UsageError(f"level {level!r} of a recording is not one of {', '.join(LEVELS)}")
    found: dict[tuple[Any, ...], Stage] = {}
    held: list[tuple[tuple[Any, ...], Tensor]] = []
    canonical = {name: f"block:{k}" for k, name in enumerate(anatomy.block_names)}
    canonical[anatomy.final_norm_name] = "post_norm"
    offered = [_stage(name, before, canonical, anatomy) for name, before in _offered(model, anatomy, level)]

    def hear(index: int, tensors: tuple[Tensor, ...]) -> None:
        if not tensors:
            return
        stage, first = offered[index], tensors[0]
        place = (first.data_ptr(), tuple(first.shape), first.dtype, first._version)
        known = found.get(place)
        if known is None:
            found[place] = stage
            held.append((place, first))
        elif _is_site(stage) and not _is_site(known):
            found[place] = replace(known, name=stage.name, block=stage.block, part=stage.part)

    with torch.no_grad(), listening(model, offered, hear):
        logits = run()
    for place, tensor in held:
        if tensor._version != place[-1]:
            found[place] = replace(found[place], volatile=True)
    own = (logits.data_ptr(), logits.numel())
    return [*_once(stage for place, stage in found.items() if (place[0], math.prod(place[1])) != own), LOGITS]


def _once(stages: Iterable[Stage]) -> Iterable[Stage]:
    """Return each stage once: a module that runs twice in a forward, such as a rotary embedding, is one stage."""
    kept: dict[str, Stage] = {}
    for stage in stages:
        volatile = stage.volatile or (stage.name in kept and kept[stage.name].volatile)
        kept[stage.name] = replace(stage, volatile=volatile)
    return kept.values()


@contextmanager
def listening(model: nn.Module, stages: Sequence[Stage], heard: Heard) -> Iterator[None]:
    """Call `heard(index of the stage, tensors)` whenever a stage's tensors pass; they must not be changed."""
    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for index, stage in enumerate(stages):
            if stage.name != LOGITS.name:
                handle = _hooked(modules[stage.module], stage.before, index, heard)
                hooks.callback(handle.remove)
        yield


def _hooked(module: nn.Module, before: bool, index: int, heard: Heard) -> Any:
    if before:

        def entering(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            heard(index, _tensors(args[:1] if args else (kwargs.get("hidden_states"),)))

        return module.register_forward_pre_hook(entering, with_kwargs=True)

    def leaving(_module: nn.Module, _args: Any, output: Any) -> None:
        heard(index, _tensors(output))

    return module.register_forward_hook(leaving)


def _tensors(value: Any) -> tuple[Tensor, ...]:
    if isinstance(value, Tensor):
        return (value,)
    return tuple(one for one in value if isinstance(one, Tensor)) if isinstance(value, tuple | list) else ()


def _offered(model: nn.Module, anatomy: Anatomy, level: str) -> Iterator[tuple[str, bool]]:
    """Yield every (module, before) that may be a stage."""
    if level == "block":
        yield anatomy.block_names[0], True
        yield from ((name, False) for name in (*anatomy.block_names, anatomy.final_norm_name))
        return
    for name, _ in model.named_modules():
        if name:
            yield name, True
            yield name, False


def _stage(name: str, before: bool, canonical: dict[str, str], anatomy: Anatomy) -> Stage:
    site = canonical.get(name, f"module:{name}")
    if before:
        site = "embed" if name == anatomy.block_names[0] else f"input:{name}"
    block, part = None, name
    for index, stem in enumerate(anatomy.block_names):
        if name == stem or name.startswith(f"{stem}."):
            block, part = index, name[len(stem) + 1 :] or "block"
    if site == "embed":
        block, part = None, "embed"
    return Stage(site, name, before, block, f"{part}:input" if before and site != "embed" else part)


def _is_site(stage: Stage) -> bool:
    return not stage.name.startswith(("module:", "input:"))
