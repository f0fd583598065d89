"""One text computed in many ways: greedily, token by token, and again on the same tokens along other paths."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.subjects.anatomy import Anatomy, find
from stabilitykit.subjects.noise import threads
from stabilitykit.subjects.prompt import token_ids

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute a text that exact arithmetic could not tell from another.

    `path`: "decode" runs the prompt and then one token at a time on the cache, as generation does; "prefill" runs the
    whole text at once, or on the cache in pieces of `chunk` tokens. `batch` copies stand side by side, and the last is
    read. `attention`: "eager", or "math" for torch's plain kernel; None for the ambient one. `threads`: None for the
    ambient number.
    """

    path: str = "decode"
    batch: int = 1
    chunk: int | None = None
    attention: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no way."""
        for name, known in (("path", ("decode", "prefill")), ("attention", (None, "eager", "math"))):
            if getattr(self, name) not in known:
                said = ", ".join(str(one) for one in known)
                raise UsageError(f"{name} {getattr(self, name)!r} of a way is not one of {said}")
        for name in ("batch", "chunk", "threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UsageError(f"{name}={count} of a way computes nothing; give at least 1")
        if self.chunk is not None and self.path == "decode":
            raise UsageError("decoding runs one token at a time; pieces are of path='prefill'")

    @property
    def name(self) -> str:
        """Return e.g. `prefill, batch 8` or `prefill, eager attention`."""
        said = [self.path if self.chunk is None else f"prefill in pieces of {self.chunk}"]
        said += [f"batch {self.batch}"] if self.batch > 1 else []
        said += [f"{self.attention} attention"] if self.attention else []
        said += [f"{self.threads} thread" + "s" * (self.threads > 1)] if self.threads else []
        return ", ".join(said)

    def rows(self, prompt: int, tokens: int) -> int:
        """Return the rows through the model for so many prompt and generated tokens: copies times calls."""
        if self.path == "decode":
            return self.batch * tokens
        return self.batch * (1 if self.chunk is None else -(-(prompt + tokens - 1) // self.chunk))


class Text:
    """A prompt of a model and what it says next, `generated`, once `greedy` has been asked.

    `state` (n, H) is what the head read for the logits that came last, None where the head is not the model's own, or
    where nothing listens (`listens=False`: then the model runs exactly as if nobody watched).
    UsageError for a prompt that cannot be read, and where prompt and tokens together exceed the model's context.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: str | Sequence[int],
        tokens: int,
        anatomy: Anatomy | None = None,
        *,
        listens: bool = True,
    ) -> None:
        self.loaded, self.tokens, self.listens = loaded, tokens, listens
        self.anatomy = anatomy or find(loaded.model)
        self.ids = token_ids(loaded, self.anatomy, prompt)
        self.generated: list[int] = []
        self.state: Tensor | None = None
        most = self.anatomy.max_positions
        if most is not None and len(self.ids) + tokens - 1 > most:
            raise UsageError(
                f"the prompt has {len(self.ids)} tokens and {tokens} are to follow, the model's context is {most}; "
                "shorten the prompt or ask for fewer tokens"
            )

    def greedy(self) -> Iterator[Tensor]:
        """Yield the logits (M,) of each token as it is generated, until the model ends the text or has said enough.

        The largest logit is taken, of several the lowest id. Cost: one row a token.
        """
        ends = _ends(self.loaded)
        self.generated = []
        past: Any = None
        text = list(self.ids)
        while len(self.generated) < self.tokens and not ends.intersection(self.generated):
            fresh = text if past is None else text[-1:]
            logits, past = self._call(self.loaded.model, fresh, past, 1, 1)
            row = finite(logits[-1, -1])
            self.generated.append(first_largest(row))
            text.append(self.generated[-1])
            yield row

    def forced(
        self, way: Way, generated: Sequence[int] | None = None, model: nn.Module | None = None
    ) -> Iterator[Tensor]:
        """Yield the logits (n, M) of the generated tokens, or of those given, in order, in pieces as they come.

        `model`: another module that reads the same ids, such as a wider copy. UnsupportedError for a way this model
        does not have. Cost: `way.rows`.
        """
        if lacking := self._lacks(way):
            raise UnsupportedError(f"{way.name} cannot be run: {lacking}")
        said = self.generated if generated is None else list(generated)
        model = model or self.loaded.model
        with ExitStack() as held:
            if way.threads is not None:
                held.enter_context(threads(way.threads))
            held.enter_context(_attention(model, way.attention))
            yield from self._pieces(model, way, said)

    def ways(self, asked: Sequence[Way]) -> list[Way]:
        """Return those of the ways that this model and this machine have."""
        return [way for way in asked if not self._lacks(way)]

    def _lacks(self, way: Way) -> str:
        if self.anatomy.past is None and way.chunk is not None:
            return f"{self.loaded.spec} keeps no cache"
        if way.attention is not None and getattr(self.loaded.model.config, "_attn_implementation", None) != "sdpa":
            return f"{self.loaded.spec} does not run fused attention, the ambient one is all it has"
        if way.threads is not None and (
            self.loaded.model.device.type != "cpu" or way.threads >= torch.get_num_threads()
        ):
            return "threads are varied on the CPU, and only to fewer"
        return ""

    def _pieces(self, model: nn.Module, way: Way, said: Sequence[int]) -> Iterator[Tensor]:
        text, start = [*self.ids, *said[:-1]], len(self.ids) - 1
        ends = self._cuts(way, len(text))
        past: Any = None
        for begin, end in zip([0, *ends], ends, strict=False):
            wanted = end - max(begin, start)
            fresh = text[:end] if self.anatomy.past is None else text[begin:end]
            logits, past = self._call(model, fresh, past, way.batch, max(wanted, 1))
            if wanted > 0:
                yield finite(logits[-1, -wanted:])

    def _cuts(self, way: Way, length: int) -> list[int]:
        if way.path == "decode":
            return list(range(len(self.ids), length + 1))
        step = way.chunk or length
        return [*range(step, length, step), length]

    def _call(self, model: nn.Module, fresh: Sequence[int], past: Any, batch: int, keep: int) -> tuple[Tensor, Any]:
        """Run tokens after what is cached, in copies; return the last logits (B, keep, M) and the cache."""
        name = self.anatomy.past
        ids = torch.tensor([list(fresh)] * batch, device=self.loaded.model.device)
        cached = {} if name is None else {"use_cache": True, **({} if past is None else {name: past})}
        self.loaded.counter.forwards += batch
        self.loaded.counter.calls += 1
        self.state = None
        with torch.no_grad(), self._listening() if self.listens else nullcontext():
            output = model(input_ids=ids, logits_to_keep=keep, **cached)
        return output.logits, None if name is None else getattr(output, name)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def hear(_head: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.state = inputs[0][-1].detach().clone() if inputs[0].ndim == 3 else None

        heard = self.anatomy.head.register_forward_pre_hook(hear)
        try:
            yield
        finally:
            heard.remove()


def first_largest(row: Tensor) -> int:
    """Return the lowest id among bit-equal largest logits (M,): torch does not promise which one `argmax` takes."""
    return int((row == row.max()).nonzero()[0])


def finite(logits: Tensor) -> Tensor:
    """Return the logits; InvalidError if one is not finite."""
    if not bool(logits.isfinite().all()):
        raise InvalidError("a logit is not finite; nothing can be said about the next token")
    return logits


def widened(model: nn.Module) -> nn.Module:
    """Return a float32 copy of the model: the same weights, exactly, where it has 16 bits."""
    return copy.deepcopy(model).float()


def _ends(loaded: LoadedModel) -> set[int]:
    """Return the ids that end a text: those of the generation's configuration, else of the model's."""
    for config in (getattr(loaded.model, "generation_config", None), loaded.model.config):
        ends = getattr(config, "eos_token_id", None)
        if ends is not None:
            return set(ends) if isinstance(ends, list | tuple) else {int(ends)}
    return set()


def _attention(model: nn.Module, kind: str | None) -> AbstractContextManager[Any]:
    if kind is None:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH) if kind == "math" else attending(model, kind)


@contextmanager
def attending(model: Any, name: str) -> Iterator[None]:
    """Run with another implementation of attention, and put the user's own back."""
    ours = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(ours)
