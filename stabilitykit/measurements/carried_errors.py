"""What the rounding error of one block does to each next token, carried to the end by the model's float64 twin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.exact_blocks import ExactBlocks, Passed

_AGREES = 1e-6
"""How far, relative to its size, the last state may lie from the model's with every block's error in the twin."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One text: its own errors (L, T, H), and what they do to N positions, (L + 1, N) or (L + 3, N).

    In order those of each block, of all together and, where there are long tokens, at these and at all others.
    """

    passed: Passed
    errors: Tensor
    margin: Tensor
    change: Tensor
    flips: Tensor
    others: Tensor
    said: Tensor

    @property
    def relative(self) -> Tensor:
        """|e_K| over the norm of what the block returned, (L, N)."""
        error, left = (torch.linalg.vector_norm(x[:, 1:], dim=2) for x in (self.errors, self.passed.states[1:]))
        relative: Tensor = error / left
        return relative


def judged(tool: ExactBlocks, passed: Passed, long: Tensor | None) -> Judged:
    """Carry the errors of one text, whose long tokens are `long` (T,).

    UnsupportedError where all of them do not lead to the model's own last state. Cost: L + 6 float64 forwards at most.
    """
    errors = tool.own_errors(passed)
    exact = tool.reference(passed)
    logits = exact.logits[1:]
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, :2]
    margin = _ahead(logits, order)
    changes, others = [], []
    for place, carried in enumerate(tool.carried(passed, errors, _weights(errors, long), exact)):
        changes.append(_ahead(carried.logits[1:], order) - margin)
        others.append(_first(carried.logits[1:]))
        if place == len(errors):
            _require_model(tool, passed, carried.state)
    told = torch.stack(others)
    said = _first(passed.logits[1:]) != order[:, 0]
    return Judged(passed, errors, margin, torch.stack(changes), told != order[:, 0], told, said)


def _weights(errors: Tensor, long: Tensor | None) -> Tensor:
    """Return (L + 1, L, T), each block's error and then all; with `long` (T,) those there and those elsewhere too."""
    blocks, tokens = errors.shape[:2]
    single = torch.eye(blocks)[:, :, None].expand(-1, -1, tokens)
    masks = [torch.ones(tokens)] + ([] if long is None else [long.float(), (~long).float()])
    return torch.cat([single, torch.stack(masks)[:, None].expand(-1, blocks, -1)])


def _require_model(tool: ExactBlocks, passed: Passed, state: Tensor) -> None:
    missed = float((state - passed.states[-1]).norm() / passed.states[-1].norm())
    if not missed <= _AGREES:
        raise UnsupportedError(
            f"with the errors of all blocks the float64 twin of {tool.loaded.spec} does not reach the model's last "
            f"state, but misses it by {missed:.1g} of its length: its blocks do not compute the same twice"
        )


def _ahead(logits: Tensor, order: Tensor) -> Tensor:
    first, second = logits.gather(1, order).unbind(dim=1)
    return first - second


def _first(logits: Tensor) -> Tensor:
    """Return the largest logits' tokens (T,), equal ones by id."""
    return logits.sort(dim=1, descending=True, stable=True).indices[:, 0]
