"""How many rows a batch takes where nobody says, and what is done where memory ran out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stabilitykit.numerics.memory import free_bytes, ran_out, release
from stabilitykit.subjects import proofs
from stabilitykit.subjects.prefix import held_bytes

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject
    from stabilitykit.subjects.proofs import Proofs

AUTO = "auto"
"""Instead of a batch: as many rows as fit."""

MOST = 256
"""Rows that are never exceeded: a block's matrix products run at the machine's full speed by then."""

SHARE = 0.25
"""Of the memory that is free, what all rows together may take."""

_STATES = 6  # tensors of the widest layer's width that live at once inside a block


def row_bytes(subject: CausalLMSubject) -> int:
    """Return an estimate of what one row takes: its part of the prefix cache, and the states of its tokens.

    The cache is built for one row and counted, in two copies, for a forward extends it; states are counted as six
    tensors as wide as the widest matrix a call multiplies with, in the dtype or float32.
    """
    cached = 0
    if subject.path == "decode" and len(subject.embeddings) > 1:
        cached = 2 * held_bytes(subject.prefix(1))
    modules = subject.model.modules() if subject._needs_head else subject.anatomy.base.modules()
    tables = {id(subject.anatomy.embedding)}
    matrices = (getattr(module, "weight", None) for module in modules if id(module) not in tables)
    widest: int = max(max(weight.shape) for weight in matrices if weight is not None and weight.dim() == 2)
    states: int = _STATES * subject.tokens_run * widest * max(subject.x0.element_size(), 4)
    return cached + states


def fitting(subject: CausalLMSubject) -> int:
    """Return the largest power of two of rows that take a quarter of the free memory at most, from 1 to 256."""
    free = free_bytes(subject.x0.device)
    rows = MOST if free is None else int(SHARE * free) // row_bytes(subject)
    return 1 << (min(max(rows, 1), MOST).bit_length() - 1)


def proved(subject: CausalLMSubject, *, choose: bool) -> Proofs:
    """Return the subject's proofs, its batch chosen first if asked, and halved as often as memory runs out; noted."""
    notes = []
    if choose:
        subject.batch = fitting(subject)
        notes.append(f"batch {subject.batch} chosen from memory")
    while True:
        try:
            found = proofs.prove(subject)
            return replace(found, note="; ".join([*notes, *filter(None, [found.note])]))
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error) or subject.batch == 1:
                raise
        notes.append(f"batch {subject.batch} ran out of memory")
        subject._prefixes.pop(subject.batch, None)
        subject.batch //= 2
        release()
