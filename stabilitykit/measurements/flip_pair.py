"""The smallest flip: two inputs one ULP apart in one coordinate that give two different next tokens."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save_file
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements import flip_reproducer
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.tie_point import TiePoint, lanes, reading_logits
from stabilitykit.measurements.tie_store import at_tie, tie_of
from stabilitykit.numerics.between import Chain, segment
from stabilitykit.numerics.bits import name_of, pattern, ulp_distance
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.subject import Subject

Pair = tuple[float, float]
Found = tuple[Tensor, Tensor, tuple[int, int], tuple[Pair, Pair]]

_REACHES = 24
_found: WeakKeyDictionary[Subject, dict[str, Found]] = WeakKeyDictionary()


@dataclass(frozen=True)
class FlipPair:
    """Inputs `low` and `high` (H,), one ULP apart in `coordinate` and equal elsewhere, whose next tokens differ.

    `tokens` are theirs in this order, `logits` both tokens' logits at low and at high. All in slot 0 of the subject's
    batch on its path.
    """

    low: Tensor
    high: Tensor
    tokens: tuple[int, int]
    logits: tuple[tuple[float, float], tuple[float, float]]
    subject: Subject

    @property
    def coordinate(self) -> int:
        """The one coordinate that differs."""
        return int(ulp_distance(self.low, self.high).argmax())

    @property
    def step(self) -> float:
        """|high - low|: the spacing of that coordinate."""
        return float((self.high.double() - self.low.double()).norm())

    @property
    def sides(self) -> tuple[str, str]:
        """The coordinate on both sides in decimal and bits, `0.0123 (0x3c4985f0)`."""
        low, high = (one[self.coordinate] for one in (self.low, self.high))
        return f"{float(low)!r} ({pattern(low)})", f"{float(high)!r} ({pattern(high)})"

    def outputs(self) -> Tensor:
        """Return the logits of both, (2, M), by two forwards of their own."""
        return torch.cat([self.subject(x[None].to(self.subject.x0)) for x in (self.low, self.high)])

    def save(self, folder: str | os.PathLike[str], *, model: str | None = None) -> Path:
        """Write `flip.py` and `flip.safetensors` into a folder and return the former, which shows the flip by itself.

        It needs torch, transformers and safetensors alone. `model`: the folder or hub id to load the model from, by
        default where it was read from. UnsupportedError for what is no causal model on a CPU read from safetensors.
        """
        subject = self.subject
        if not isinstance(subject, CausalLMSubject) or subject.x0.device.type != "cpu" or subject.experts:
            raise UnsupportedError(
                f"{subject.name} is no causal model on a CPU with its own experts: no file can load it"
            )
        place = model or _place(subject)
        into = Path(folder)
        into.mkdir(parents=True, exist_ok=True)
        before = subject.embeddings[: -(subject.x0.numel() // subject.anatomy.hidden_size)]
        tensors = {"prefix": before, "low": self.low, "high": self.high}
        found = {"found": json.dumps(self._found(subject, place), sort_keys=True)}
        partial = into / f".flip.{os.getpid()}"
        save_file({name: one.contiguous().clone() for name, one in tensors.items()}, partial, metadata=found)
        partial.replace(into / "flip.safetensors")
        shutil.copyfile(str(flip_reproducer.__file__), partial)
        partial.replace(into / "flip.py")
        return into / "flip.py"

    def _found(self, subject: CausalLMSubject, place: str) -> dict[str, Any]:
        texts = {}
        if subject.loaded.tokenizer is not None:
            texts = {str(token): repr(subject.loaded.tokenizer.decode([token])) for token in self.tokens}
        return {
            "tokens": self.tokens,
            "texts": texts,
            "logits": self.logits,
            "token_ids": list(subject.ids),
            "prompt": subject.prompt if isinstance(subject.prompt, str) else "",
            "model": place,
            "model_digest": subject.loaded.digest,
            "weights": flip_reproducer.weight_digest(subject.model),
            "dtype": name_of(subject.x0.dtype),
            "attention": subject.model.config._attn_implementation,
            "path": subject.path,
            "cache": subject.anatomy.past,
            "batch": subject.batch,
            "threads": torch.get_num_threads(),
            "environment": flip_reproducer.environment(),
            "whole_environment": environment(subject.loaded),
        }


def flip_pair(subject: Subject, pair: tuple[int, int] | None = None, *, tie: TiePoint | None = None) -> FlipPair:
    """Return two inputs one ULP apart whose next tokens differ, found next to the tie of `pair`.

    From the tie along the gradient to an input with another largest logit; then bisection of the segment, and at last
    of a chain of single-ULP moves, which only ends at two neighbours. What decides is the argmax of all logits, so
    either token may be any. `tie` saves solving it. Errors as of `tie_point`, and UnsupportedError where no other token
    comes near. Found once a subject. Cost: a gradient and 10 to 50 batches beside the tie.
    """
    subject = reading_logits(subject)
    tie = tie or tie_of(subject, pair)
    found = _found.setdefault(subject, {})
    key = f"{digest(tie.x)}-{tie.pair}"
    if key not in found:
        found[key] = _FlipSearch(subject, tie).find()
    low, high, tokens, logits = found[key]
    return FlipPair(low, high, tokens, logits, subject)


def flipping(subject: Subject) -> Cost:
    """Return what finding the pair takes as a rule, beside the tie."""
    return Cost(forwards=24 * subject.batch, backwards=1)


class _FlipSearch:
    def __init__(self, subject: Subject, tie: TiePoint) -> None:
        self.subject, self.tie, self.lanes = subject, tie, lanes(subject)

    def find(self) -> Found:
        low = self.tie.x.to(self.subject.x0)
        first = int(self._ask(low[None])[0].argmax())
        high = self._other(low, first)
        while len(X := segment(low, high, self.lanes)):
            flipped = self._flipped(X, first)
            low, high = _narrowed([low, *X, high], flipped)
        chain = Chain(low, high)
        left, right = 0, chain.length
        while points := chain.inside(left, right, self.lanes):
            flipped = self._flipped(chain.at(torch.tensor(points, device=low.device)), first)
            left, right = _narrowed([left, *points, right], flipped)
        ends = chain.at(torch.tensor([left, right], device=low.device))
        Z = [self._ask(x[None])[0] for x in ends]
        tokens = (int(Z[0].argmax()), int(Z[1].argmax()))
        of_both = [tuple(z[list(tokens)].double().tolist()) for z in Z]
        return ends[0].cpu(), ends[1].cpu(), tokens, (of_both[0], of_both[1])

    def _other(self, x: Tensor, token: int) -> Tensor:
        """Return an input with another token: outward from x along the gradient, both ways, twice as far each time."""
        gradient = at_tie(self.subject, self.tie).gradient.to(x.device)
        size = float(gradient.norm())
        reach = self.tie.ulp
        for _ in range(_REACHES):
            for sign in (-1, 1):
                there = (x.double() + sign * reach * gradient / size**2).to(x.dtype)
                if int(self._ask(there[None])[0].argmax()) != token:
                    return there
            reach *= 2
        raise UnsupportedError(f"{self.subject.name}: no other token than {token} comes within {reach:.3g} of the tie")

    def _flipped(self, X: Tensor, token: int) -> list[bool]:
        return [flag for chunk in torch.split(X, self.lanes) for flag in (self._ask(chunk).argmax(1) != token).tolist()]

    def _ask(self, X: Tensor) -> Tensor:
        return self.subject(X)


def _narrowed(points: list[Any], flipped: list[bool]) -> tuple[Any, Any]:
    """Return the first two neighbours of which only the second is flipped; the ends are such two."""
    place = [*flipped, True].index(True)
    return points[place], points[place + 1]


def _place(subject: CausalLMSubject) -> str:
    """Return where transformers can load the model from; UnsupportedError if there is no such place."""
    loaded = subject.loaded
    if Path(loaded.source).is_dir():
        return str(Path(loaded.source).resolve())
    if "/" in loaded.spec and not loaded.spec.endswith(".gguf"):
        return loaded.spec
    raise UnsupportedError(
        f"{loaded.spec} comes from {loaded.source}, which transformers cannot load; write it with "
        "model.save_pretrained(folder) and give model=folder"
    )
