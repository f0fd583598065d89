"""What a causal subject proves about its own bits before anybody measures with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.numerics.bits import bits_equal, name_of
from stabilitykit.subjects.subject import rows_differ

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject

DRAWS = 4
"""Batches of random neighbours that lane independence is tried with."""

EXPERTS = ("batched_mm", "eager", "grouped_mm")
"""Experts implementations to try where lanes mix, best hope first."""


@dataclass(frozen=True)
class Proofs:
    """What held when the subject was made. `slots_equal` is recorded, not required: baselines are per slot.

    `note` says in one sentence what had to give: another experts implementation, or batch 1.
    """

    ids_equal_embeddings: bool
    repeatable: bool
    lanes_independent: bool
    slots_equal: bool
    cache_shared: bool | None
    draws: int
    note: str = ""


def prove(subject: CausalLMSubject) -> Proofs:
    """Return the proofs, changing the subject's experts or batch where its lanes mix.

    UnsupportedError where embeddings do not reproduce the ids' logits, which is of the model: a subject moved to an
    embedding without an id inherits it. InvalidError where a repeated call differs.
    """
    alone, repeats = _alone(subject)
    if not repeats or not (subject.moved or _read_alone(subject)):
        unproved = {"ids_equal_embeddings": False, "repeatable": False, "lanes_independent": False}
        return replace(_proofs(subject, alone), **unproved, note="equal calls differ")
    if lanes_independent(subject, alone):
        return _proofs(subject, alone)
    for experts in EXPERTS if subject.has_experts else ():
        subject.use_experts(experts)
        alone = _evaluate(subject, subject.copies(subject.batch))
        if lanes_independent(subject, alone):
            note = f"lanes mix under the model's experts; measured with {experts}"
            return replace(_proofs(subject, alone), note=note)
    batch, subject.batch = subject.batch, 1
    subject.use_experts(None)
    note = f"lanes of a batch of {batch} see each other; measured at batch 1"
    return replace(_proofs(subject, alone[:1]), note=note)


def lanes_independent(subject: CausalLMSubject, alone: Tensor) -> bool:
    """Return whether x0 in random slots among random neighbours keeps the bits it has there among copies of itself.

    `alone` (B, M) are the outputs among copies. Cost: DRAWS batches. A batch of one has no neighbours.
    """
    if subject.batch == 1:
        return True
    for seed in range(DRAWS):
        X, kept = _crowd(subject, seed)
        if bool(rows_differ(_evaluate(subject, X), alone)[kept].any()):
            return False
    return True


def swap(subject: CausalLMSubject) -> bool:
    """Return whether block 0's output determines the output: the proof that allows screening by it.

    A strongly perturbed x runs with block 0's whole output replaced by the baseline's; the final bits must be the
    baseline's in every slot. A model that reads its input again later (per-layer embeddings, a re-read embedding, a
    cache shared between layers) fails. Cost: 3 batches.
    """
    x0 = subject.copies(subject.batch)
    state = subject.stopped_after(x0, 1)
    strong = -3 * x0 + x0.roll(1, dims=1)
    replaced = subject.replacing_block(strong, 0, state)
    touched = bool(rows_differ(_evaluate(subject, strong), subject.baseline).all())
    return touched and bits_equal(replaced, subject.baseline)


def _crowd(subject: CausalLMSubject, seed: int) -> tuple[Tensor, Tensor]:
    """Return a batch where about half of the rows are other tokens' embeddings, and the mask of rows that are x0."""
    random = np.random.Generator(np.random.PCG64(seed))
    kept = torch.from_numpy(random.integers(0, 2, size=subject.batch).astype(bool))
    kept[int(random.integers(subject.batch))] = True
    others = subject.neighbours(subject.batch, seed)
    return torch.where(kept.to(others.device)[:, None], subject.copies(subject.batch), others), kept


def _read_alone(subject: CausalLMSubject) -> bool:
    """Return whether embeddings give the ids' logits; UnsupportedError for a model that reads more than them.

    Two ways that differ are asked again, since noise may have parted them: InvalidError, or False if it was allowed.
    """
    ids = torch.tensor([subject.ids], device=subject.x0.device)
    ways = {"input_ids": ids, "inputs_embeds": subject.embeddings[None]}
    by_ids, by_embeddings = (_logits(subject, **{name: given}) for name, given in ways.items())
    subject.finite(by_ids.flatten(0, 1))
    if bits_equal(by_ids, by_embeddings):
        return True
    again = [_logits(subject, **{name: given}) for name, given in ways.items()]
    if not (bits_equal(by_ids, again[0]) and bits_equal(by_embeddings, again[1])):
        if subject.allow_noise:
            return False
        raise InvalidError(
            f"{subject.name} is not repeatable: its logits differ between two equal calls "
            f"[{name_of(subject.x0.dtype)}, whole prompt]; only RunToRun is meaningful: pass allow_noise=True for it"
        )
    gap = float((by_ids.double() - by_embeddings.double()).abs().max())
    raise UnsupportedError(
        f"{subject.name} ({type(subject.model).__name__}): logits from embeddings differ from logits from ids by "
        f"up to {gap:.3g}, so its input is more than the embedding; it cannot be measured as a function of it"
    )


def _logits(subject: CausalLMSubject, **given: Tensor) -> Tensor:
    """Return the logits (1, 1, M) of the last token, with no cache in between."""
    with torch.no_grad():
        logits: Tensor = subject.model(**given, use_cache=False, logits_to_keep=1).logits
    return logits


def _alone(subject: CausalLMSubject) -> tuple[Tensor, bool]:
    """Return the outputs of x0 in every slot, and whether a second equal call gives their bits.

    InvalidError if it does not and noise was not allowed.
    """
    x0 = subject.copies(subject.batch)
    first, second = _evaluate(subject, x0), _evaluate(subject, x0)
    same = bits_equal(first, second)
    if not same and not subject.allow_noise:
        changed = int(rows_differ(first, second).sum())
        raise InvalidError(
            f"{subject.name} is not repeatable: {changed} of {subject.batch} rows differ between two equal calls "
            f"[{name_of(subject.x0.dtype)}, {subject.path}]; only RunToRun is meaningful: pass allow_noise=True for it"
        )
    return first, same


def _proofs(subject: CausalLMSubject, alone: Tensor) -> Proofs:
    prefix = subject._prefixes.get(subject.batch)
    return Proofs(
        ids_equal_embeddings=True,
        repeatable=True,
        lanes_independent=True,
        slots_equal=not bool(rows_differ(alone, alone[:1].expand_as(alone)).any()),
        cache_shared=None if prefix is None else prefix.shared,
        draws=DRAWS if subject.batch > 1 else 0,
    )


def _evaluate(subject: CausalLMSubject, X: Tensor) -> Tensor:
    with torch.no_grad():
        return subject.finite(subject.forward(X))
