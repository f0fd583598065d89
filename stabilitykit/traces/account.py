"""One prompt's account: the margin natively and in true float64, and what each operation's rounding did to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.tie_point import pair_in
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.rounding import Floats
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.generation import finite
from stabilitykit.traces.carried import Carried, Effect, carried
from stabilitykit.traces.rounding_errors import Errors, rounding_errors

NATIVE = 3
"""Forwards of the model: plain, watched, and each of its operations once more in float64."""
EXACT = 2
"""Forwards of the twin: plain, and with all errors put back."""


@dataclass(frozen=True, eq=False)
class Account:
    """Margins of `pair` and, for each of N operations that round, its effect: the mean over P shares of the errors.

    `native`, `true` and `replayed` are the margin as computed, in true float64, and in float64 with every error put
    back. `nodes` (P,) are the shares, `contributions` (P, N) what each operation does at each.
    """

    pair: tuple[int, int]
    native: float
    true: float
    replayed: float
    errors: Errors
    effects: dict[Place, Effect]
    nodes: Floats
    contributions: Floats

    @property
    def deviation(self) -> float:
        """What rounding does to the margin, in logits."""
        return self.native - self.true

    @property
    def explained(self) -> float:
        """What the operations add up to."""
        return math.fsum(effect.contribution for effect in self.effects.values())

    @property
    def turnover(self) -> float:
        """What they add up to without their signs."""
        return math.fsum(abs(effect.contribution) for effect in self.effects.values())

    @property
    def typical(self) -> float:
        """Root of the summed squares of all elements' contributions."""
        return math.sqrt(math.fsum(effect.squares for effect in self.effects.values()))


def account(subject: CausalLMSubject, ids: Sequence[int], pair: tuple[int, int] | None, points: int) -> Account:
    """Return the account of the token after `ids`; see `Ledger` for the definition, the errors and the cost."""
    if subject.moved:
        raise UnsupportedError(f"{subject.name} stands at an input that is no token's; a ledger begins at token ids")
    plain = subject.copied(path="prefill", batch=1)
    twin = plain.in_float64()
    z, errors = _native(plain, twin, ids)
    a, b = pair_in(z, pair, subject.name)

    def margin(logits: Tensor) -> Tensor:
        return logits[a].double() - logits[b].double()

    with twin.running(), torch.no_grad():
        true = margin(_logits(twin, ids))
    replayed, passes = _passes(twin, ids, margin, errors, points)
    nodes, weights = shares_of_error(points)
    found = [[one.effects.get(place, Effect()) for one in passes] for place in errors.of]
    return Account(
        (a, b),
        float(margin(z)),
        float(true),
        replayed,
        errors,
        {place: _mean(effects, weights) for place, effects in zip(errors.of, found, strict=True)},
        nodes,
        np.array([[effect.contribution for effect in effects] for effects in found]).reshape(-1, points).T,
    )


def shares_of_error(points: int) -> tuple[Floats, Floats]:
    """Return Gauss-Legendre nodes and weights on the way from no error to all of it, (P,) each."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


def _passes(
    twin: CausalLMSubject, ids: Sequence[int], margin: Callable[[Tensor], Tensor], errors: Errors, points: int
) -> tuple[float, list[Carried]]:
    """Return the margin with every error put back, and what is carried at each share."""
    passes = []
    with bar(points + 1, "ledger", "pass") as progress, twin.running():

        def at(share: float, effects: bool) -> Carried:
            found = carried(twin.model, lambda: _logits(twin, ids), margin, errors, share, effects=effects)
            progress.update()
            return found

        replayed = at(1.0, effects=False).value
        for node in shares_of_error(points)[0]:
            passes.append(at(float(node), effects=True))
    twin.counter.backwards += points
    return replayed, passes


def _native(subject: CausalLMSubject, twin: CausalLMSubject, ids: Sequence[int]) -> tuple[Tensor, Errors]:
    """Return the native logits (V,) and every operation's error; InvalidError if watching changes a bit."""
    with subject.running(twin.experts), torch.no_grad():
        z = finite(_logits(subject, ids))
        errors, watched = rounding_errors(subject.model, twin.model, lambda: _logits(subject, ids))
    subject.counter.forwards += 1  # every operation once more, in float64
    if not bits_equal(z, watched):
        raise InvalidError(
            f"{subject.name} gives other logits while its operations are watched, or from call to call; "
            "no error can be told from that"
        )
    return z, errors


def _logits(subject: CausalLMSubject, ids: Sequence[int]) -> Tensor:
    """Return the logits of the token after `ids`, (V,), as generation asks for them."""
    subject.counter.forwards += 1
    subject.counter.calls += 1
    row = torch.tensor([list(ids)], device=subject.x0.device)
    logits: Tensor = subject.model(input_ids=row, use_cache=False, logits_to_keep=1).logits[0, -1]
    return logits


def _mean(effects: Sequence[Effect], weights: Floats) -> Effect:
    """Return the effects at P shares as one, weighted."""

    def summed(name: str) -> float:
        return math.fsum(w * getattr(effect, name) for w, effect in zip(weights, effects, strict=True))

    return Effect(summed("contribution"), summed("absolute"), summed("squares"))
