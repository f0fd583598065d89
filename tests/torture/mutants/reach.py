"""Which tests run which lines, and how long each takes: a mutant is shown to these, the quickest first."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from torture.mutants.operators import Mutant

DEFAULTS = "/test_defaults.py::"


class Reach(NamedTuple):
    """Seconds of every test, the tests of every line of every file, and the digests of what each file of tests ran."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    seen: dict[str, dict[str, str]]

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that a mutant is shown to, in order: those that run it, then the rest of their files.

        Lines that run at import, and what the first of several tests computes for all (a cached function), are
        nobody's: therefore whole files. A module's own statements are shown to the tests of all its lines, and to
        those of DEFAULTS, which look at definitions and run nothing.
        """
        lines = self.lines.get(mutant.file, {})
        near = {test for test in lines.get(mutant.line, ()) if mutant.inside}
        if not near:
            near = {test for tests in lines.values() for test in tests}
            near |= {test for test in self.seconds if not mutant.inside and DEFAULTS in test}
        files = {test.partition("::")[0] for test in near}
        rest = {test for test in self.seconds if test.partition("::")[0] in files} - near
        return [*self._varied(near), *self._varied(rest)]

    def runs(self, mutant: Mutant) -> bool:
        """Whether a test runs the line: what only an import runs, a decorator say, has done its work by then."""
        return bool(self.lines.get(mutant.file, {}).get(mutant.line))

    def _varied(self, tests: set[str]) -> list[str]:
        """Order by time, one case of every test function before the second case of any: cases notice much the same."""
        cases = Counter[str]()
        order = []
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            function = test.partition("[")[0]
            order.append((cases[function], self.seconds[test], test))
            cases[function] += 1
        return [test for _, _, test in sorted(order)]

    def quickest(self, tests: list[str], seconds: float) -> list[str]:
        """Return the beginning of the tests that takes at most so long, and one at least."""
        ends = itertools.accumulate(self.seconds[test] for test in tests)
        return [test for test, end in zip(tests, ends, strict=True) if end <= seconds] or tests[:1]

    def limit(self, tests: list[str], spare: float) -> float:
        """Return the processor seconds after which a mutant is taken to hang: four times what the tests need."""
        return 4 * sum(self.seconds[test] for test in tests) + spare

    def stale(self, digests: dict[str, str]) -> list[str]:
        """Return the files of tests to trace: new ones, and those of which anything that they depend on was edited."""
        tests = [file for file in digests if is_test(file)]
        now = {file: {part: digests.get(part) for part in self.seen.get(file, ())} for file in tests}
        return [file for file in tests if not now[file] or now[file] != self.seen[file]]

    def renewed(self, newer: Reach, traced: Sequence[str], digests: dict[str, str], shared: Sequence[str]) -> Reach:
        """Return what is known after some files of tests were traced, and of those that exist only.

        `shared` names the files that any test may depend on, such as a conftest.
        """
        seen = {file: parts for file, parts in self.seen.items() if file in digests and file not in traced}
        covers: dict[str, set[str]] = {file: {file, *shared} for file in traced}
        for source, of_file in newer.lines.items():
            for test in {test for tests in of_file.values() for test in tests}:
                covers[test.partition("::")[0]].add(source)
        seen |= {file: {part: digests[part] for part in sorted(parts)} for file, parts in covers.items()}
        seconds = {test: spent for test, spent in self.seconds.items() if test.partition("::")[0] in seen}
        seconds = {test: spent for test, spent in seconds.items() if test.partition("::")[0] not in traced}
        lines: dict[str, dict[int, list[str]]] = {}
        for reach, kept in ((self, seconds), (newer, newer.seconds)):
            for file, of_file in reach.lines.items():
                for line, tests in of_file.items():
                    lines.setdefault(file, {}).setdefault(line, []).extend(test for test in tests if test in kept)
        return Reach(seconds | newer.seconds, lines, seen)

    def write(self, path: Path) -> None:
        """Write it as JSON, each name once."""
        names = {test: number for number, test in enumerate(self.seconds)}
        lines = {
            file: {line: [names[test] for test in tests] for line, tests in of_file.items()}
            for file, of_file in self.lines.items()
        }
        whole = {"seconds": self.seconds, "lines": lines, "seen": self.seen}
        path.write_text(json.dumps(whole), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Reach:
        """Read what `write` wrote; nothing is known where there is no file."""
        if not path.exists():
            return cls({}, {}, {})
        found = json.loads(path.read_text(encoding="utf-8"))
        names = list(found["seconds"])
        lines = {
            file: {int(line): [names[number] for number in tests] for line, tests in of_file.items()}
            for file, of_file in found["lines"].items()
        }
        return cls(found["seconds"], lines, found["seen"])


def is_test(file: str) -> bool:
    """Return whether pytest looks for tests in it."""
    return file.rpartition("/")[2].startswith("test_")


class Tracing:
    """A pytest plugin that files each line under the test that runs it, a shared fixture's under all that use it.

    Tests that start another Python are left out.
    """

    def __init__(self, root: Path, rooms: list[str]) -> None:
        self.root, self.now = root, ""
        self.coverage = coverage.Coverage(data_file=None, include=[str(root / room / "*.py") for room in rooms])
        self.seconds: dict[str, float] = {}
        self.sharing: dict[str, list[str]] = {}
        self.outside: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Time the test, and file its lines under its name."""
        self._switch(item.nodeid)
        began = time.process_time()
        with self._no_other_python():
            result = yield
        self.seconds[item.nodeid] = round(time.process_time() - began, 4)
        self._switch("")
        for name in getattr(item, "fixturenames", ()):
            for owner in {"", ".", *(node.nodeid for node in item.listchain())}:
                self.sharing.setdefault(f"{owner}|{name}", []).append(item.nodeid)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
        """File the lines of a fixture that several tests share under the fixture's name."""
        before = self.now
        if fixturedef.scope != "function":
            self._switch(f"{request.node.nodeid}|{fixturedef.argname}")
        result = yield
        self._switch(before)
        return result

    @contextmanager
    def _no_other_python(self) -> Iterator[None]:
        """Leave out a test that starts another Python: the kit that runs there has no mutant."""
        start = subprocess.Popen.__init__

        def checked(process: Any, args: Any, *others: Any, **named: Any) -> None:
            if not isinstance(args, str) and str(args[0]) == sys.executable:
                self.outside.add(self.now)
                pytest.skip("starts a process")
            start(process, args, *others, **named)

        subprocess.Popen.__init__ = checked  # type: ignore[method-assign]
        try:
            yield
        finally:
            subprocess.Popen.__init__ = start  # type: ignore[method-assign]

    def _switch(self, context: str) -> None:
        self.now = context
        self.coverage.switch_context(context)

    def reach(self, failed: list[str]) -> Reach:
        """Return what was seen, without the tests that fail as it is."""
        outside = {test for one in self.outside for test in self.sharing.get(one, [one])}
        passed = set(self.seconds) - set(failed) - outside
        data = self.coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        for file in data.measured_files():
            of_file = lines.setdefault(str(Path(file).relative_to(self.root)), {})
            for line, contexts in data.contexts_by_lineno(file).items():
                of_file[line] = sorted({test for one in contexts for test in self.sharing.get(one, [one])} & passed)
        return Reach({test: spent for test, spent in self.seconds.items() if test in passed}, lines, {})
