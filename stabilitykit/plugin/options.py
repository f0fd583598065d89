"""From `settings.OPTIONS` to pytest's command line and ini file, and back to checked Settings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from stabilitykit import settings
from stabilitykit.errors import UsageError
from stabilitykit.settings import OPTIONS, Settings

SETTINGS = pytest.StashKey[Settings]()
_INI_TYPES = {"text": "string", "list": "linelist", "number": "int", "flag": "bool"}
_MARKER = (
    "stability(limits, gate): limits={'max_ulp': 4} holds this test's readings to bounds; "
    "gate=True holds them to the measurement's own ideal, gate=False only records them"
)


def declare(parser: pytest.Parser) -> None:
    """Add every option with its ini twin; all defaults are None, so that the ini file can be told from them."""
    group = parser.getgroup("stability", "numerical stability (stabilitykit)")
    for option in OPTIONS:
        flag, ini_type = f"--stability-{option.name}", _INI_TYPES[option.kind]
        shown = option.explained.replace("%", "%%")
        if option.kind == "flag":
            group.addoption(flag, action="store_true", default=None, dest=option.key, help=shown)
        else:
            action = "append" if option.kind == "list" else "store"
            group.addoption(flag, action=action, metavar=option.metavar, default=None, dest=option.key, help=shown)
        parser.addini(option.key, option.explained, type=ini_type, default=None)  # type: ignore[arg-type]


def read(config: pytest.Config) -> Settings:
    """Return the run's settings, or raise pytest.UsageError (exit 4) before anything is loaded."""
    base = config.inipath.parent if config.inipath else config.rootpath
    try:
        found = settings.resolve(
            lambda option: config.getoption(option.key), lambda option: config.getini(option.key), base
        )
    except UsageError as error:
        raise pytest.UsageError(f"--stability-{error}") from None
    _refuse_reruns(config, found)
    if found.report is not None and not hasattr(config, "workerinput"):
        _refuse_unwritable(found.report)
    return found


def given(config: pytest.Config) -> dict[str, Any]:
    """Return what the command line gave of the options that change what is measured, to repeat it."""
    unrelated = {"report", "limit", "suite", "resume", "dry-run", "progress", "record", "save", "update"}
    return {option.name: config.getoption(option.key) for option in OPTIONS if option.name not in unrelated}


def declare_marker(config: pytest.Config) -> None:
    """Make the marker known to --strict-markers."""
    config.addinivalue_line("markers", _MARKER)


def check_marker(item: pytest.Item) -> None:
    """Refuse a marker keyword that nothing reads: a typo there would switch a gate off in silence."""
    for marker in item.iter_markers("stability"):
        unknown = [repr(value) for value in marker.args] + sorted(set(marker.kwargs) - {"limits", "gate"})
        if unknown:
            raise pytest.UsageError(f"@pytest.mark.stability takes limits={{...}} and gate=..., not {unknown[0]}")
        if not isinstance(marker.kwargs.get("limits", {}), dict):
            raise pytest.UsageError("@pytest.mark.stability(limits=...) takes a dict such as {'max_ulp': 4}")


def check_reruns(item: pytest.Item) -> None:
    """Refuse to measure under retries: a difference that shows once in a while is the finding."""
    flaky = item.get_closest_marker("flaky")
    asked = _reruns(item.config) if flaky is None else (flaky.args or [flaky.kwargs.get("reruns", 1)])[0]
    if asked:
        raise pytest.UsageError(f"{item.name} measures stability and would be retried; run it without reruns")


def _reruns(config: pytest.Config) -> int:
    """Return how often pytest-rerunfailures would retry: its option, else its ini value, 0 without the plugin."""
    option = config.getoption("reruns", None)
    try:
        return int(option if option is not None else config.getini("reruns") or 0)
    except ValueError:  # no plugin declares the ini value
        return 0


def _refuse_reruns(config: pytest.Config, found: Settings) -> None:
    if found.suite and _reruns(config):
        raise pytest.UsageError("--stability-suite measures, and a retry would hide what it finds; drop --reruns")


def _refuse_unwritable(folder: Path) -> None:
    """Try without leaving a trace: a run that measures nothing makes no folder, and permission bits say little."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise pytest.UsageError(f"--stability-report {folder}: cannot write to {existing}: {error.strerror}") from None
