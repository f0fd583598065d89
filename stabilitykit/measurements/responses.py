"""What a subject answers to given inputs: outputs, logits and chosen experts of one forward, read slot by slot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.numerics.bits import bits_equal, raw_bytes
from stabilitykit.subjects.routing import routers, watched
from stabilitykit.subjects.subject import Subject


def distinct(X: Tensor) -> tuple[Tensor, list[int]]:
    """Return the rows of X (N, H) that differ in some byte, as they first occur, and for each row its number there."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    which: list[int] = []
    for n, content in enumerate(raw_bytes(X.cpu()).reshape(len(X), -1).numpy()):
        number = numbers.setdefault(content.tobytes(), len(numbers))
        if number == len(first):
            first.append(n)
        which.append(number)
    return X[first], which


@dataclass(frozen=True)
class Responses:
    """One batch of answers on the CPU: `outputs` (n, M), `logits` (n, V) or None, other `states`, `experts` (n, E)."""

    outputs: Tensor
    logits: Tensor | None
    states: Mapping[str, Tensor]
    experts: Tensor | None


class Reader:
    """Reads output and logits of the same forwards, and the baseline in the same way, (B, ...) in every slot.

    Row n of what is asked sits in slot n % B and is compared with the baseline there. A subject without a head has no
    logits; one without routers no experts. Cost of making one: the baseline, and for mixtures a forward of 3 tokens.
    """

    def __init__(self, subject: Subject, sites: Sequence[str] = ()) -> None:
        self.subject = subject
        self.site = getattr(subject, "site", "")
        self.sites = tuple(dict.fromkeys((self.site, *sites, "logits")))
        self.routers = routers(subject.model) if getattr(subject, "has_experts", False) else []  # type: ignore[attr-defined]
        self.baseline = self._read(subject.copies(subject.batch))

    def __call__(self, X: Tensor) -> Iterator[Responses]:
        """Yield the answers to the rows of X (N, H), one full batch at a time, the last padded with x0."""
        batch = self.subject.batch
        for rows in torch.split(X.to(self.subject.x0), batch):
            padding = self.subject.copies(batch)[len(rows) :]
            found = self._read(torch.cat([rows, padding]))
            yield Responses(
                found.outputs[: len(rows)],
                None if found.logits is None else found.logits[: len(rows)],
                {site: state[: len(rows)] for site, state in found.states.items()},
                None if found.experts is None else found.experts[: len(rows)],
            )

    def require_unchanged(self, found: Responses, slot: int) -> None:
        """Hold an answer to x0 to its promise, the bits of the baseline there; InvalidError where it has others."""
        pairs = [(found.outputs, self.baseline.outputs), (found.logits, self.baseline.logits)]
        if not all(a is None or b is None or bits_equal(a[slot], b[slot]) for a, b in pairs):
            raise InvalidError(
                f"{self.subject.name}: the unperturbed input, run among perturbed ones, has other bits than before, so "
                "no change can be ascribed to a perturbation; measure RunToRun"
            )

    def _read(self, X: Tensor) -> Responses:
        model, chosen = getattr(self.subject, "model", None), {}
        try:
            if self.routers:
                with watched(model, self.routers, len(X)) as chosen:  # type: ignore[arg-type]
                    states = self.subject.states(X, self.sites)
            else:
                states = self.subject.states(X, self.sites)
        except UnsupportedError:
            states = {}
        outputs = states[self.site] if self.site in states else self.subject.evaluate(X)
        experts = torch.cat([chosen[name] for name in self.routers if name in chosen], dim=1).cpu() if chosen else None
        others = {site: state.cpu() for site, state in states.items() if site not in (self.site, "logits")}
        logits = states.get("logits")
        return Responses(self.subject.finite(outputs).cpu(), None if logits is None else logits.cpu(), others, experts)


@dataclass(frozen=True, slots=True)
class Top:
    """The token a model would say next: the first of the largest logits; `margin` = its logit minus the runner-up's."""

    id: int
    text: str
    probability: float
    logit: float
    margin: float


def top(logits: Tensor, subject: Subject) -> Top:
    """Return the top token of logits (V,), in float64; its text is empty without a tokenizer."""
    z = logits.double()
    best = int((z == z.max()).nonzero()[0])
    two = z.topk(min(2, len(z))).values
    probability = float(torch.softmax(z, 0)[best])
    margin = float(two[0] - two[1]) if len(two) > 1 else math.nan
    return Top(best, _text(best, subject), probability, float(z[best]), margin)


def change_of_token(before: Tensor, after: Tensor, subject: Subject) -> dict[str, Any]:
    """Return the columns that compare two rows of logits (V,): distances, and the top token of both."""
    first, last = top(before, subject), top(after, subject)
    gap = (after.double() - before.double()).abs()
    return {
        "logit_l2": float(gap.norm()),
        "logit_max_abs": float(gap.max()),
        "kl": divergence(before, after),
        "token_id_before": first.id,
        "token_before": first.text,
        "token_id_after": last.id,
        "token_after": last.text,
        "probability_before": first.probability,
        "probability_after": last.probability,
        "logit_before": first.logit,
        "logit_after": last.logit,
        "margin_before": first.margin,
        "margin_after": last.margin,
        "token_changed": first.id != last.id,
    }


def divergence(before: Tensor, after: Tensor) -> float:
    """Return the Kullback-Leibler divergence sum p (log p - log q), in nats, of two rows of logits; in float64."""
    p, q = (torch.log_softmax(z.double(), 0) for z in (before, after))
    return max(0.0, float((p.exp() * (p - q)).sum()))


def angle(a: Tensor, b: Tensor) -> float:
    """Return the angle between two vectors in radians, exact also where their cosine rounds to 1; nan for a zero."""
    a, b = a.double(), b.double()
    if not (bool(a.any()) and bool(b.any())):
        return math.nan
    half = float((a / a.norm() - b / b.norm()).norm()) / 2
    return 2 * math.asin(min(1.0, half))


def _text(token: int, subject: Subject) -> str:
    tokenizer = getattr(getattr(subject, "loaded", None), "tokenizer", None)
    return str(tokenizer.decode([token])) if tokenizer is not None else ""
