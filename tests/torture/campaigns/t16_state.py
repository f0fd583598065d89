"""T16: every check of the suite leaves the process and the user's model as they were, also when it is cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torture.campaign import Campaign, draw
from torture.global_state import changed, of_model, settings
from torture.suite_session import Session, checks, tiny

import stabilitykit as sk
from stabilitykit.subjects.models import LoadedModel

FAMILIES = ("llama", "mixtral", "gpt2")
WAYS = 5
"""Trials of a check on a model: one runs to its end, the others are cut short, the last of them by an interrupt."""


class PlantedError(Exception):
    """What a model raises in the middle of a forward."""


class PlantedInterrupt(KeyboardInterrupt):
    """What a user sends who does not want to wait."""


@contextmanager
def cut_short(loaded: LoadedModel, after: int, error: type[BaseException]) -> Iterator[None]:
    """Let the middle block of the model raise at its call number `after`."""
    blocks = sk.CausalLMSubject(loaded, "ab").anatomy.blocks
    left = iter(range(after))

    def stop(*_: object) -> None:
        if next(left, None) is None:
            raise error("in the middle of a forward")

    handle = blocks[len(blocks) // 2].register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def run(number: int, leave: Callable[[LoadedModel], Any] = lambda _: None) -> str | None:
    """Run one check on one model, to its end or cut short, and return what it left changed."""
    random, (place, way) = draw("T16", number), divmod(number, WAYS)
    test, family = checks()[place % len(checks())], FAMILIES[place // len(checks())]
    loaded, left = tiny(family), list[str]()
    error = PlantedInterrupt if way == WAYS - 1 else PlantedError
    after = int(np.exp(random.uniform(0, np.log(200))))

    @contextmanager
    def around() -> Iterator[None]:
        before = {**settings(), **of_model(loaded)}
        try:
            with cut_short(loaded, after, error) if way else nullcontext():
                yield
            leave(loaded)
        finally:
            left.extend(filter(None, [changed(before, {**settings(), **of_model(loaded)})]))

    ran = Session(test, loaded, around)
    if way:
        tiny.cache_clear()  # the plugin may have met it first with what cuts short on it
    where = f"{test} on tiny:{family}, {'cut short' if way else 'whole'}"
    if left:
        return f"{where}: {left[0]}"
    if not ran.called or (not way and ran.status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)):
        return f"{where}: ended with status {ran.status} and was not judged"
    return None


def leaving(leave: Callable[[LoadedModel], Callable[[], object]]) -> Callable[[int], str | None]:
    """Return the trial with a check that leaves something changed; it is put back after the trial."""

    def trial(number: int) -> str | None:
        undo = list[Callable[[], object]]()
        try:
            return run(WAYS * number, lambda loaded: undo.append(leave(loaded)))
        finally:
            undo[0]()
            tiny.cache_clear()  # the plugin refuses from then on what it has seen changed

    return trial


def _grad_mode(_loaded: LoadedModel) -> Callable[[], object]:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(not before)
    return lambda: torch.set_grad_enabled(before)


def _random(_loaded: LoadedModel) -> Callable[[], object]:
    before = torch.get_rng_state()
    torch.rand(1)
    return lambda: torch.set_rng_state(before)


def _weight(loaded: LoadedModel) -> Callable[[], object]:
    weight = loaded.model.model.norm.weight
    before = weight.clone()
    weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
    return lambda: weight.copy_(before)


def _hook(loaded: LoadedModel) -> Callable[[], object]:
    return loaded.model.model.norm.register_forward_hook(lambda *_: None).remove


CAMPAIGNS = [
    Campaign(
        "T16", "settings of the process and all of the model are the same after a check, whole or cut short", "checks",
        full=WAYS * len(checks()) * len(FAMILIES), ci=3, trial=run,
        planted={
            "a setting of torch": leaving(_grad_mode),
            "a draw from the global stream": leaving(_random),
            "one bit of one weight": leaving(_weight),
            "a hook": leaving(_hook),
        },
        note="three architectures; cut short by an error or an interrupt in the middle block",
    ),
]  # fmt: skip
