"""A causal language model as a function of its last token's embedding, everything before it held fixed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.subjects import products, proofs
from stabilitykit.subjects.anatomy import Anatomy, find
from stabilitykit.subjects.measurable import Counter
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.prefix import Prefix
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.sites import Stopped, Tap, last_position, locate
from stabilitykit.subjects.subject import Subject

PATHS = ("prefill", "decode")


class CausalLMSubject(Subject):
    """x: embedding of the prompt's last token (H,) -> y: the vector at `site` for that token (M,).

    `path="prefill"` runs the whole prompt each time; with batch 1 it is bit-equal to
    `model.base_model(inputs_embeds=E, use_cache=False)`. `path="decode"` caches the prefix once and runs one token, as
    generation does. Construction proves what the bits rest on, or refuses in one sentence: ids and embeddings give the
    same logits; the same call twice gives the same bits, unless `allow_noise`; a lane does not see its neighbours.
    Threads and attention kernel are the ambient ones and are never changed here.

    Cost of construction: 3 forwards of the prompt at batch 1 and 2 + draws at the batch shape.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: str | Sequence[int],
        *,
        site: str = "post_norm",
        path: str = "prefill",
        batch: int = 1,
        allow_noise: bool = False,
        anatomy: Anatomy | None = None,
        counter: Counter | None = None,
    ) -> None:
        if path not in PATHS:
            raise UsageError(f"path {path!r} is not one of {', '.join(PATHS)}")
        self.loaded, self.site, self.path = loaded, site, path
        self.model = loaded.model
        self.anatomy = anatomy or find(self.model)
        self.prompt = prompt
        self.ids = token_ids(loaded, self.anatomy, prompt)
        self.experts: str | None = None
        self.allow_noise = allow_noise
        self._tap = locate(site, self.anatomy, self.model)
        self._needs_head = site == "logits" or self._tap.module not in {None, *self.anatomy.base.modules()}
        self._prefixes: dict[int, Prefix] = {}
        embeddings = self._embed()
        super().__init__(embeddings[-1], batch=batch, name=loaded.spec)
        self.counter = counter or Counter()
        self._before = embeddings[:-1]
        self.proofs = proofs.prove(self)

    def evaluate(self, X: Tensor) -> Tensor:
        """Run exactly these rows (B, H) as one batch and return (B, M) at the site."""
        self.counter.forwards += len(X)
        self.counter.calls += 1
        with torch.no_grad():
            return self.forward(X)

    def forward(self, X: Tensor, experts: str | None = None) -> Tensor:
        """As `evaluate`, but uncounted and differentiable, for products and proofs; `experts` names their kernel."""
        self.prepare(len(X))
        try:
            with self._tap.stopping(), self._experts_as(experts or self.experts):
                state = self._run(X)
        except Stopped as stopped:
            return last_position(stopped.state, len(X), self.site)
        if self._tap.module is not None:
            raise UnsupportedError(f"{self.name} does not run the module of site {self.site!r} in its forward")
        return last_position(state, len(X), self.site)

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
            with torch.no_grad(), Tap(self.anatomy.blocks[blocks - 1]).stopping(), self._experts_as(self.experts):
                self._run(X)
        except Stopped as stopped:
            return stopped.state
        raise UnsupportedError(f"{self.name} does not run block {blocks - 1} in its forward")

    def replacing_block(self, X: Tensor, block: int, state: Tensor) -> Tensor:
        """Run (B, H) with block's whole output replaced by `state`, uncounted, and return (B, M) at the site."""
        self.prepare(len(X))
        with torch.no_grad(), Tap(self.anatomy.blocks[block]).reading(lambda _: state):
            return self.forward(X)

    def with_batch(self, batch: int) -> CausalLMSubject:
        """Return the same function in another batch shape, proved again, sharing weights and counter."""
        return self._varied(batch=batch)

    def relatives(self, lengths: Sequence[int]) -> Iterator[Subject]:
        """Yield this prompt cut to each length (repeated where it is shorter), on both paths, at batch 1."""
        for path in PATHS:
            for length in lengths:
                ids = [self.ids[i % len(self.ids)] for i in range(length)]
                yield self._varied(prompt=ids, path=path, batch=1)

    def neighbours(self, count: int, seed: int) -> Tensor:
        """Return the embeddings of random other tokens, (count, H)."""
        weight = self.anatomy.embedding.weight
        draws = np.random.Generator(np.random.PCG64(seed)).integers(0, len(weight), size=count)  # type: ignore[arg-type]
        with torch.no_grad():
            rows: Tensor = self.anatomy.embedding(torch.from_numpy(draws).to(self.x0.device))
        return rows.to(self.x0)

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return self.anatomy.layers

    @cached_property
    def screens(self) -> bool:
        """Whether the swap proof holds at this path and batch: nothing after block 0 reads the input again."""
        return not self.site.startswith("module:") and self.site != "embed" and proofs.swap(self)

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v for rows (k, H) by forward mode under the math attention kernel, all rows in one batch."""
        self.counter.tangents += len(V)
        return products.jvp(self, V)[1]

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u for rows (k, M) by reverse mode through the measured kernel, all rows in one batch."""
        self.counter.backwards += len(U)
        return products.vjp(self, U)[1]

    def linearisation(self) -> dict[str, Any]:
        """Return both primal digests and the adjoint check with its bound; two products."""
        return products.check(self)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the subject, with the proofs it rests on."""
        return {
            **super().describe(),
            "model": self.loaded.spec,
            "model_digest": self.loaded.digest,
            "architecture": type(self.model).__name__,
            "layers": self.depth,
            "attention": getattr(self.model.config, "_attn_implementation", None),
            "experts": self.experts,
            "prompt": self.prompt if isinstance(self.prompt, str) else "",
            "token_ids": list(self.ids),
            "site": self.site,
            "path": self.path,
            "proofs": asdict(self.proofs),
        }

    def _embed(self) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor(self.ids, device=self.anatomy.embedding.weight.device)  # type: ignore[arg-type]
            embedded: Tensor = self.anatomy.embedding(ids)
        return embedded

    def _run(self, X: Tensor) -> Tensor:
        """Run the model on rows (B, H) and return its own last state or logits, (B, T, M)."""
        arguments = self._whole_prompt(X) if self.path == "prefill" else self._one_token(X)
        if self._needs_head:
            logits: Tensor = self.model(**arguments, logits_to_keep=1).logits
            return logits
        state: Tensor = self.anatomy.base(**arguments).last_hidden_state
        return state

    def _whole_prompt(self, X: Tensor) -> dict[str, Any]:
        before = self._before.to(X.device).expand(len(X), -1, -1)
        return {"inputs_embeds": torch.cat([before, X[:, None]], dim=1), "use_cache": False}

    def _one_token(self, X: Tensor) -> dict[str, Any]:
        if len(self._before) == 0:
            return {"inputs_embeds": X[:, None], "use_cache": True}
        return {
            "inputs_embeds": X[:, None],
            "past_key_values": self.prefix(len(X)).fresh(),
            "use_cache": True,
        }

    def prefix(self, batch: int) -> Prefix:
        """Return the prefix cache for a batch shape, computed at the first call."""
        if batch not in self._prefixes:
            self._prefixes[batch] = self._build_prefix(batch)
        return self._prefixes[batch]

    def _build_prefix(self, batch: int) -> Prefix:
        rows = self._before.expand(batch, -1, -1).contiguous()
        with torch.no_grad(), self._experts_as(self.experts):
            cache = getattr(self.anatomy.base(inputs_embeds=rows, use_cache=True), "past_key_values", None)
            if cache is None:
                raise UnsupportedError(f"{self.name} ({type(self.model).__name__}) keeps no cache; use path='prefill'")
            prefix, original = Prefix(cache), copy.deepcopy(cache)
            token = {"inputs_embeds": self.copies(batch)[:, None], "use_cache": True}
            self.anatomy.base(**token, past_key_values=prefix.fresh())
            prefix.settle(original)
        return prefix

    @property
    def has_experts(self) -> bool:
        """Whether the model is a mixture whose experts' implementation can be chosen; every configuration has one."""
        can_set = getattr(self.model, "_can_set_experts_implementation", lambda: False)
        return bool(can_set()) and getattr(self.model.config, "_experts_implementation", None) is not None

    def use_experts(self, experts: str | None) -> None:
        """Measure with this implementation of a mixture's experts, the prefix included; None: the user's own."""
        self.experts = experts
        self._prefixes.clear()

    @contextmanager
    def _experts_as(self, experts: str | None) -> Iterator[None]:
        """Run with another implementation of a mixture's experts, and put the user's own back."""
        if experts is None:
            yield
            return
        ours = self.model.config._experts_implementation
        self.model.set_experts_implementation(experts)
        try:
            yield
        finally:
            self.model.set_experts_implementation(ours)

    def _varied(self, **changes: Any) -> CausalLMSubject:
        fields = {name: getattr(self, name) for name in ("prompt", "site", "path", "batch", "allow_noise")}
        return CausalLMSubject(self.loaded, **{**fields, **changes}, anatomy=self.anatomy, counter=self.counter)
