"""One module of a model, alone, as a function of its own input at the last token."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.numerics.bits import bits_equal, name_of
from stabilitykit.numerics.linear_map import LinearMap, Product
from stabilitykit.subjects import experts, products
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.linearised import Linearised, rows_at_once
from stabilitykit.subjects.precision import double_of, require_smooth, true_float64
from stabilitykit.subjects.states import by_token
from stabilitykit.subjects.subject import Subject

Call = tuple[tuple[Any, ...], dict[str, Any], Any]


class ModuleSubject(Subject):
    """u: what module `name` is given for the last token (H_in,) -> what it returns for it (H_out,).

    Everything else the module is given (the other tokens, masks, positions) is what it was given in the parent's own
    forward of x0 on the prefill path. Run alone on that, it must return the same bits, or it is refused: it then
    depends on more than its arguments. Cost of construction: a forward of the parent for each batch shape, none at
    batch 1 if `calls` are given, the module's of `calls_of`.

    UsageError for a module that does not exist; UnsupportedError for one that is not run, is run several times, or has
    no vector a row and token on both sides.
    """

    def __init__(
        self, parent: CausalLMSubject, name: str, *, batch: int = 1, calls: Sequence[Call] | None = None
    ) -> None:
        modules = dict(parent.model.named_modules())
        if name not in modules:
            raise UsageError(f"the model has no module {name!r}; see model.named_modules()")
        self.parent, self.module_name, self.module = parent, name, modules[name]
        self.model = parent.model
        self.implementation: str | None = parent.experts
        self._double = False
        self._calls: dict[int, Call] = {} if calls is None else {1: _single(calls)}
        state = self._input(self._call(1), 1)
        super().__init__(state[0, -1], batch=batch, name=f"{parent.name} {name}")
        self.counter = parent.counter
        self._prove()

    def evaluate(self, X: Tensor) -> Tensor:
        """Run the module on exactly these rows (B, H_in) and return (B, H_out)."""
        self.counter.calls += 1
        with torch.no_grad():
            return self.forward(X)

    def forward(self, X: Tensor, implementation: str | None = None) -> Tensor:
        """As `evaluate`, differentiable; the module's rows are not whole forwards, so none are counted."""
        args, kwargs, _ = call = self._call(len(X))
        state = self._input(call, len(X))
        replaced = torch.cat([state[:, :-1], X[:, None].to(state)], dim=1).reshape(self._first(args, kwargs).shape)
        args, kwargs = ((replaced, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": replaced})
        with experts.using(self.model, implementation or self.implementation):
            return self._last(self._run(args, kwargs), len(X))

    def prepare(self, batch: int) -> None:
        """Record the call for a batch shape now, before anything differentiates."""
        self._call(batch)

    @property
    def has_experts(self) -> bool:
        """Whether the model is a mixture whose experts' implementation can be chosen."""
        return experts.selectable(self.model)

    @property
    def path(self) -> str:
        """The path its arguments come from."""
        return "prefill"

    def with_batch(self, batch: int) -> ModuleSubject:
        """Return the same module in another batch shape."""
        other = copy.copy(self)
        other.__dict__.pop("baseline", None)
        other.batch, other._noise = batch, None
        return other

    def in_float64(self) -> ModuleSubject:
        """Return the module of the float64 copy under `true_float64`, given the very same arguments, widened."""
        twin = self.with_batch(self.batch)
        twin.model = double_of(self.model)
        twin.module = twin.model.get_submodule(self.module_name)
        twin.x0, twin._double = self.x0.double(), True
        twin._calls = {}
        twin.implementation = "eager" if self.has_experts else None
        twin.name = f"{self.name} in float64"
        require_smooth(twin)
        return twin

    def jvp(self, V: Tensor) -> Tensor:
        """Return J v at x0 for each row of (k, H_in), through the module alone."""
        self.counter.calls += 1
        return products.jvp(self, V)[1]

    def vjp(self, U: Tensor) -> Tensor:
        """Return J'u at x0 for each row of (k, H_out), through the module alone."""
        self.counter.calls += 1
        return products.vjp(self, U)[1]

    def linear_map(self) -> LinearMap:
        """Return J at x0 as a map whose forwards through the module are run once, and kept as long as the map."""
        kept, M, H = Linearised(self), self.baseline.shape[1], self.x0.numel()
        rows = rows_at_once([self.module], max(M, H), len(self.parent.ids), self.x0.element_size())

        def counted(product: Product) -> Product:
            def run(vectors: Tensor) -> Tensor:
                self.counter.calls += 1
                return product(vectors)

            return run

        return LinearMap(counted(kept.jvp), counted(kept.vjp), (M, H), rows)

    def describe(self) -> dict[str, Any]:
        """Return the parent's description with the module in it."""
        own = super().describe()
        kept = ("name", "hidden_size", "dtype", "batch", "x0_digest")
        described = {**self.parent.describe(), **{key: own[key] for key in kept}, "site": f"module:{self.module_name}"}
        return {**described, "arithmetic": "true float64" if self._double else name_of(self.x0.dtype)}

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._double:
            return self.module(*args, **kwargs)
        with true_float64():
            return self.module(*args, **kwargs)

    def _call(self, batch: int) -> Call:
        """Return arguments and result of the module in the parent's forward of `batch` copies of x0."""
        if batch not in self._calls:
            native = _single(calls_of(self.parent, [self.module_name], batch)[self.module_name])
            self._calls[batch] = tree_map_only(Tensor, _doubled, native) if self._double else native
        return self._calls[batch]

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        first = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(first, Tensor) or not first.is_floating_point():
            raise UnsupportedError(f"module {self.module_name} is given no state as its first argument")
        return first

    def _input(self, call: Call, batch: int) -> Tensor:
        first = self._first(call[0], call[1])
        state = by_token(first, batch, len(self.parent.ids))
        if state is None:
            raise UnsupportedError(f"module {self.module_name} is given shape {tuple(first.shape)}, no vector a token")
        return state

    def _last(self, output: Any, rows: int) -> Tensor:
        first = output[0] if isinstance(output, tuple | list) and output else output
        state = by_token(first, rows, len(self.parent.ids)) if isinstance(first, Tensor) else None
        if state is None:
            raise UnsupportedError(f"module {self.module_name} returns no vector a row and token")
        return state[:, -1]

    def _prove(self) -> None:
        """Refuse a module that alone, with the arguments it was given, returns other bits than it did."""
        call = self._call(self.batch)
        alone = self.evaluate(self._input(call, self.batch)[:, -1])  # each slot's own: they may differ in their bits
        if not bits_equal(alone, self._last(call[2], self.batch)):
            raise UnsupportedError(
                f"module {self.module_name} alone returns other bits than inside {self.parent.name}: it depends on "
                "more than its arguments' values, such as their layout in memory or a state of its own"
            )


def _doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def calls_of(parent: CausalLMSubject, names: Iterable[str], batch: int) -> dict[str, list[Call]]:
    """Return copies of the arguments and results of all calls of modules in one forward of x0 on the prefill path."""
    found: dict[str, list[Call]] = {name: [] for name in names}
    with torch.no_grad(), ExitStack() as hooks:
        for name, calls in found.items():
            _record(parent.model.get_submodule(name), calls, hooks)
        parent.on_prefill().run_through(parent.copies(batch), head=True)
    parent.counter.forwards += batch
    return found


def _record(module: nn.Module, calls: list[Call], hooks: ExitStack) -> None:
    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((*tree_map_only(Tensor, Tensor.clone, (args, kwargs)), None))

    def after(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        calls[-1] = (calls[-1][0], calls[-1][1], tree_map_only(Tensor, Tensor.clone, output))

    hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _single(calls: Sequence[Call]) -> Call:
    if len(calls) != 1:
        raise UnsupportedError(f"a module is run {len(calls)} times in one forward; only a single call can be isolated")
    return calls[0]
