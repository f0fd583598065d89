"""T13: twenty processes update one baseline at once: one wins, the others are told, the file is whole."""

from __future__ import annotations

import atexit
import functools

from oracles.updaters import Updaters
from torture.campaign import Campaign, scratch

UPDATERS = 20


@functools.cache
def updaters(*words: str) -> Updaters:
    found = Updaters(scratch("updates") / "main.jsonl", UPDATERS, *words)
    atexit.register(found.kill)
    return found


def one_round(_number: int) -> str | None:
    return updaters().round()


def careless_round(_number: int) -> str | None:
    return updaters("careless").round()


CAMPAIGNS = [
    Campaign(
        "T13",
        "twenty processes update one baseline at once: one wins, the others are told that it has changed, all is whole",
        "rounds",
        full=50,
        ci=1,
        trial=one_round,
        planted={"the file is not compared before it is replaced": careless_round},
    )
]
