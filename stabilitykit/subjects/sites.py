"""Named places inside a model where a vector can be read, and stopping a forward once it has been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from stabilitykit.subjects.anatomy import Anatomy

FORMS = "embed, block:K, pre_norm, post_norm, logits, module:NAME"


class Stopped(Exception):  # noqa: N818 - not an error: it ends a forward whose rest nobody asked for
    """Carries the state out of a forward that was stopped on purpose."""

    def __init__(self, state: Tensor) -> None:
        super().__init__("the forward was stopped after the wanted state")
        self.state = state


@dataclass(frozen=True)
class Tap:
    """A module whose input or output is the wanted state; `None` module: read the model's own return value."""

    module: nn.Module | None
    before: bool = False

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Raise Stopped with the state as soon as it exists."""

        def stop(state: Tensor) -> None:
            raise Stopped(state)

        with self.reading(stop):
            yield

    @contextmanager
    def reading(self, read: Callable[[Tensor], Tensor | None], *, strict: bool = True) -> Iterator[None]:
        """Call `read` with the state (B, T, H) whenever it passes; what it returns, if anything, replaces it.

        UnsupportedError if something else than a tensor passes, unless not `strict`: then it is not read.
        """
        if self.module is None:
            yield
            return
        handle = (
            self.module.register_forward_pre_hook(_before(read, strict), with_kwargs=True)
            if self.before
            else self.module.register_forward_hook(_after(read, strict))
        )
        try:
            yield
        finally:
            handle.remove()


def needs_head(site: str, tap: Tap, anatomy: Anatomy) -> bool:
    """Return whether the site lies in or behind the head, which the base model does not run."""
    return site == "logits" or tap.module not in {None, *anatomy.base.modules()}


def locate(site: str, anatomy: Anatomy, model: nn.Module) -> Tap:
    """Return the tap of a site; UsageError names the legal forms, the blocks there are, or the missing module."""
    if site in ("post_norm", "logits"):
        return Tap(None)
    if site == "pre_norm":
        return Tap(anatomy.final_norm, before=True)
    if site == "embed":
        return Tap(anatomy.blocks[0], before=True)
    kind, _, name = site.partition(":")
    if kind == "block" and name.isdigit() and int(name) < anatomy.layers:
        return Tap(anatomy.blocks[int(name)])
    if kind == "block":
        raise UsageError(f"site {site!r}: this model has blocks 0 to {anatomy.layers - 1}")
    modules = dict(model.named_modules())
    if kind == "module" and name in modules:
        return Tap(modules[name])
    if kind == "module":
        raise UsageError(f"site {site!r}: the model has no module {name!r}; see model.named_modules()")
    raise UsageError(f"site {site!r} is not one of {FORMS}")


def at_position(state: Tensor, batch: int, site: str, position: int) -> Tensor:
    """Return (B, M) of the token at `position` from a state (B, T, M) or (B, M)."""
    if state.dim() not in (2, 3) or state.shape[0] != batch:
        raise UnsupportedError(f"site {site!r} gives shape {tuple(state.shape)}, not one vector a row and token")
    return state[:, position] if state.dim() == 3 else state


def _first_tensor(value: Any, strict: bool) -> Tensor | None:
    first = value[0] if isinstance(value, tuple | list) and value else value
    if isinstance(first, Tensor):
        return first
    if strict:
        raise UnsupportedError(f"a module passes {type(first).__name__} where a state was expected")
    return None


def _before(read: Callable[[Tensor], Tensor | None], strict: bool) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = _first_tensor(args[0] if args else kwargs.get("hidden_states"), strict)
        replaced = None if state is None else read(state)
        if replaced is None:
            return None
        return ((replaced, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": replaced})

    return hook


def _after(read: Callable[[Tensor], Tensor | None], strict: bool) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        state = _first_tensor(output, strict)
        replaced = None if state is None else read(state)
        if replaced is None:
            return None
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    return hook
