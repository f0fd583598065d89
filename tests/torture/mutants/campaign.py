"""Mutants in a seeded order, each in a fork of a process that has everything imported; a journal that goes on."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import pytest
from torture.mutants.operators import Mutant, mutants
from torture.mutants.planting import living, replace_code, replace_source
from torture.mutants.reach import Reach, Tracing, is_test
from torture.mutants.trial import Found, Outcome, collect, forked, run_items, silent, tried

SEED = 9
TOGETHER = 8
"""Files of tests that are traced by one process, after which what was seen is written down."""
KILLERS = 3
"""Tests that are shown first: those that killed most of one function, and of one file."""
IMPOSSIBLE = -1
"""The number of tests of a mutant that no living function has."""
PRELOADED = (
    *("torch", "transformers.models.llama.modeling_llama", "pandas", "gguf", "ml_dtypes"),
    *("scipy.stats", "scipy.optimize", "scipy.linalg", "scipy.special", "scipy.ndimage", "scipy.spatial.distance"),
    *("_pytest.unittest", "_pytest.junitxml", "hypothesis.extra.numpy"),
    *("pytest_benchmark.plugin", "xdist.plugin", "anyio.pytest_plugin"),
)
"""What nearly every fork would import for itself, and no plugin of pytest minds."""


@dataclass(frozen=True)
class Ground:
    """What is mutated and what must notice: a room's files and the folders of its tests."""

    root: Path
    room: str  # relative to root, such as stabilitykit/numerics
    tests: tuple[str, ...]
    preloaded: tuple[str, ...] = PRELOADED
    spare: float = 4.0
    """Processor seconds that a mutant may take beside four times what its tests take without it."""

    @property
    def sources(self) -> dict[str, str]:
        """Every source of the room by its name."""
        paths = sorted((self.root / self.room).glob("*.py"))
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    @property
    def digests(self) -> dict[str, str]:
        """A digest of every source, and of every file of the tests and of what stands above them.

        Tests of pages run what the pages say and look at little of it: they are left out.
        """
        folders = [self.root / folder for folder in self.tests]
        paths = {path for folder in folders for path in folder.rglob("*.py") if "_page" not in path.name}
        above = {parent for folder in folders for parent in folder.parents if parent.is_relative_to(self.root)}
        paths |= {path for folder in above for path in folder.glob("conftest.py")}
        paths |= {self.root / file for file in self.sources}
        named = ((path.relative_to(self.root).as_posix(), path) for path in sorted(paths))
        return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in named}

    @property
    def test_files(self) -> list[str]:
        """The files that hold tests."""
        return [file for file in self.digests if is_test(file)]

    def order(self) -> list[Mutant]:
        """All mutants in an order drawn from the seed: any beginning of it is a random sample.

        Each is drawn by itself, so that an edit of one file leaves those of others where they were.
        """
        found = [mutant for file, source in self.sources.items() for mutant in mutants(file, source)]
        return sorted(found, key=lambda one: hashlib.sha256(f"{SEED} {one.place}".encode()).digest())


class Journal:
    """Outcomes on disk, a line each; those of a file that was edited since do not count."""

    def __init__(self, path: Path, ground: Ground) -> None:
        self.path, self.ground = path, ground
        self.digests = ground.digests
        self.outcomes: dict[str, Outcome] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            one = json.loads(line)
            if self.digests.get(one["file"]) == one["source"]:
                self.outcomes[one["name"]] = Outcome(*one["outcome"])

        self._kills: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for mutant in ground.order():
            self._count(mutant, self.outcomes.get(mutant.name))

    def _count(self, mutant: Mutant, outcome: Outcome | None) -> None:
        if outcome and outcome.by:
            for function in (mutant.function, ""):
                self._kills[mutant.file, function][outcome.by] += 1

    def likely(self, mutant: Mutant, tests: list[str]) -> list[str]:
        """Return those of the tests that killed most other mutants of its function, then of its file."""
        often = [self._kills[mutant.file, function].most_common(KILLERS) for function in (mutant.function, "")]
        return [test for killers in often for test, _ in killers if test in tests]

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Note an outcome, at once and on disk."""
        self.outcomes[mutant.name] = outcome
        self._count(mutant, outcome)
        line = {"name": mutant.name, "file": mutant.file, "source": self.digests[mutant.file], "outcome": outcome}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def reached(ground: Ground, path: Path, seconds: float = math.inf) -> Reach | None:
    """Return which tests run which lines: what `path` holds, after the tests have been run that it does not know.

    None if the time is over first; what was seen until then is kept.
    """
    known, digests, end = Reach.read(path), ground.digests, time.monotonic() + seconds
    shared = [file for file in digests if file.endswith("conftest.py")]
    while stale := known.stale(digests)[:TOGETHER]:
        if time.monotonic() > end:
            return None
        known = known.renewed(_traced(ground, stale, path.with_suffix(".new")), stale, digests, shared)
        known.write(path)
    return known


def _traced(ground: Ground, tests: list[str], path: Path) -> Reach:
    """Run these files of tests in a fork, which leaves what it saw at `path` for a moment."""
    if (child := os.fork()) == 0:
        silent()
        os._exit(collect(ground.root, tests, lambda session: _trace(session, ground, path)))
    os.waitpid(child, 0)
    found = Reach.read(path)
    path.unlink()
    return found


def _trace(session: pytest.Session, ground: Ground, path: Path) -> None:
    tracing = Tracing(ground.root, [ground.room])
    session.config.pluginmanager.register(tracing)
    tracing.coverage.start()
    failed = run_items(session, session.items, to_the_end=True)
    tracing.coverage.stop()
    tracing.reach(failed).write(path)


def run(
    ground: Ground, journal: Journal, reach: Reach, todo: list[Mutant], seconds: float, each: float = math.inf
) -> Iterator[tuple[Mutant, Outcome]]:
    """Try each mutant in turn until the time is over. One test process lives; each mutant is a fork of it.

    With `each`, a mutant has what killed its neighbours and so many seconds of its quickest tests; if they do not
    notice it, it is left `open`. A test that kills for the first time is run again in the same order without the
    mutant, and must pass.
    """
    proven: set[str] = set()
    for name in ground.preloaded:
        importlib.import_module(name)
    here, there = Pipe()
    server = os.fork()
    if server == 0:
        here.close()
        silent()
        os._exit(collect(ground.root, ground.test_files, lambda session: _serve(session, ground, reach, there)))
    there.close()
    end = time.monotonic() + seconds
    for mutant in todo:
        if time.monotonic() > end:
            break
        tests = reach.tests(mutant)
        shown = list(dict.fromkeys([*journal.likely(mutant, tests), *reach.quickest(tests, each)]))
        here.send((mutant, shown))
        outcome = here.recv()
        if outcome is None or (outcome.verdict == "survived" and math.isinf(each)):  # an import may have run it before
            outcome = _imported(ground, reach, mutant, shown)
        if outcome.by in reach.seconds and outcome.by not in proven:
            here.send((None, shown[: shown.index(outcome.by) + 1]))
            if (without := here.recv()).verdict != "survived":
                raise RuntimeError(f"{without.by} fails in its place without a mutant too, and proves nothing")
            proven.add(outcome.by)
        if outcome.verdict == "survived" and len(shown) < len(tests):
            outcome = outcome._replace(verdict="open")
        journal.add(mutant, outcome)
        yield mutant, outcome
    here.close()
    os.waitpid(server, 0)


def _serve(session: pytest.Session, ground: Ground, reach: Reach, asked: Connection) -> None:
    """Answer each mutant with its outcome, or None if it cannot be planted in what is imported."""
    functions = living(ground.root)
    if not any(Path(file).is_relative_to(ground.root / ground.room) for file, *_ in functions):
        raise RuntimeError(f"the tests import no function of {ground.root / ground.room}: another copy, or none")
    gc.freeze()
    while True:
        try:
            mutant, tests = asked.recv()
        except EOFError:
            return

        def work(_: object, mutant: Mutant | None = mutant, tests: list[str] = tests) -> Found:
            if mutant and not (reach.runs(mutant) and replace_code(mutant, ground.root, functions)):
                return Found("", IMPOSSIBLE)
            return tried(session, tests)

        outcome = forked(work, reach.limit(tests, ground.spare))
        asked.send(None if outcome.tests == IMPOSSIBLE else outcome)


def _imported(ground: Ground, reach: Reach, mutant: Mutant, tests: list[str]) -> Outcome:
    """Try it in a fork that has nothing of the kit imported yet: constants, defaults and classes are made anew."""
    if not tests:
        return Outcome("survived", "", 0)

    def work(leave: Callable[[Found], NoReturn]) -> Found:
        was_imported = replace_source(mutant, ground.root)

        def shown(session: pytest.Session) -> NoReturn:
            found = tried(session, tests)
            leave(found if found.by or was_imported() else Found("", IMPOSSIBLE))

        collect(ground.root, sorted({test.partition("::")[0] for test in tests}), shown)
        return Found("collection", 0)  # pytest did not come as far as the tests

    outcome = forked(work, reach.limit(tests, 2 * ground.spare))
    if outcome.tests == IMPOSSIBLE:
        raise RuntimeError(f"no test that is said to run {mutant.name} has imported it")
    return outcome
