"""`--stability-resume`: what a stopped run has measured is taken over from its journal, where it still holds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from stabilitykit.errors import IncomparableError, StabilityError
from stabilitykit.plugin.held import HELD
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.recorder import source
from stabilitykit.plugin.replay import REPLAY
from stabilitykit.plugin.testlog import TestLog, log_of
from stabilitykit.report.journal import NAME, Contents, Finished, resumable

if TYPE_CHECKING:
    from stabilitykit.plugin.facade import Stability
    from stabilitykit.settings import Settings
    from stabilitykit.subjects.answers import Kept


class OtherRunError(IncomparableError):
    """What would be measured now cannot stand beside what the journal holds."""

    refuses_run = True


class Resumption:
    """A stopped run: what it finished, and what it was measured on."""

    def __init__(self, path: Path, contents: Contents, models: Collection[str]) -> None:
        self.path = path
        self.contents = contents
        self._models = models
        self._admitted = WeakSet[Any]()  # weak: a model must be free to go
        self._admitted_functions = False

    @property
    def started(self) -> str:
        """When the first run began, UTC."""
        return str(self.contents.headers[0]["started"])

    def find(self, item: pytest.Item) -> Finished | None:
        """Return what the run found in a test, if it was finished, has found numbers, and its file is the same."""
        finished = self.contents.finished.get(item.nodeid)
        if finished is None or finished.source != source(item) or not self.results(finished):
            return None
        return finished

    @staticmethod
    def results(finished: Finished) -> list[Mapping[str, Any]]:
        """Return the results of a finished test, JSON-plain."""
        return [found for text in finished.records if (found := json.loads(text)["result"])]

    @cached_property
    def environments(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What was measured, by the name of its model, and on what; without repetitions."""
        from stabilitykit.subjects.environment import numeric_key

        found = [
            (str(result["subject"].get("model", "")), result["environment"])
            for finished in self.contents.finished.values()
            for result in self.results(finished)
        ]
        return list(
            {(spec, numeric_key(then), then.get("weight_digest")): (spec, then) for spec, then in found}.values()
        )

    def admit(self, loaded: Any) -> None:
        """Refuse to measure beside the journal what could not have been measured with it: OtherRunError.

        The machine must be the same throughout, and a model of the run's options that has measured already.
        """
        from stabilitykit.subjects.environment import environment

        if self._admitted_functions if loaded is None else loaded in self._admitted:
            return
        now = environment(loaded)
        for spec, then in self.environments:
            same = loaded is not None and loaded.spec == spec and then.get("dtype") == now["dtype"]
            self.compare(then, now, whole=same and spec in self._models)
        if loaded is None:
            self._admitted_functions = True
        else:
            self._admitted.add(loaded)

    def compare(self, then: Mapping[str, Any], now: Mapping[str, Any], *, whole: bool) -> None:
        """Raise OtherRunError for the first thing that decides bits and has changed; of the machine's, or of all."""
        from stabilitykit.subjects.environment import identity_fields

        names = ["weight_digest", *identity_fields()] if whole else identity_fields(of_models=False)
        for name in names:
            if then.get(name) != now.get(name):
                raise OtherRunError(
                    f"{self.path} was measured with {name} {then.get(name)}, and this process has {now.get(name)}; "
                    "resume with the same model and machine, or measure anew without resuming"
                )


def opened(config: pytest.Config, settings: Settings) -> Resumption | None:
    """Return what the report folder's journal holds; pytest.UsageError for another run's, before anything is loaded."""
    if config.getoption("dist", "no") == "each":
        raise pytest.UsageError("--stability-resume: --dist each runs a test more than once; leave one of them out")
    assert settings.report is not None
    try:
        contents = resumable(settings.report, identity(config, settings))
    except StabilityError as error:
        raise pytest.UsageError(f"--stability-{error}") from None
    return None if contents is None else Resumption(settings.report / NAME, contents, settings.models)


def identity(config: pytest.Config, settings: Settings) -> dict[str, Any]:
    """Return what this run is, for the header of its journal."""
    replay = config.stash.get(REPLAY, None)
    held = config.stash.get(HELD, None)
    found = settings.identity(replay.report.run.run_id if replay else "")
    return {**found, "baseline_digest": held.baseline.digest if held else ""}


def notes(resumption: Resumption | None, settings: Settings, checks: int, taken: int) -> list[str]:
    """Return what the reader of a resumed run must know."""
    if resumption is None:
        return [f"{settings.report} held no journal to resume; all was measured now"] if settings.resume else []
    found = [f"{taken} of {checks} checks were taken over from the run begun at {resumption.started}"]
    if damaged := resumption.contents.damaged:
        found.append(f"torn or damaged lines of {resumption.path} that were passed over: {damaged}")
    return found


def offer(command: str, checks: int) -> str:
    """Return how to go on with a run that was interrupted, which was begun by this command."""
    words, _, rest = command.partition(" -- ")
    option = "--stability-resume" if words.startswith("pytest") else "--resume"
    again = words if option in words.split() else f"{words} {option}"
    return f"interrupted after {checks} checks; go on with: {again}{f' -- {rest}' if rest else ''}"


def take_over(item: pytest.Item) -> bool:
    """Put back what the stopped run found in this test, in place of running it; False where it must run.

    OtherRunError where the model under that name, or the numeric environment, is not what it was.
    """
    __tracebackhide__ = True
    resumption = item.config.stash.get(RESUMED, None)
    finished = resumption.find(item) if resumption else None
    if resumption is None or finished is None:
        return False
    for result in resumption.results(finished):
        if not _still_holds(resumption, item, result):
            return False
    if item.config.stash[SETTINGS].dry_run:
        pytest.skip("dry run: this was measured already")
    log = log_of(item)
    log.taken = finished
    _restore(log, finished)
    if finished.outcome == "failed":
        pytest.fail(finished.message, pytrace=False)
    if finished.outcome == "skipped":
        pytest.skip(finished.message)
    return True


def _restore(log: TestLog, finished: Finished) -> None:
    from stabilitykit.results.record import Record

    for text in finished.records:
        record = replace(Record.from_dict(json.loads(text)), resumed=True)
        log.records[record.check_id] = record


def guard(config: pytest.Config, subjects: Iterable[Any]) -> None:
    """Refuse to measure beside the journal of a run what could not have been measured in it."""
    __tracebackhide__ = True
    if resumption := config.stash.get(RESUMED, None):
        for subject in subjects:
            resumption.admit(getattr(subject, "loaded", None))


def kept(log: TestLog) -> Kept | None:
    """Return where a test's long searches keep what they were told, a folder of its own; None without a report."""
    from stabilitykit.subjects.answers import Kept

    config = log.item.config
    if log.kept is None and (report := config.stash[SETTINGS].report):
        name = hashlib.sha256(log.item.nodeid.encode()).hexdigest()[:16]
        log.kept = Kept(report / ANSWERS / name, resumed=config.stash[SETTINGS].resume)
    return log.kept


def forget(log: TestLog) -> None:
    """Remove what the searches of a test that is over were told: its records have all of it that matters."""
    if log.kept:
        shutil.rmtree(log.kept.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others may still be at work there
            log.kept.folder.parent.rmdir()


def _still_holds(resumption: Resumption, item: pytest.Item, result: Mapping[str, Any]) -> bool:
    """Return whether a result's model can be had, and is what it was; of what has no weights, the machine alone."""
    from stabilitykit.subjects.environment import environment

    then, loaded = result["environment"], None
    if then.get("weight_digest"):
        loaded = _model(item, result)
        if loaded is None:
            return False
    resumption.compare(then, environment(loaded), whole=True)
    return True


def _model(item: pytest.Item, result: Mapping[str, Any]) -> Any:
    """Return the test's own model, or the run's model of the result's name and dtype; None if it is neither."""
    own = getattr(item, "funcargs", {}).get("stability_model")
    spec, dtype = result["subject"].get("model"), result["subject"].get("dtype")
    if own is not None and getattr(own, "spec", None) == spec:
        return own
    facade: Stability = item.config.stash[FACADE]
    if spec in facade.settings.models and dtype in facade.settings.dtypes:
        return facade.load(spec, dtype)
    return None


ANSWERS = "answers"
"""The folder beside the journal in which searches that take long keep what they were told."""

RESUMED = pytest.StashKey[Resumption | None]()
FACADE = pytest.StashKey["Stability"]()
