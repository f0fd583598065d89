"""The installed suite `stability_tests`: collected exactly once, whatever the user's own patterns and folders are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stabilitykit.plugin.options import SETTINGS

# Found beside this package and not by import: a copy of the suite in the working directory would be found first.
SUITE = Path(__file__).resolve().parents[2] / "stability_tests"
MISSING = "--stability-suite was asked for and not one test of the suite ran; nothing is known about stability"


class SuiteModule(pytest.Module):
    """A file of the suite; its tests are named test_*, also where the user's `python_functions` says otherwise."""

    def funcnamefilter(self, name: str) -> bool:
        """Return whether this is a test."""
        return name.startswith("test_")


def use(config: pytest.Config) -> None:
    """Make the suite what is collected, or add it to what the command line names."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    config.args[:] = [*(config.args if named else ()), *([] if str(SUITE) in config.args else [str(SUITE)])]


def is_copy(path: Path, config: pytest.Config) -> bool:
    """Return whether `path` is another folder of the suite's name while the installed one is being run."""
    return config.stash[SETTINGS].suite and path.name == SUITE.name and path.is_dir() and path.resolve() != SUITE


def contains(path: Path) -> bool:
    """Return whether a file belongs to the installed suite."""
    return path.resolve().is_relative_to(SUITE)


def collect(path: Path, parent: pytest.Collector, found: Sequence[pytest.Collector]) -> Sequence[pytest.Collector]:
    """Return what collects this file: for a test file of the suite one module of ours, else what was found."""
    if not (path.name.startswith("test_") and path.suffix == ".py" and contains(path)):
        return found
    return [SuiteModule.from_parent(parent, path=path)]
