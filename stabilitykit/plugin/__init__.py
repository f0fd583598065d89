"""The pytest plugin: hooks only, each a line or two; nothing heavy is imported until a test measures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stabilitykit.plugin import (
    budget,
    facade,
    fixtures,
    held,
    hookspecs,
    keep,
    options,
    places,
    plan,
    planting,
    recorder,
    replay,
    rerun,
    resume,
    suite,
    testlog,
)
from stabilitykit.plugin.collector import Collector, WorkerEnd
from stabilitykit.plugin.fixtures import stability as stability
from stabilitykit.plugin.fixtures import stability_choice as stability_choice
from stabilitykit.plugin.fixtures import stability_device as stability_device
from stabilitykit.plugin.fixtures import stability_model as stability_model
from stabilitykit.plugin.fixtures import stability_subject as stability_subject
from stabilitykit.plugin.github import GitHub

if TYPE_CHECKING:
    from stabilitykit.settings import Settings


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the plugin's own hooks."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.declare(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and start to collect records."""
    options.declare_marker(config)
    settings = config.stash[options.SETTINGS] = places.settled(config, options.read(config))
    if settings.suite:
        suite.use(config)
    if settings.replay:
        config.stash[replay.REPLAY] = replay.opened(settings.replay)
    config.stash[held.HELD] = held.opened(settings)
    if not hasattr(config, "workerinput"):
        config.stash[keep.SAVED] = keep.opened(settings)
    if settings.resume:
        config.stash[resume.RESUMED] = resume.opened(config, settings)
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(WorkerEnd(config), "stabilitykit.plugin.records")
        return
    if placed := places.opened(config, settings):
        config.pluginmanager.register(placed, "stabilitykit.plugin.places")
    collector = Collector(config, placed)
    config.pluginmanager.register(collector, "stabilitykit.plugin.records")
    if GitHub.wanted():
        config.pluginmanager.register(GitHub(config, collector), "stabilitykit.plugin.github")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Start one worker for each device."""
    return places.auto(options.read(config))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is measured, how much of it, and with which seed."""
    settings = config.stash[options.SETTINGS]
    return (
        f"stability: {', '.join(settings.models)} in {', '.join(settings.dtypes)} on {', '.join(settings.devices)}, "
        f"profile {settings.profile.name}, seed {settings.seed}{planting.announced(settings)}"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over copies of the suite while the installed one is run."""
    return True if suite.is_copy(collection_path, config) else None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, Sequence[pytest.Collector], Sequence[pytest.Collector]]:
    """Collect the suite's files, whatever the user's `python_files` are."""
    return suite.collect(file_path, parent, (yield))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what tells most where the time is limited."""
    budget.order(config, items)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker when the run began."""
    budget.tell(node)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat tests for each model and dtype."""
    fixtures.parametrize(metafunc)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the facade find the test that is running."""
    item.config.stash[testlog.CURRENT] = item
    try:
        return (yield)
    finally:
        del item.config.stash[testlog.CURRENT]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse markers that nothing reads, and retries."""
    options.check_marker(item)
    if testlog.uses_stability(item):
        options.check_reruns(item)
        budget.check(item)
    elif item.config.stash[options.SETTINGS].dry_run:
        pytest.skip(plan.SKIPPED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that leaves one of torch's global settings changed, or whose search found what does not repeat."""
    __tracebackhide__ = True  # what a baseline is broken by is not to be read off this hook
    if not testlog.uses_stability(item):
        return (yield)
    with testlog.log_of(item).watch.around(), testlog.naming(item), planting.around(item):
        yield
        if item.config.stash[options.SETTINGS].dry_run:
            pytest.skip(plan.SKIPPED)
        testlog.confirm(item)
        held.judge(testlog.log_of(item), rerun.rerun)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Put back what a stopped run found in this test, in place of running it."""
    return True if testlog.uses_stability(pyfuncitem) and resume.take_over(pyfuncitem) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the test's records along with its report."""
    report = yield
    recorder.attach(item, call, report)
    if report.when == "teardown" and testlog.uses_stability(item):
        resume.forget(testlog.log_of(item))
    return report


@pytest.hookimpl(trylast=True)
def pytest_stability_load_model(spec: str, dtype: str, settings: Settings) -> Any:
    """Load what no other plugin has loaded."""
    return facade.load_model(spec, dtype, settings)
