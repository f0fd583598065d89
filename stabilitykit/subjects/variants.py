"""The same causal function varied: another batch, path, site or length, and another embedding in its place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects import batches, proofs
from stabilitykit.subjects.sites import locate, needs_head
from stabilitykit.subjects.subject import checked

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject

REMEMBERED = ("baseline", "baseline_state", "screens", "linear", "_entry")
"""What a subject has found out at its own x0, in its own batch shape and on its own path."""


def copied(subject: CausalLMSubject, **changes: Any) -> CausalLMSubject:
    """Return the subject with other attributes and nothing remembered, for uses that need no proof."""
    other = copy.copy(subject)
    for name in REMEMBERED:
        other.__dict__.pop(name, None)
    other.__dict__.update({"_prefixes": {}, "_relatives": {}, "_noise": None, **changes})
    return other


def at(subject: CausalLMSubject, x: Tensor, *, proved: bool) -> CausalLMSubject:
    """Return the subject with x (H,) in place of x0, proved there if asked; only the prefix is shared with it.

    The prefix is what stands before x, so it does not depend on it.
    """
    there = copied(subject, x0=checked(x, subject.x0))
    there._prefixes = subject._prefixes
    there.moved = not bits_equal(there.x0, subject.token_x0.to(there.x0))
    if proved:
        there.proofs = proofs.prove(there)
    return there


def read_at(subject: CausalLMSubject, site: str, **changes: Any) -> CausalLMSubject:
    """As `copied`, read at another site."""
    tap = locate(site, subject.anatomy, subject.model)
    head = needs_head(site, tap, subject.anatomy)
    return copied(subject, site=site, _tap=tap, _needs_head=head, **changes)


def at_site(subject: CausalLMSubject, site: str) -> CausalLMSubject:
    """Return the subject read at another site, proved there; its prefix is shared, which no site changes."""
    there = read_at(subject, site, _prefixes=subject._prefixes)
    there.proofs = batches.proved(there, choose=False)
    return there


def varied(subject: CausalLMSubject, **changes: Any) -> CausalLMSubject:
    """Return a subject of the same model and embedding with other arguments, proved again, sharing the counter."""
    fields = {name: getattr(subject, name) for name in ("prompt", "site", "path", "batch", "rows", "allow_noise")}
    made = type(subject)(subject.loaded, **{**fields, **changes}, anatomy=subject.anatomy, counter=subject.counter)
    return at(made, subject.x0, proved=True) if subject.moved else made


def of_lengths(subject: CausalLMSubject, lengths: Sequence[int]) -> Iterator[CausalLMSubject]:
    """Yield the prompt cut to each length (repeated where it is shorter), on all its paths, at batch 1.

    Each is proved once: several measurements ask for the same ones. A last embedding that is no token's stays the last
    one. UnsupportedError if the whole prompt was given as numbers.
    """
    if subject.moved and subject.rows == "all":
        raise UnsupportedError(f"{subject.name}: a whole prompt given as embeddings has no other lengths")
    for path in subject.paths:
        for length in lengths:
            if (path, length) not in subject._relatives:
                ids = [subject.ids[i % len(subject.ids)] for i in range(length)]
                subject._relatives[path, length] = varied(subject, prompt=ids, path=path, batch=1)
            yield subject._relatives[path, length]
