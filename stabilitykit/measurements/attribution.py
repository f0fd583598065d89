"""Where the rounding error of an output comes from: each module's own error, carried to the output exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from stabilitykit.subjects.calls import FOREIGN, Call, recorded
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.sites import Tap
from stabilitykit.subjects.states import by_token

EMBED = "embed"
"""What happens before block 0: position tables, scales, a norm."""

BATCH = 32
"""Errors carried to the output in one float64 forward."""

Chain = tuple[str, ...]
"""Modules that follow each other, from each output to the next input; usually one."""


@dataclass(frozen=True)
class Part:
    """What one chain of modules adds to the error E = y - y64 of the output.

    `share` = <c, E> / |E|^2, with c the chain's own rounding error carried to the output by the true-float64 model: the
    shares of parts that make up the whole model add up to 1, to first order. `size` = |c| / |E|. `removed` = 1 -
    |y' - y64| / |E|, y' being the output with the chain's output replaced by that of its true-float64 version on the
    same input: as every later rounding falls otherwise then, it is noisy, and negative where the error grew.
    """

    share: float
    size: float
    removed: float


def attribute(
    subject: CausalLMSubject, twin: CausalLMSubject, chains: Sequence[Chain], replace: bool
) -> tuple[dict[Chain, Part | str], float]:
    """Return each chain's part, or why it has none, and |E| / |y64|, on the prefill path at batch 1.

    A chain's own error is what it returned less what its float64 twin returns on the same state, with the other
    arguments (masks, position tables) from the float64 model's own forward, so that their rounding counts too.
    Cost: at most 3 forwards to record, 3 + N in float64 for N chains, and with `replace` N more.
    """
    native, exact = subject.on_prefill().copied(batch=1), twin.on_prefill().copied(batch=1)
    names = sorted({name for chain in chains for name in chain if name != EMBED})
    told, true = recorded(native, native.x0, names), recorded(exact, exact.x0, names)
    y, y64 = (one.evaluate(one.copies(1))[0].double() for one in (native, exact))
    E = y - y64
    errors: dict[Chain, Tensor | str] = {chain: _error(chain, (native, exact), told, true) for chain in chains}
    known = {chain: error for chain, error in errors.items() if isinstance(error, Tensor)}
    carried = _carried(exact, known, y64)
    found: dict[Chain, Part | str] = {chain: error for chain, error in errors.items() if isinstance(error, str)}
    for chain, c in carried.items():
        removed = _removed(native, chain, known[chain], y64, E) if replace and chain != (EMBED,) else math.nan
        found[chain] = Part(_over(float(c @ E), float(E @ E)), _over(float(c.norm()), float(E.norm())), removed)
    return {chain: found[chain] for chain in chains}, _over(float(E.norm()), float(y64.norm()))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _error(
    chain: Chain,
    sides: tuple[CausalLMSubject, CausalLMSubject],
    told: Mapping[str, Call],
    true: Mapping[str, Call],
) -> Tensor | str:
    """Return the chain's own rounding error (T, M), float64, or why it cannot be had."""
    _, exact = sides
    if chain == (EMBED,):
        states = [one.states(one.copies(1), [EMBED], whole=True).get(EMBED) for one in sides]
        missing = any(state is None for state in states)
        return "no vector a token enters block 0" if missing else states[0][0].double() - states[1][0]  # type: ignore[index]
    for name in chain:
        if name not in told or name not in true:
            return f"{name} is not called once, from one vector a token to another"
    state = told[chain[0]].entered.double()
    try:
        for name in chain:
            state = true[name].again(exact, exact.model.get_submodule(name), state)
    except FOREIGN as error:
        return f"{name} cannot be run alone: {str(error).splitlines()[0]}"
    return told[chain[-1]].left.double() - state


def _carried(exact: CausalLMSubject, errors: Mapping[Chain, Tensor], y64: Tensor) -> dict[Chain, Tensor]:
    """Return what each error, added where it arose, changes the float64 output by; one row of a batch each."""
    chains, found = list(errors), dict[Chain, Tensor]()
    for start in range(0, len(chains), BATCH):
        chunk = chains[start : start + BATCH]
        rows = exact.copied(batch=len(chunk))
        with ExitStack() as hooks:
            for row, chain in enumerate(chunk):
                hooks.enter_context(_tap(exact, chain).reading(_adding(row, errors[chain], len(chunk))))
            Y = rows.evaluate(rows.copies(len(chunk)))
        found |= {chain: y - y64 for chain, y in zip(chunk, Y, strict=True)}
    return found


def _tap(subject: CausalLMSubject, chain: Chain) -> Tap:
    if chain == (EMBED,):
        return Tap(subject.anatomy.blocks[0], before=True)
    return Tap(subject.model.get_submodule(chain[-1]))


def _adding(row: int, error: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
    def add(state: Tensor) -> Tensor:
        changed = state.clone()
        rows = by_token(changed, batch, len(error))
        assert rows is not None, "recorded as one vector a token"
        rows[row] += error
        return rows.reshape(state.shape)

    return add


def _removed(native: CausalLMSubject, chain: Chain, error: Tensor, y64: Tensor, E: Tensor) -> float:
    """Return the share of |E| that goes when the chain returns what its float64 twin does."""
    with _replaced(native, chain, error):
        y = native.evaluate(native.copies(1))[0].double()
    return 1 - _over(float((y - y64).norm()), float(E.norm()))


@contextmanager
def _replaced(native: CausalLMSubject, chain: Chain, error: Tensor) -> Iterator[None]:
    """Inside, the chain's last module returns its float64 twin's output, rounded: its own less its error."""

    def read(state: Tensor) -> Tensor:
        return (state.double() - error.reshape(state.shape)).to(state.dtype)

    with Tap(native.model.get_submodule(chain[-1])).reading(read):
        yield
