"""One test of the shipped suite in a pytest session of its own, in this process, on a model object."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from torture.campaign import scratch

import stabilitykit as sk
from stabilitykit.plugin.suite import SUITE
from stabilitykit.subjects.models import LoadedModel

QUICKEST = "test_determinism.py::test_run_to_run"


@functools.cache
def checks() -> list[str]:
    """Return the node ids of the suite's tests, those last that start processes; the quickest is the first."""
    tests = [
        f"{path.name}::{line.split('(')[0].removeprefix('def ')}"
        for path in sorted(SUITE.glob("test_*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("def test_")
    ]
    return sorted(tests, key=lambda test: (test != QUICKEST, "generation" in test or "process" in test, test))


@functools.cache
def tiny(family: str, dtype: str = "float32") -> LoadedModel:
    """Return one model for all trials: what one of them leaves changed, the next ones see too."""
    return sk.load(f"tiny:{family}", dtype=dtype)


class Session:
    """A pytest plugin that is the session: it gives the model, runs the test within `around`, and keeps what it filed.

    `status` is pytest's exit status, `records` are the checks it filed, `failures` are its outcomes that are no
    judgement: an error with a traceback. `called` says whether the test's own code ran.
    """

    def __init__(
        self, test: str, loaded: LoadedModel, around: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self.loaded = loaded
        self.around = around
        self.called = False
        self.records: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.skips: list[str] = []
        folder, here = _folder(), Path.cwd()
        words = ["-q", "-s", "-p", "no:cacheprovider", f"--rootdir={folder}", f"-c{folder}/pytest.ini"]
        os.chdir(folder)
        try:
            with redirect_stdout(io.StringIO()):
                self.status = int(pytest.main([*words, "--stability-model", "tiny", f"{SUITE}/{test}"], plugins=[self]))
        finally:
            os.chdir(here)

    def pytest_stability_load_model(self) -> LoadedModel:
        """Put the model under test."""
        return self.loaded

    def pytest_stability_update_record(self, record: dict[str, Any]) -> None:
        """Keep what was filed."""
        self.records.append(record)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_pyfunc_call(self) -> Iterator[None]:
        """Run the test's own call, inside of everything that the plugin itself does around it."""
        self.called = True
        with self.around():
            return (yield)

    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> None:
        """Keep what ended the test."""
        if call.excinfo is None:
            return
        if call.excinfo.errisinstance(pytest.skip.Exception):
            self.skips.append(str(call.excinfo.value))
        elif not call.excinfo.errisinstance((sk.StabilityFailure, pytest.fail.Exception)):
            self.failures.append(f"{call.excinfo.typename}: {call.excinfo.value}")


@functools.cache
def _folder() -> Path:
    folder = scratch("suite")
    (folder / "pytest.ini").write_text("[pytest]\naddopts =\n", encoding="utf-8")
    return folder
