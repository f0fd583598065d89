"""T8: repeated forwards and fresh processes give the same bits, and the bound that is printed is the one proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import torch
from torture.campaign import Campaign, draw
from torture.suite_session import tiny

import stabilitykit as sk
from stabilitykit.measurements.process_invariance import ProcessInvariance
from stabilitykit.subjects.replica import in_fresh_process

RUNS, PROCESSES = 299, 59
CLAIM = "0 of 299 differed: rate < 1% at 95%"
SUBJECTS = [
    (family, dtype, path, batch)
    for family, dtype in (("llama", "float32"), ("llama", "bfloat16"), ("gpt2", "float32"), ("mixtral", "float32"))
    for path, batch in (("prefill", 1), ("decode", 4))
]
_REPLICA = "stabilitykit.measurements.process_invariance.in_fresh_process"


def repeated(number: int, disturbed=lambda *_: nullcontext()) -> str | None:
    """Run one subject 300 times and read what is claimed about it."""
    family, dtype, path, batch = SUBJECTS[number]
    subject = sk.CausalLMSubject(tiny(family, dtype), [5, 7, 11, 13], path=path, batch=batch)
    with disturbed(subject, number):
        result = sk.RunToRun(runs=RUNS).measure(subject)
    where = f"tiny:{family} in {dtype}, {path} at batch {batch}"
    if result.verdict != "pass":
        return f"{where}: {result.sentence}"
    bound = result.readings["rate_bound"].value
    if CLAIM not in result.sentence or abs((1 - bound) ** RUNS - 0.05) > 1e-12:
        return f"{where}: 300 equal runs are said to be {result.sentence!r}, bounded by {bound}"
    return None


def afresh(number: int, ask=in_fresh_process) -> str | None:
    """Ask one fresh process."""
    subject = sk.CausalLMSubject(tiny("llama"), [5, 7, 11, 13])
    with patch(_REPLICA, ask):
        result = ProcessInvariance(processes=1, lengths=(1, 3)).measure(subject)
    bound = "0 of 1 differed: rate < 95% at 95%, if processes are independent draws."
    return None if result.verdict == "pass" and result.sentence.endswith(bound) else result.sentence


@contextmanager
def _one_bit_once(subject: sk.CausalLMSubject, number: int) -> Iterator[None]:
    """Let one run of 299 give the next number in one element."""
    chosen, calls = int(draw("T8a", number).integers(1, RUNS + 1)), iter(range(RUNS + 1))

    def change(_module, _inputs, output):
        if next(calls) == chosen:
            last = output[-1, -1]  # of the row and token that are read
            last[7] = torch.nextafter(last[7], torch.tensor(99.0))
        return output

    handle = subject.anatomy.final_norm.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _other_sign(subjects: list[sk.CausalLMSubject], *_: object):
    replica = type("Replica", (), {"environment": {}})()
    replica.outputs = [one.evaluate(one.copies(1))[0] for one in subjects]
    replica.outputs[-1][-1] *= -1
    return replica


def _claimed_more(number: int) -> str | None:
    with patch("stabilitykit.numerics.statistics.rate_bound", lambda *_: 0.005):
        return repeated(number)


CAMPAIGNS = [
    Campaign(
        "T8a", "the same forward again, bit for bit, with the bound that so many equal runs prove", "runs",
        full=len(SUBJECTS), ci=1, each=RUNS, trial=repeated,
        planted={"one bit of one run": partial(repeated, disturbed=_one_bit_once), "a closer bound": _claimed_more},
        note="tiny models, both paths; every 299 bound the rate below 1 % at 95 %",
    ),
    Campaign(
        "T8b", "the same forward in a fresh process, bit for bit", "processes",
        full=PROCESSES, ci=1, trial=afresh, planted={"one sign of one number": partial(afresh, ask=_other_sign)},
        note="59 equal ones bound the rate below 5 % at 95 %",
    ),
]  # fmt: skip
