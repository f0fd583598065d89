"""Which implementation of a mixture's experts a model runs with, changed for a moment and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def selectable(model: PreTrainedModel) -> bool:
    """Return whether the experts' implementation can be chosen; every configuration has the field, mixtures set it."""
    can_set = getattr(model, "_can_set_experts_implementation", lambda: False)
    return bool(can_set()) and getattr(model.config, "_experts_implementation", None) is not None


@contextmanager
def using(model: PreTrainedModel, implementation: str | None) -> Iterator[None]:
    """Run with another implementation of a mixture's experts, and put the user's own back; None: leave it."""
    if implementation is None:
        yield
        return
    ours = model.config._experts_implementation
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(ours)
