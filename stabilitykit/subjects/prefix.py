"""The cache of a fixed prefix: computed once, handed to every call as if nobody had used it before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.digest import digest

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


class Prefix:
    """The past of all tokens but the last, for one batch shape.

    `fresh()` gives a cache that a forward may grow, stop half-way, or break: the original stays as it is. Caches that
    grow by concatenation are shared without copying a tensor; whether that is safe is not believed but seen, by digest,
    in `settle`. States that are written in place (state-space, convolution, static caches) are copied on every call.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._digest = state_digest(cache)
        self.shared = True

    def fresh(self) -> Any:
        """Return a cache equal to the original, whose use leaves the original untouched once `settle` has agreed."""
        if not self.shared:
            return copy.deepcopy(self._cache)
        cache = copy.copy(self._cache)
        if hasattr(cache, "layers"):
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        return cache

    def settle(self, original: Any) -> bool:
        """After a forward with `fresh()`: keep sharing if the original's bits stand, else copy from now on.

        `original` is a deep copy made before that forward, to go on with if the sharing did harm. Returns `shared`.
        """
        if state_digest(self._cache) != self._digest:
            self._cache, self.shared = original, False
        return self.shared

    def intact(self) -> bool:
        """Return whether the original still has the bits it was built with."""
        return state_digest(self._cache) == self._digest


def built(base: nn.Module, name: str, prefix: Tensor, token: Tensor) -> Prefix:
    """Return the prefix of embeddings (B, T-1, H), settled with the token (B, 1, H); `name` is that of the cache."""
    cache = getattr(base(inputs_embeds=prefix, use_cache=True), name)
    made, original = Prefix(cache), copy.deepcopy(cache)
    base(inputs_embeds=token, use_cache=True, **{name: made.fresh()})
    made.settle(original)
    return made


def held_bytes(prefix: Prefix) -> int:
    """Return the bytes of all tensors a prefix holds."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(prefix._cache, set()))


def state_digest(cache: Any) -> str:
    """Digest of every tensor a cache holds, in a fixed order."""
    return digest(*_tensors(cache, set()))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item, seen)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _tensors(value[key], seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        yield from _tensors(vars(value), seen)


def prefix_of(subject: CausalLMSubject, batch: int) -> Prefix:
    """Return the cache of what stands before the subject's token, in every row of a batch."""
    past = subject.anatomy.past
    if past is None:
        raise UnsupportedError(f"{subject.name} ({type(subject.model).__name__}) keeps no cache; use path='prefill'")
    rows = subject._before.repeat(batch, 1, 1)
    with torch.no_grad(), subject.running():
        return built(subject.anatomy.base, past, rows, subject.copies(batch)[:, None])
