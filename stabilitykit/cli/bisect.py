"""`stabilitykit bisect A B`: to the first operation whose bits differ between two recordings, or in one run again."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import IncomparableError, StabilityError, UsageError

if TYPE_CHECKING:
    from stabilitykit.traces.bisect import Bisection
    from stabilitykit.traces.operation_log import OperationLog
    from stabilitykit.traces.recording import Recording
    from stabilitykit.traces.replay import Replay
    from stabilitykit.traces.reproducer import Side

HELP = "name the first operation whose bits differ; exit 1 where one does"
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PROMPT = 60


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("a", metavar="A", type=Path, help="a recording made with --record-level op")
    parser.add_argument("b", metavar="B", type=Path, nargs="?", help="another one")
    parser.add_argument("--live", action="store_true", help="instead of B, run A's model again in a fresh process")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of that process (repeatable)"
    )
    parser.add_argument("--reproduce", type=Path, metavar="DIR", help="write the operation as a file to run by itself")
    parser.add_argument("--prompt", type=int, metavar="N", help="only this prompt, from 0")
    parser.add_argument("--step", type=int, metavar="N", help="only this step, from 0, the one that reads the prompt")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for each process")
    parser.add_argument("--json", action="store_true", help="print JSON with both sides of the operation")


@dataclass(frozen=True)
class Answer:
    """What was found: at which prompt and step, after how many operations, and what became of the one alone."""

    prompt: int
    text: str
    step: int
    forwards: int
    compared: int
    bisection: Bisection
    replay: Replay | None = None
    sides: tuple[Side, Side] | None = None
    problem: str = ""
    changed: tuple[str, ...] = ()


def run(given: argparse.Namespace, _words: Sequence[str]) -> tuple[int, list[str]]:
    """Compare; return 1 where anything differs, else 0, and the lines to print."""
    environ = _checked(given)
    from stabilitykit.traces.comparable import changed_environment, check_comparable
    from stabilitykit.traces.store import read_recording

    a = read_recording(given.a)
    chosen = _chosen(a, given)
    if given.live:
        answer = _against_live(a, chosen, environ, given)
    else:
        b = read_recording(given.b)
        check_comparable(a, b)
        changed = tuple(f"{name}: {ours} -> {theirs}" for name, ours, theirs in changed_environment(a, b))
        answer = replace(_found(a, chosen, _theirs(b, chosen, given.b)), changed=changed)
    status = int(answer.bisection.verdict != "pass")
    if given.json:
        return status, [json.dumps(_plain(answer, given), indent=2, sort_keys=True, allow_nan=False)]
    return status, lines(answer, given.reproduce)


def lines(answer: Answer, folder: Path | None = None) -> list[str]:
    """Return where it is, the sentence, what the replay said, and how to see it again; text is escaped."""
    from stabilitykit.report.text import shortened, shown
    from stabilitykit.traces.reproducer import command

    found = answer.bisection
    if found.verdict == "pass":
        what = "operations" if found.level == "op" else "calls of modules"
        several = f"{answer.forwards} forwards" if answer.forwards > 1 else "the forward"
        return [f"All {answer.compared} {what} of {several} gave the same bits.", *map(shown, found.notes)]
    text = shortened(repr(answer.text), _PROMPT)
    told = [f"Prompt {answer.prompt} {text}, step {answer.step}:", found.sentence, *found.notes]
    if answer.changed:
        told.append(f"What else is not the same in A and B: {'; '.join(answer.changed)}.")
    if answer.problem:
        told.append(f"It was not run again alone: {answer.problem}")
    if answer.replay and answer.sides:
        told.append(answer.replay.sentence)
        if folder:
            ours, theirs = (command(side, letter) for side, letter in zip(answer.sides, "ab", strict=True))
            told += [f"In {folder}:", f"  passes:  {ours}", f"  exits 1: {theirs}"]
    return [shown(line) for line in told]


def _checked(given: argparse.Namespace) -> dict[str, str]:
    """Return the variables to set; UsageError for what contradicts itself."""
    if given.live == (given.b is not None):
        raise UsageError("give either a second recording B or --live")
    for name in ("set", "reproduce"):
        if getattr(given, name) and not given.live:
            raise UsageError(f"--{name} is of a process that runs now; give --live instead of B")
    parts = [(word, _VARIABLE.fullmatch(word)) for word in given.set]
    if wrong := [word for word, match in parts if match is None]:
        raise UsageError(f"--set {wrong[0]!r} is not NAME=VALUE")
    return {match[1]: match[2] for _, match in parts if match}


_Chosen = dict[tuple[int, int], "OperationLog"]


def _chosen(a: Recording, given: argparse.Namespace) -> _Chosen:
    """Return the logs of A that are asked for, by prompt and step."""
    found = {(prompt, step): log for prompt, one in enumerate(a.generations) for step, log in one.operations.items()}
    if not found:
        raise IncomparableError(f"{given.a} holds no operations; record it again with --record-level op")
    asked = {
        key: found[key] for key in sorted(found) if given.prompt in (None, key[0]) and given.step in (None, key[1])
    }
    if not asked:
        kept = ", ".join(f"{prompt}/{step}" for prompt, step in sorted(found)[:10])
        raise UsageError(f"{given.a} has no operations of that prompt and step; it has those of {kept}")
    return asked


def _theirs(b: Recording, chosen: _Chosen, where: Path) -> list[OperationLog]:
    found = []
    for prompt, step in chosen:
        log = b.operations(prompt, step) if prompt < len(b.generations) else None
        if log is None:
            raise IncomparableError(
                f"{where} holds no operations of prompt {prompt}, step {step}; record the same prompts and steps there"
            )
        found.append(log)
    return found


def _found(a: Recording, chosen: _Chosen, theirs: Sequence[OperationLog]) -> Answer:
    """Return the first forward in which an operation gives other bits, else the last."""
    from stabilitykit.traces.bisect import bisect

    compared = 0
    for ((prompt, step), ours), other in zip(chosen.items(), theirs, strict=True):
        found = bisect(ours, other)
        compared += found.compared
        answer = Answer(prompt, a.generations[prompt].text or "", step, len(chosen), compared, found)
        if found.verdict != "pass":
            break
    return answer


def _against_live(a: Recording, chosen: _Chosen, environ: dict[str, str], given: argparse.Namespace) -> Answer:
    from stabilitykit.traces.live import live, model_of

    theirs = live(list(chosen.values()), model_of(a), environ, given.timeout)
    answer = _found(a, chosen, theirs)
    if answer.bisection.kind != "local":
        return answer
    threads = theirs[0].threads
    try:
        if given.reproduce:
            return _replayed(answer, a, chosen, (environ, threads), given.reproduce, given.timeout)
        with tempfile.TemporaryDirectory(prefix="stabilitykit-") as folder:
            return _replayed(answer, a, chosen, (environ, threads), Path(folder), given.timeout)
    except StabilityError as error:  # the difference is found, whatever becomes of its replay
        return replace(answer, problem=str(error))


def _replayed(
    answer: Answer, a: Recording, chosen: _Chosen, there: tuple[dict[str, str], int], folder: Path, timeout: float
) -> Answer:
    from stabilitykit.traces.live import model_of, operands, variables
    from stabilitykit.traces.replay import replay
    from stabilitykit.traces.reproducer import Side, write_reproducer

    found, log = answer.bisection, chosen[answer.prompt, answer.step]
    ours, theirs, cause = found.local_parts()
    sides = Side(ours, log.threads, variables(a)), Side(theirs, there[1], there[0])
    taken = operands(log, ours.place, model_of(a), sides[0].environ, timeout)
    about = {"model": a.model["spec"], "ids": log.ids, "generated": log.generated}
    write_reproducer(folder, taken, *sides, about)
    seen = replay(folder, *sides, timeout)
    return replace(answer, replay=seen, sides=sides, bisection=replace(found, cause=seen.refine(cause)))


def _plain(answer: Answer, given: argparse.Namespace) -> dict[str, Any]:
    told = {name: getattr(answer, name) for name in ("prompt", "text", "step", "forwards", "compared", "problem")} | {
        "changed": list(answer.changed)
    }
    replay = answer.replay.to_dict() if answer.replay else None
    place = str(given.reproduce) if given.reproduce and replay else None
    return {**told, "bisection": answer.bisection.to_dict(), "replay": replay, "reproducer": place}
