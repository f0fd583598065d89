"""A context in which a fault is in every forward of this thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from stabilitykit.faults.catalogue import Fault, When, fault_named
from stabilitykit.faults.edits import ATTENTION, EDITS, Call, Wrong

MANY, EVERY = 16, 101
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class Planted:
    """What a planted fault has done: `calls` in which it had a place, and how many of them it `fired` in."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.calls = self.fired = 0
        self._edit = EDITS[fault.defect]()
        self._shapes: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def run(self, name: str, operation: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Run a call, or what is planted in its place."""
        call = Call(name, operation, args, keywords)
        wrong = self._edit.find(call)
        if wrong is not None and self._fires(name, wrong):
            self.fired += 1
            return wrong.run()
        output = operation(*args, **keywords)
        self._edit.seen(call, output)
        return output

    def _fires(self, name: str, wrong: Wrong) -> bool:
        self.calls += 1
        key = (name, tuple(wrong.about.shape))
        self._shapes[key] += 1
        return _WHEN[self.fault.when](wrong.about, self.calls, self._shapes[key])


def tokens_of(x: Tensor) -> int:
    """Return how many tokens of each sequence (..., T, H) holds; a matrix (R, H) does not tell sequences apart."""
    return x.shape[-2] if x.ndim > 1 else 1


def rows_of(x: Tensor) -> int:
    """Return how many rows come at once, of (B, T, H), (B, heads, T, H) or (R, H); heads are no rows."""
    return tokens_of(x) * (x.shape[0] if x.ndim > 2 else 1)


_WHEN: Mapping[When, Callable[[Tensor, int, int], bool]] = {
    "always": lambda about, call, of_its_shape: True,
    "many-rows": lambda about, call, of_its_shape: rows_of(about) > MANY,
    "one-token": lambda about, call, of_its_shape: tokens_of(about) == 1,
    "every-101st": lambda about, call, of_its_shape: call % EVERY == 0,
    "from-the-second": lambda about, call, of_its_shape: of_its_shape > 1,
}


@contextmanager
def planted(fault: Fault | str) -> Iterator[Planted]:
    """Put a fault of `FAULTS`, or of its name, into whatever torch computes in this thread; UsageError for another.

    Only float32, bfloat16 and float16 are touched. What the fault does is counted from 0 in each context. Processes
    that are started inside run without it. Cost: a Python call for each operation.

        with planted("split-k@many-rows") as fault:
            ...
        assert fault.fired
    """
    found = Planted(fault_named(fault) if isinstance(fault, str) else fault)
    with _Operations(found), _Functions(found):
        yield found


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Meets operations below autograd, where a product is a product, whatever module asked for it."""

    def __init__(self, found: Planted) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._found.run(func.overloadpacket.__name__, func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Meets attention above the kernels, which differ in their arguments, and keeps decompositions as they are.

    Under any dispatch mode `eigvalsh` and `svdvals` compute vectors too, by a routine with other bits.
    """

    def __init__(self, found: Planted) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.startswith("linalg_"):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        if name == ATTENTION:
            given = {**dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}
            tensors = tuple(given.pop(one) for one in _ARGUMENTS[:3])
            return self._found.run(name, func, tensors, given)
        return func(*args, **(kwargs or {}))
