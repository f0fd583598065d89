"""One mutant in a process of its own, and whether some test fails there."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest


class Found(NamedTuple):
    """The test that failed ("" if none did), and how many were run."""

    by: str
    tests: int


class Outcome(NamedTuple):
    """`killed` by a test, `timeout` and `crashed` (both count as killed), or `survived` all tests that were run."""

    verdict: str
    by: str
    tests: int


def forked(work: Callable[[Callable[[Found], NoReturn]], Found], seconds: float) -> Outcome:
    """Run `work` in a fork, for at most so many seconds of the processor.

    It returns what it found, or hands it to its argument, which ends the fork at once.
    """
    with tempfile.TemporaryFile("w+") as said:

        def leave(found: Found) -> NoReturn:
            said.write(json.dumps(found))
            said.flush()
            os._exit(0)

        child = os.fork()
        if child == 0:
            _limit(seconds)
            os.setpgid(0, 0)
            try:
                found = work(leave)
            except BaseException as error:  # a mutant may do anything, at import too
                found = Found(f"{type(error).__name__} outside of a test", 0)
            leave(found)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _end_group(child)
        if status in (-signal.SIGXCPU, -signal.SIGALRM):
            return Outcome("timeout", f"over {seconds:.0f} s", 0)
        if status:
            return Outcome("crashed", f"status {status}", 0)
        said.seek(0)
        by, tests = json.loads(said.read())
        return Outcome("killed" if by else "survived", by, tests)


def _limit(seconds: float) -> None:
    """Processor time, which a busy machine does not change, and a wall for what only waits."""
    resource.setrlimit(resource.RLIMIT_CPU, (round(seconds) + 1, round(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(30 * round(seconds))
    silent()


def silent() -> None:
    """Leave the terminal alone, whatever pytest says."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _end_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def tried(session: pytest.Session, names: list[str]) -> Found:
    """Run the named tests in this order until one fails. A mutant may have changed the cases of some."""
    items = {item.nodeid: item for item in session.items}
    there = [items[name] for name in names if name in items]
    if names and not there:
        return Found("collection", 0)
    failed = run_items(session, there)
    return Found(failed[0] if failed else "", len(there))


def run_items(session: pytest.Session, items: list[pytest.Item], to_the_end: bool = False) -> list[str]:
    """Run tests in this order, until one fails if not to the end; return the names of those that failed."""
    failed = []
    for number, item in enumerate(items):
        following = items[number + 1] if number + 1 < len(items) else None
        before = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed > before:
            failed.append(item.nodeid)
            if not to_the_end:
                break
    return failed


class Session:
    """A pytest plugin: collects once, and then does `work` with the tests in place of running them."""

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self.work = work

    def pytest_sessionstart(self) -> None:
        """Have Hypothesis draw the same examples in every process. Pytest wants to import it first."""
        import hypothesis

        hypothesis.settings.register_profile("mutants", derandomize=True, database=None)
        hypothesis.settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        if session.testsfailed:
            raise session.Failed("not every file of tests could be collected")
        self.work(session)
        return True


def collect(root: Path, tests: Sequence[str], work: Callable[[pytest.Session], None]) -> int:
    """Have pytest collect `tests` and hand them to `work`. For a fork, as it changes the folder."""
    os.chdir(root)
    sys.path.insert(0, str(root))  # before another copy of the kit that may be installed
    # No rewriting of assertions: for it pytest would load the kit itself, past the mutant.
    words = ["-q", "--assert=plain", "-m", "not model", "-p", "no:cacheprovider", "--rootdir", str(root), *tests]
    return int(pytest.main(words, plugins=[Session(work)]))
