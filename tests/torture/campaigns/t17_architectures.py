"""T17: every check of the suite answers about every architecture with a verdict, or refuses it by name."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import patch

from torture.campaign import Campaign
from torture.suite_session import Session, checks, tiny

from stabilitykit.measurements.determinism import RunToRun
from stabilitykit.results.plain import from_plain
from stabilitykit.subjects import proofs
from stabilitykit.subjects.proofs import Proofs
from stabilitykit.subjects.tiny import FAMILIES

ANSWERS = ("pass", "fail", "measured", "differs", "not-distinct")
ORDER = ("mixtral", "mamba", "gpt2", *FAMILIES)
"""The most different ones first: what `make test` has time for is little."""


@functools.cache
def families() -> list[str]:
    """Return every family of the kit's tiny models, once."""
    return list(dict.fromkeys(ORDER))


def run(number: int) -> str | None:
    """Ask one check about one architecture, the architectures in turn."""
    place, family = divmod(number, len(families()))
    test, name = checks()[place], families()[family]
    ran = Session(test, tiny(name))
    where = f"{test} on tiny:{name}"
    if ran.failures:
        return f"{where}: {ran.failures[0]}"
    if not ran.records and not ran.skips:
        return f"{where}: filed nothing and said nothing"
    return next((f"{where}: {problem}" for problem in map(_problem, ran.records) if problem), None)


def _problem(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record: it has an answer that rests on a proof, or a reason."""
    if record["verdict"] in ("unsupported", "skipped"):
        return None if record["message"].strip() else f"{record['check_id']} is {record['verdict']} without a reason"
    if record["verdict"] not in ANSWERS:
        return f"{record['check_id']} is {record['verdict']}: {record['message']}"
    proved = from_plain(record["result"]["subject"]).get("proofs")
    if proved and not proved["ids_equal_embeddings"]:
        return f"{record['check_id']} was answered about a model whose embeddings are not its input"
    return None


def _raising(number: int) -> str | None:
    with patch.object(RunToRun, "find", lambda *_: 1 / 0):
        return run(number)


def _unproved(number: int) -> str | None:
    with patch.object(proofs, "_read_alone", lambda _: True), patch.object(proofs, "Proofs", _believing):
        return run(number)


def _believing(**held: Any) -> proofs.Proofs:
    return Proofs(**{**held, "ids_equal_embeddings": False})


CAMPAIGNS = [
    Campaign(
        "T17", "every check of the suite on every architecture: an answer that rests on proofs, or a reason", "checks",
        full=len(checks()) * len(families()), ci=2, trial=run,
        planted={"a measurement that raises": _raising, "an answer without its proof": _unproved},
        note="tiny random models; what transformers implements is listed in docs/architectures.md",
    ),
]  # fmt: skip
