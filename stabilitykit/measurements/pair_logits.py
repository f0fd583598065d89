"""The two logits that a decision map is about, without the tens of thousands that cannot matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.sites import Tap
from stabilitykit.subjects.variants import read_at

PANEL = 64
"""Rows of the head that are multiplied in place of all, an aligned stretch around each token."""


class Told(NamedTuple):
    """(z_a, z_b) of each row, (B, 2), and whether a third token leads, (B,)."""

    pairs: Tensor
    third: Tensor


def whole(gap: LogitGap, X: Tensor) -> Told:
    """Run the subject on the rows (B, H) and read its logits."""
    Z = gap.subject.finite(gap.subject.evaluate(X))
    return _told(Z, Z[:, list(gap.pair)])


def _told(Z: Tensor, chosen: Tensor) -> Told:
    """Return what all logits (B, V) say beside the two that are chosen, (B, 2)."""
    return Told(chosen, Z.amax(dim=1) > chosen.amax(dim=1))


def narrowed(gap: LogitGap, X: Tensor) -> tuple[Told, Callable[[Tensor], Told]]:
    """Run the first rows (B, H) of a map, and return what reads the next: `whole`, or the same bits at less cost.

    A head that is one matrix is multiplied by PANEL rows around each token alone, if the rows of this first batch have
    the bits of the model's own logits that way: which kernel adds them up depends on shapes, and not on numbers.
    Whether a third token leads is then known without its logit wherever

        max(z_a, z_b) > z_c(y_1) + |w_c| |y - y_1| + rounding,   y_1 the state of the first row

    holds for all tokens c, where y is what the head reads and the rounding of z_c is at most 2 (H + 2) eps |w_c| |y|
    (Higham 2002, 3.5). Where it does not, all logits are computed.
    """
    subject = gap.subject
    head = subject.anatomy.head if isinstance(subject, CausalLMSubject) else None
    if not isinstance(subject, CausalLMSubject) or type(head) is not nn.Linear:
        return whole(gap, X), lambda rows: whole(gap, rows)
    states: list[Tensor] = []
    with Tap(head, before=True).reading(states.append):
        Z = subject.finite(subject.evaluate(X))
    told = _told(Z, Z[:, list(gap.pair)])
    if len(states) != 1 or states[0].shape != (len(X), 1, head.in_features):
        return told, lambda rows: whole(gap, rows)
    panel = _Panel(gap, head, states[0][0, 0], Z[0])
    same = bits_equal(panel.pairs(states[0]), told.pairs)
    return told, panel.read if same else lambda rows: whole(gap, rows)


class _Panel:
    """The rows of the head next to two tokens, and what bounds the logits of all others."""

    def __init__(self, gap: LogitGap, head: nn.Linear, y: Tensor, z: Tensor) -> None:
        subject = gap.subject
        assert isinstance(subject, CausalLMSubject)
        self.pair, self.head, self.y, self.z = list(gap.pair), head, y.double(), z.double()
        self.states = read_at(subject, "post_norm", _prefixes=subject._prefixes)
        self.lengths = head.weight.detach().double().norm(dim=1)
        self.others = torch.ones(len(z), dtype=torch.bool, device=z.device)
        self.others[self.pair] = False
        self.rounding = 2 * (head.in_features + 2) * torch.finfo(z.dtype).eps

    def read(self, X: Tensor) -> Told:
        """Run the rows to what the head reads, and return what it says of the two tokens."""
        Y = self.states.finite(self.states.evaluate(X))[:, None]
        chosen = self.pairs(Y)
        if self._leads(Y[:, 0].double(), chosen):
            return Told(chosen, torch.zeros(len(X), dtype=torch.bool, device=X.device))
        with torch.no_grad():
            return _told(self.head(Y)[:, 0], chosen)

    def pairs(self, Y: Tensor) -> Tensor:
        """Return (z_a, z_b) of what the head reads, (B, 1, H)."""
        return torch.stack([self._one(Y, token) for token in self.pair], dim=1)

    def _one(self, Y: Tensor, token: int) -> Tensor:
        start = token // PANEL * PANEL
        weight, bias = self.head.weight[start : start + PANEL], self.head.bias
        with torch.no_grad():
            Z = nn.functional.linear(Y, weight, None if bias is None else bias[start : start + PANEL])
        return Z[:, 0, token - start]

    def _leads(self, Y: Tensor, chosen: Tensor) -> bool:
        """Whether one of the two tokens leads in every row, whatever the other logits are."""
        distance = float((Y - self.y).norm(dim=1).max())
        reach = distance + self.rounding * (float(self.y.norm()) + distance)
        highest = float((self.z + self.lengths * reach)[self.others].max())
        return float(chosen.double().amax(dim=1).min()) > highest
