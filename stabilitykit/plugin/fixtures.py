"""The fixtures: all of session scope, so that a test under `@given` may ask for any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stabilitykit.plugin.facade import Stability
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.recorder import worker
from stabilitykit.plugin.resume import FACADE

if TYPE_CHECKING:
    from stabilitykit.settings import Settings
    from stabilitykit.subjects.subject import Subject


class ModelChoice(NamedTuple):
    """One model in one dtype, as the options ask for it; `place` names the device where each has all tests."""

    spec: str
    dtype: str
    place: str = ""

    @property
    def id(self) -> str:
        """A short name for test ids: of a path or hub id the last part, so that no folder is in an id."""
        last = re.split(r"[/\\]", self.spec.rstrip("/\\"))[-1]
        return re.sub(r"[^\w.@-]+", "_", last) + f"-{self.dtype}" + (f"-{self.place}" if self.place else "")


@pytest.fixture(scope="session")
def stability(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Stability:
    """Measure, record and judge: `stability.measure(measurement, subject)`; `stability.subject(prompt, path=...)`."""
    # The folder above an xdist worker's own is common to all workers of a run.
    shared = tmp_path_factory.getbasetemp().parent / "singular-vectors" if worker() else None
    pytestconfig.stash[FACADE] = facade = Stability(pytestconfig, shared)
    return facade


@pytest.fixture(scope="session")
def stability_choice(request: pytest.FixtureRequest) -> ModelChoice:
    """One of the models and dtypes of the run; whatever asks for it is run once for each."""
    settings = request.config.stash[SETTINGS]
    choice: ModelChoice = getattr(request, "param", ModelChoice(settings.models[0], settings.dtypes[0], settings.place))
    return choice


@pytest.fixture(scope="session")
def stability_model(stability: Stability, stability_choice: ModelChoice) -> Iterator[Any]:
    """A model under test, once for each `--stability-model` and `--stability-dtype`.

    Override it in a conftest.py, in session scope, to put a model object of your own under test: what does not ask
    for `stability_choice` is not repeated for models it does not use.
    """
    loaded = stability.load(stability_choice.spec, stability_choice.dtype)
    yield loaded
    stability.forget(loaded)


@pytest.fixture(scope="session")
def stability_subject(stability: Stability, stability_model: Any) -> Subject:
    """The model under test on the first prompt: whole prompt each time, batch 1, after the last norm."""
    return stability.subject(loaded=stability_model)


@pytest.fixture(scope="session")
def stability_device(request: pytest.FixtureRequest) -> str:
    """Another device to compare with: a setting of this machine, or `against` for the recording of that option."""
    return str(request.param)


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a model once for each model and dtype, and what asks for a device once for each of those."""
    settings = metafunc.config.stash[SETTINGS]
    if "stability_choice" in metafunc.fixturenames:
        models = dict.fromkeys(settings.models)
        choices = [ModelChoice(spec, dtype, settings.place) for spec in models for dtype in settings.dtypes]
        metafunc.parametrize(
            "stability_choice", choices, indirect=True, scope="session", ids=[choice.id for choice in choices]
        )
    if "stability_device" in metafunc.fixturenames:
        metafunc.parametrize("stability_device", _devices(settings), indirect=True, scope="session")


def _devices(settings: Settings) -> tuple[str, ...]:
    """Return the recording to compare with, or the profile's settings of this machine; to a GPU its CPU is another."""
    if settings.against is not None:
        return ("against",)
    return settings.profile.devices if settings.device == "cpu" else ("cpu-native",)
