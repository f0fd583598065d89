"""The final norm and the head of a model: what they make of states, and what they were given in a forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.anatomy import PROBE, Anatomy, find

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


@dataclass(frozen=True, eq=False)
class NormAndHead:
    """Final norm and head of `model`, in one dtype.

    `last` says whether the model's logits are the head's, bit for bit: a cap or a scale behind it keeps their order,
    but not their bits.
    """

    anatomy: Anatomy
    model: nn.Module
    norm: nn.Module
    head: nn.Module
    last: bool

    def normed(self, states: Tensor) -> Tensor:
        """Return what the final norm makes of states (n, H), each by itself, as in a step of one token."""
        with torch.no_grad():
            rows = [self.norm(state[None, None])[0, 0] for state in states.to(self.device)]
        return torch.stack(rows).cpu()

    def logits(self, state: Tensor) -> Tensor:
        """Return what the head makes of one state (H,): (M,), in the shape of a step of one token."""
        return self.logits_of(state[None])[0]

    def logits_of(self, states: Tensor) -> Tensor:
        """Return what the head makes of states (n, H) in one call, as of the tokens of one text: (n, M)."""
        with torch.no_grad():
            found: Tensor = self.head(states.to(self.device)[None])[0]
        return found.cpu()

    def rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the head's rows (n, H) of some tokens and their biases (n,), in float64."""
        kept = torch.tensor(list(ids), device=self.device)
        return self.weight[kept].double().cpu(), self.bias[kept.cpu()]

    def preference(self, state: Tensor, first: int, second: int) -> tuple[float, bool]:
        """Return logit of `first` minus that of `second` in a state that was normed (H,), and whether they tie.

        The difference is summed exactly and rounded once (products of float64 states are rounded too); a tie is one of
        the two logits, each rounded to the dtype of the state.
        """
        W, c = self.rows((first, second))
        terms = (W * state.double()).tolist()
        ahead = math.fsum([*terms[0], float(c[0]), *(-one for one in terms[1]), -float(c[1])])
        rounded = torch.tensor([math.fsum([*terms[k], float(c[k])]) for k in (0, 1)], dtype=torch.float64)
        left, right = rounded.to(state.dtype).tolist()
        return ahead, left == right

    @property
    def weight(self) -> Tensor:
        """The head's matrix (V, H), as the model keeps it."""
        found: Tensor = self.head.weight  # type: ignore[assignment]
        return found.detach()

    @property
    def bias(self) -> Tensor:
        """What the head adds to every logit (V,), in float64; zeros where it adds nothing."""
        found: Any = getattr(self.head, "bias", None)
        return torch.zeros(len(self.weight), dtype=torch.float64) if found is None else found.detach().double().cpu()

    @property
    def device(self) -> torch.device:
        """Where the head computes."""
        return self.weight.device


def norm_and_head(loaded: LoadedModel) -> NormAndHead:
    """Return a model's own norm and head. UnsupportedError for a head without a matrix. Cost: forwards of 3 tokens."""
    anatomy = find(loaded.model)
    refuse_without_matrix(loaded, anatomy.head)
    return NormAndHead(anatomy, loaded.model, anatomy.final_norm, anatomy.head, is_last(loaded, anatomy))


def matrix_of_head(loaded: LoadedModel) -> Tensor:
    """Return the matrix (V, d) of a model's head, as it keeps it; UnsupportedError without one. No forward."""
    head = loaded.model.get_output_embeddings()
    refuse_without_matrix(loaded, head)
    weight: Tensor = head.weight.detach()
    return weight


def refuse_without_matrix(loaded: LoadedModel, head: nn.Module | None) -> None:
    """Raise UnsupportedError unless the head keeps a floating matrix, one row a token."""
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise UnsupportedError(f"the head of {loaded.spec} keeps no matrix of rows, one a token, to take apart")


def is_last(loaded: LoadedModel, anatomy: Anatomy) -> bool:
    """Whether the model returns what its head does."""
    heard: list[Tensor] = []
    handle = anatomy.head.register_forward_hook(lambda _head, _inputs, output: heard.append(output))
    try:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([PROBE], device=loaded.model.device)).logits
    finally:
        handle.remove()
    return bool(heard) and bits_equal(heard[-1], logits)


@dataclass(frozen=True, eq=False)
class Heard:
    """What passes norm and head, call by call, of the last row, on the CPU.

    `before` and `after` (T, H): what the final norm and the head are given; `made` (T, V): what the head makes of it.
    `stream` (T, H): what each block returns, a list a call; empty lists unless it was asked for.
    """

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    stream: list[list[Tensor]] = field(default_factory=list)


@contextmanager
def hearing(anatomy: Anatomy, *, stream: bool = False) -> Iterator[Heard]:
    """Collect what passes the final norm and the head, and the blocks with `stream`, in every forward inside; copies.

    A model asked for few logits gives its head the tokens of those alone.
    """
    heard = Heard()

    def given(_norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        heard.before.append(_last_row(inputs[0]))

    def passed(_head: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        heard.after.append(_last_row(inputs[0]))
        heard.made.append(_last_row(output))

    def returned(block: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if block is anatomy.blocks[0]:
            heard.stream.append([])
        heard.stream[-1].append(_last_row(output[0] if isinstance(output, tuple) else output))

    handles = [anatomy.final_norm.register_forward_pre_hook(given), anatomy.head.register_forward_hook(passed)]
    handles += [block.register_forward_hook(returned) for block in anatomy.blocks if stream]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _last_row(state: Tensor) -> Tensor:
    return state[-1].detach().clone().cpu()
