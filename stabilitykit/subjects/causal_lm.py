"""A causal language model as a function of its last token's embedding, everything before it held fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects import batches, entry, experts, linearised, noise, oracle, products, proofs, states, variants
from stabilitykit.subjects.anatomy import Anatomy, find
from stabilitykit.subjects.described import described
from stabilitykit.subjects.measurable import Counter
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.not_finite import origin, outputs_of
from stabilitykit.subjects.prefix import Prefix, prefix_of
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.site_call import answer, called
from stabilitykit.subjects.sites import Stopped, Tap, locate, needs_head
from stabilitykit.subjects.subject import Screening, Subject

PATHS = ("prefill", "decode")
ROWS = ("last", "all")


class CausalLMSubject(Subject):
    """x: embedding of the prompt's last token (H,) -> y: the vector at `site` for that token (M,).

    `path="prefill"` runs the whole prompt each time; with batch 1 it is bit-equal to
    `model.base_model(inputs_embeds=E, use_cache=False)`. `path="decode"` caches the prefix once and runs one token, as
    generation does. `rows="all"` perturbs every token's embedding: x is then the whole prompt, flattened to (T*H,), on
    the prefill path only. Construction proves what the bits rest on, or refuses in one sentence: ids and embeddings
    give the same logits; the same call twice gives the same bits, unless `allow_noise`; no lane sees its neighbours.
    Threads and attention kernel are the ambient ones and are never changed here. `batch="auto"` takes what fits into
    memory, see `batches.fitting`; a batch that does not fit is halved, and `proofs.note` says so.

    Cost of construction: 2 forwards of the prompt at batch 1 (3 with a prefix) and 2 + draws at the batch shape.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: str | Sequence[int],
        *,
        site: str = "post_norm",
        path: str = "prefill",
        batch: int | str = 1,
        rows: str = "last",
        allow_noise: bool = False,
        anatomy: Anatomy | None = None,
        counter: Counter | None = None,
    ) -> None:
        for name, value, known in (("path", path, PATHS), ("rows", rows, ROWS)):
            if value not in known:
                raise UsageError(f"{name} {value!r} is not one of {', '.join(known)}")
        if (rows, path) == ("all", "decode"):
            raise UsageError("rows='all' moves the whole prompt: there is no prefix to cache; use path='prefill'")
        self.loaded, self.site, self.path, self.rows = loaded, site, path, rows
        self.model = loaded.model
        self.anatomy = anatomy or find(self.model)
        self.prompt = prompt
        self.ids = token_ids(loaded, self.anatomy, prompt)
        self.experts: str | None = None
        self.allow_noise = allow_noise
        self._tap = locate(site, self.anatomy, self.model)
        self._needs_head = needs_head(site, self._tap, self.anatomy)
        self._prefixes: dict[int, Prefix] = {}
        self._relatives: dict[tuple[str, int], CausalLMSubject] = {}
        self.arithmetic: Callable[[], AbstractContextManager[None]] = nullcontext
        embeddings = self._embed()
        moving = 1 if rows == "last" else len(embeddings)
        super().__init__(
            embeddings[-moving:].flatten(), batch=1 if batch == batches.AUTO else int(batch), name=loaded.spec
        )
        self.token_x0, self.moved = self.x0, False
        self.counter = counter or Counter()
        self._before = embeddings[:-moving]
        self.proofs = batches.proved(self, choose=batch == batches.AUTO)

    def evaluate(self, X: Tensor) -> Tensor:
        """Run exactly these rows (B, H) as one batch and return (B, M) at the site."""
        self.counter.forwards += len(X)
        self.counter.calls += 1
        with torch.no_grad():
            return self.forward(X)

    def forward(self, X: Tensor, implementation: str | None = None) -> Tensor:
        """As `evaluate`, but uncounted and differentiable, for products and proofs, with that kernel of experts."""
        self.prepare(len(X))
        with self.running(implementation):
            return answer(self, self._arguments(X), len(X))

    def finite(self, Y: Tensor) -> Tensor:
        """Return Y, or raise InvalidError naming the first non-finite output and, if x0 gives one, the module."""
        try:
            return super().finite(Y)
        except InvalidError as error:
            with torch.no_grad(), outputs_of(self.model) as outputs:
                self.forward(self.copies(1))
            if found := origin(outputs):
                raise InvalidError(f"{error}; in its own forward {found}") from None
            raise

    def prepare(self, batch: int) -> None:
        """Cache the prefix for a batch shape now, before anything taps, differentiates or swaps kernels."""
        if self.path == "decode" and len(self._before):
            self.prefix(batch)

    def first_blocks(self, X: Tensor, blocks: int = 1) -> Tensor:
        """Run (B, H) through blocks 0 .. blocks-1 and return the state of every recomputed position, (B, T, H)."""
        self.counter.screened += len(X)
        self.counter.calls += 1
        return self.stopped_after(X, blocks)

    def stopped_after(self, X: Tensor, blocks: int) -> Tensor:
        """As `first_blocks`, uncounted."""
        if not 1 <= blocks <= self.depth:
            raise UsageError(f"blocks={blocks}: this model has {self.depth} blocks")
        self.prepare(len(X))
        try:
            with torch.no_grad(), Tap(self.anatomy.blocks[blocks - 1]).stopping():
                self.run_through(X)
        except Stopped as stopped:
            return stopped.state
        raise UnsupportedError(f"{self.name} does not run block {blocks - 1} in its forward")

    def run_through(self, X: Tensor, *, head: bool = False) -> Tensor:
        """Run (B, H) to the model's own end, uncounted: its last state or, with `head`, its logits, (B, T, M)."""
        self.prepare(len(X))
        with self.running():
            return called(self, self._arguments(X), head)

    def states(self, X: Tensor, sites: Sequence[str], *, whole: bool = False) -> dict[str, Tensor]:
        """Run (B, H) once, to the model's end, and return the state at each site; see `states.read`."""
        self.counter.forwards += len(X)
        self.counter.calls += 1
        return states.read(self, X, sites, whole)

    @property
    def tokens_run(self) -> int:
        """Tokens of a row that one call runs: the prompt's, or 1 after a cached prefix."""
        return 1 if self.path == "decode" else len(self.ids)

    @property
    def embeddings(self) -> Tensor:
        """The prompt as the model reads it, (T, H)."""
        return torch.cat([self._before, self.x0.view(-1, self.anatomy.hidden_size)])

    def replacing_block(self, X: Tensor, block: int, state: Tensor) -> Tensor:
        """Run (B, H) with block's whole output replaced by `state`, uncounted, and return (B, M) at the site."""
        self.prepare(len(X))
        with torch.no_grad(), Tap(self.anatomy.blocks[block]).reading(lambda _: state):
            return self.forward(X)

    def with_batch(self, batch: int) -> CausalLMSubject:
        """Return the same function in another batch shape, proved again, sharing weights and counter."""
        return variants.varied(self, batch=batch)

    def with_site(self, site: str) -> CausalLMSubject:
        """Return the same input read at another site, proved again, sharing weights and counter."""
        return variants.at_site(self, site)

    def at(self, x: Tensor, *, proved: bool = True) -> CausalLMSubject:
        """Return this function at another last embedding x (H,), or prompt (T*H,) for `rows="all"`.

        `describe()` then has `input`: "not a token's embedding". UsageError for another shape or dtype.
        """
        return variants.at(self, x, proved=proved)

    def in_float64(self) -> CausalLMSubject:
        """Return this function with a float64 copy of the model under `true_float64`, from the same embeddings.

        Made once. UnsupportedError without the memory, 8 bytes a parameter, or if it fails its self-test.
        """
        return oracle.of(self)

    def equivalents(self) -> Iterator[tuple[str, Tensor]]:
        """Yield x0 in several batch shapes, with one thread where several run, and on every path the model has."""
        yield from noise.batches(self, lambda batch: self.copied(batch=batch).evaluate(self.copies(batch)))
        for path in self.paths:
            if path != self.path:
                yield f"path {path}", self.copied(path=path, batch=1).evaluate(self.copies(1))

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths it can run on: only prefill if the whole prompt moves, or without a cache."""
        return PATHS if self.rows == "last" and self.anatomy.past else PATHS[:1]

    def on_prefill(self) -> CausalLMSubject:
        """Return this function as it runs the whole prompt, unproved."""
        return self if self.path == "prefill" else self.copied(path="prefill")

    def copied(self, **changes: Any) -> CausalLMSubject:
        """Return this subject with other attributes and nothing remembered, for uses that need no proof."""
        return variants.copied(self, **changes)

    def relatives(self, lengths: Sequence[int]) -> Iterator[Subject]:
        """Yield this prompt cut to each length (repeated where it is shorter), on all its paths, at batch 1."""
        yield from variants.of_lengths(self, lengths)

    def neighbours(self, count: int, seed: int) -> Tensor:
        """Return the embeddings of random other tokens, (count, H), or of random prompts for `rows="all"`."""
        weight, tokens = self.anatomy.embedding.weight, self.x0.numel() // self.anatomy.hidden_size
        draws = np.random.Generator(np.random.PCG64(seed)).integers(0, len(weight), size=(count, tokens))  # type: ignore[arg-type]
        with torch.no_grad():
            rows: Tensor = self.anatomy.embedding(torch.from_numpy(draws).to(self.x0.device))
        return rows.flatten(1).to(self.x0)

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return self.anatomy.layers

    @cached_property
    def screens(self) -> bool:
        """Whether the swap proof holds at this path and batch: nothing after block 0 reads the input again."""
        return not self.site.startswith("module:") and self.site != "embed" and proofs.swap(self)

    @property
    def screenings(self) -> tuple[Screening, ...]:
        """The way into block 0 before block 0 itself, where it is known."""
        return (*self._entry, *super().screenings) if self.screens else ()

    @cached_property
    def _entry(self) -> tuple[Screening, ...]:
        return entry.screening(self)

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v for rows (k, H) by forward mode under the math attention kernel, all rows in one batch."""
        self.counter.tangents += len(V)
        return products.jvp(self, V)[1]

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u for rows (k, M) by reverse mode through the measured kernel, all rows in one batch."""
        self.counter.backwards += len(U)
        return products.vjp(self, U)[1]

    @cached_property
    def linear(self) -> CausalLMSubject:
        """This function as its derivatives are taken; see `linearised.linear`."""
        return linearised.linear(self)

    def linear_map(self) -> LinearMap:
        """Return J at x0 as a map whose forwards are run once, and kept as long as the map."""
        return linearised.linear_map(self)

    def linearisation(self, J: LinearMap | None = None) -> dict[str, Any]:
        """Return both primal digests and the adjoint check of J with its bound; three products."""
        return linearised.check(self, J or self.linear_map())

    def describe(self) -> dict[str, Any]:
        """Return what identifies the subject, with the proofs it rests on."""
        return {**super().describe(), **described(self)}

    def _embed(self) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor(self.ids, device=self.anatomy.embedding.weight.device)  # type: ignore[arg-type]
            embedded: Tensor = self.anatomy.embedding(ids)
        return embedded

    @contextmanager
    def running(self, implementation: str | None = None) -> Iterator[None]:
        """Hold the model as it is measured: its experts (or another implementation of them), its arithmetic."""
        with experts.using(self.model, implementation or self.experts), self.arithmetic():
            yield

    def _arguments(self, X: Tensor) -> dict[str, Any]:
        if self.path == "prefill":
            return {"inputs_embeds": self.embedded(X), "use_cache": False}
        past = {str(self.anatomy.past): self.prefix(len(X)).fresh()} if len(self._before) else {}
        return {"inputs_embeds": self.embedded(X), "use_cache": True, **past}

    def embedded(self, X: Tensor) -> Tensor:
        """Return the embeddings (B, T, H) of the tokens that one call runs, in memory of their own."""
        if self.path == "decode":
            return X[:, None].clone()
        rows = (self._before.to(X.device).expand(len(X), -1, -1), X.view(len(X), -1, self.anatomy.hidden_size))
        return torch.cat(rows, dim=1)

    def prefix(self, batch: int) -> Prefix:
        """Return the prefix cache for a batch shape, computed at the first call."""
        if batch not in self._prefixes:
            self._prefixes[batch] = prefix_of(self, batch)
        return self._prefixes[batch]

    @property
    def has_experts(self) -> bool:
        """Whether the model is a mixture whose experts' implementation can be chosen."""
        return experts.selectable(self.model)

    def use_experts(self, implementation: str | None) -> None:
        """Measure with this implementation of a mixture's experts, the prefix included; None: the user's own."""
        self.experts = implementation
        self._prefixes = {}  # a new one: a subject at another embedding may share the old
