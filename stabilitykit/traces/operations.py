"""One step of a generation, operation by operation: what another machine's operations are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stabilitykit.errors import InvalidError, StabilityError, UsageError
from stabilitykit.numerics.digest import short_digest
from stabilitykit.subjects.anatomy import Anatomy, find
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.generation import Text, Way
from stabilitykit.traces.operation_log import LEVELS, OperationLog
from stabilitykit.traces.watch import Caught, ModuleWatch, OperationWatch, Watch

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

__all__ = ["OperationLog", "caught_at", "operations_at"]


def operations_at(
    loaded: LoadedModel, ids: Sequence[int], generated: Sequence[int], step: int, level: str = "op"
) -> OperationLog:
    """Log the forward of a greedy generation that gives token `step`: the prompt's at 0, else that of one token.

    The text is decoded as `Text.greedy` does, batch 1 on the cache, first with nobody watching, and then again with
    the last forward watched. Both must give the same bits of logits (the observer's proof). If following the operations
    changes them or fails, calls of modules are logged instead, and the log says so; `level="module"` asks for that.

    UsageError for a step beyond what was generated; InvalidError if the plain forward does not repeat its own bits,
    or logging modules changes them. Cost: twice `step` + 1 forwards, and a hash of the weights and of every operation's
    tensors, one operation at a time; no tensor is kept.
    """
    if level not in LEVELS:
        raise UsageError(f"level {level!r} of a log is not one of {', '.join(LEVELS)}")
    decoding = _Decoding.of(loaded, ids, generated, step)
    plain, note = decoding.logits(), ""
    if level == "op":
        operations = OperationWatch(loaded.model)
        if not (reason := _disturbed(decoding, operations, plain)):
            return _log(decoding, operations, plain, level, note)
        note = f"operations could not be followed ({reason}), so modules were"
    modules = ModuleWatch(loaded.model)
    if decoding.logits(modules) != plain:
        raise InvalidError(f"{loaded.spec}: even hooks on its modules change the bits of step {step}; nothing is known")
    return _log(decoding, modules, plain, "module", note)


def caught_at(
    loaded: LoadedModel, ids: Sequence[int], generated: Sequence[int], step: int, place: Place
) -> Caught | None:
    """Run the forward of a step again and return the tensors of one operation, None if it is not asked for.

    Memory: those tensors. Cost: `step` + 1 forwards and the hashes of `operations_at`.
    """
    watch = OperationWatch(loaded.model, place)
    _Decoding.of(loaded, ids, generated, step).logits(watch)
    return watch.caught


@dataclass(frozen=True)
class _Decoding:
    """One forward of a generation, and what is decoded before it."""

    loaded: LoadedModel
    anatomy: Anatomy
    ids: tuple[int, ...]
    said: tuple[int, ...]

    @classmethod
    def of(cls, loaded: LoadedModel, ids: Sequence[int], generated: Sequence[int], step: int) -> _Decoding:
        if not 0 <= step <= len(generated):
            raise UsageError(f"step {step} has no forward: {len(generated)} tokens were generated before")
        return cls(loaded, find(loaded.model), tuple(ids), tuple(generated[:step]))

    def logits(self, watch: Watch | None = None) -> str:
        """Decode up to the step, watched in its forward alone, and return the digest of its logits (M,)."""
        text = Text(self.loaded, self.ids, len(self.said) + 1, self.anatomy, listens=False)
        model = _Last(self.loaded.model, len(self.said), watch) if watch else None
        # The token that the step gives is not read by its forward: any will do.
        *_, last = text.forced(Way(), [*self.said, 0], model)
        return short_digest(last[-1]).hex()


class _Last(nn.Module):
    """A model that is watched in one of its calls."""

    def __init__(self, model: nn.Module, call: int, watch: Watch) -> None:
        super().__init__()
        self.model, self._left, self._watch = model, call, watch

    def forward(self, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left >= 0:
            return self.model(**kwargs)
        with self._watch:
            return self.model(**kwargs)


def _disturbed(decoding: _Decoding, watch: Watch, plain: str) -> str:
    """Return why a watched forward is not the plain one; "" if it is."""
    try:
        seen = decoding.logits(watch)
    except StabilityError:
        raise
    except Exception as error:  # each library has its own way to refuse a dispatch mode
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if seen == plain:
        return ""
    if decoding.logits() != plain:
        raise InvalidError(
            f"{decoding.loaded.spec}: the same forward of step {len(decoding.said)} gives other bits when it is "
            "repeated, so no operation can be blamed on a device"
        )
    return "that changes the bits of the logits"


def _log(decoding: _Decoding, watch: Watch, plain: str, level: str, note: str) -> OperationLog:
    step, threads = len(decoding.said), torch.get_num_threads()
    entries, left_out = tuple(watch.entries), dict(watch.left_out)
    return OperationLog(decoding.ids, decoding.said, step, entries, plain, level, note, threads, left_out)
