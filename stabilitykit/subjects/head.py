"""The model's own head on states that are already known: logits without another forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject


def logit_changes(subject: Subject, Y: Tensor, slots: Sequence[int]) -> list[tuple[float, bool]] | None:
    """Return for each output (K, M) its largest change of a logit from y0's, and whether the largest logit moved.

    Each output passes the head in its own slot, next to y0 in the others; both sides at the same batch shape. Logits
    are those of the head itself, before whatever cap or scale the model adds, which keep their order. None where the
    output is not what the head reads: then its logits are unknown. Cost: no forward; K / B calls of the head or more.
    """
    if not isinstance(subject, CausalLMSubject) or subject.site not in ("post_norm", "logits"):
        return None
    found: dict[int, tuple[float, bool]] = {}
    L0 = _logits(subject, subject.baseline)
    for places in _rounds(slots):
        batch = subject.baseline.clone()
        here = [slots[place] for place in places]
        batch[here] = Y[places].to(batch)
        L, base = _logits(subject, batch)[here].double(), L0[here].double()
        change = (L - base).abs().amax(dim=1).tolist()
        moved = (L.argmax(dim=1) != base.argmax(dim=1)).tolist()
        found |= dict(zip(places, zip(change, moved, strict=True), strict=True))
    return [found[place] for place in range(len(slots))]


def _logits(subject: CausalLMSubject, Y: Tensor) -> Tensor:
    if subject.site == "logits":
        return Y
    with torch.no_grad():
        logits: Tensor = subject.anatomy.head(Y[:, None])[:, 0]
    return logits


def _rounds(slots: Sequence[int]) -> list[list[int]]:
    """Return the places in batches that hold no slot twice."""
    by_slot: dict[int, list[int]] = defaultdict(list)
    for place, slot in enumerate(slots):
        by_slot[slot].append(place)
    most = max((len(places) for places in by_slot.values()), default=0)
    return [[places[turn] for places in by_slot.values() if turn < len(places)] for turn in range(most)]
