"""The `stability` fixture: measures for whichever test is running, and files what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.plugin import generations, named, plan, resume
from stabilitykit.plugin.held import HELD, names
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.progress import stream
from stabilitykit.plugin.replay import REPLAY
from stabilitykit.plugin.testlog import TestLog, current

if TYPE_CHECKING:
    from stabilitykit.measurements.base import Asked, Measurement
    from stabilitykit.plugin.fixtures import ModelChoice
    from stabilitykit.profile import Profile
    from stabilitykit.results.result import Result
    from stabilitykit.settings import Settings
    from stabilitykit.subjects.standing import Processes
    from stabilitykit.subjects.subject import Subject

Test = TypeVar("Test", bound=Callable[..., Any])


class Stability:
    """What a test measures with; one object a session, so that it may be used inside `@given`.

    `settings` are the run's options, `profile` how much it measures, `prompts` the profile's share of its prompts.
    """

    def __init__(self, config: pytest.Config, vectors: Path | None = None) -> None:
        self._config = config
        self._vectors = vectors
        self._models: dict[tuple[str, str], Any] = {}
        self._subjects: dict[tuple[Any, ...], tuple[Any, Subject]] = {}
        self._recordings: dict[Path, Any] = {}
        self._processes: Processes | None = None
        self.settings: Settings = config.stash[SETTINGS]
        self.profile: Profile = self.settings.profile
        self.prompts: tuple[str, ...] = self.settings.prompts[: self.profile.prompts]

    def measure(
        self, measurement: Measurement[Asked], subject: Asked | Iterable[Asked], *, name: str | None = None
    ) -> Result:
        """Measure one subject, or several as one result; record it; then hold it to the limits that apply.

        The check is called after the measurement, or `name`, which tests that ask the same question need.

        Raises StabilityFailure where a limit is broken or a gate differs, InvalidError where a number is not finite;
        skips the test where the question cannot be asked of the subject.
        """
        __tracebackhide__ = True
        # Torch comes in here: a session that never measures does not wait for it.
        from stabilitykit.plugin.judging import record_and_judge, unmeasured

        log, name = current(self._config), name or measurement.check_id()
        log.watch.start()
        subjects = _listed(subject)
        for one in subjects:
            log.watch.meet(getattr(one, "loaded", None))
        resume.guard(self._config, subjects)
        measurement = named.replayed(log, name, measurement, subjects)
        ask = self._asking(log, subjects)
        try:
            if self.settings.dry_run:
                return cast("Result", plan.instead(log, log.check_id(name), measurement, subjects))
            if log.check_id(name) not in log.records:
                plan.announce(measurement, subjects, stream(self._config))
            result = ask(measurement)
        except InvalidError as error:
            unmeasured(log, measurement, name, error, ask)
            raise
        except UnsupportedError as error:
            unmeasured(log, measurement, name, error, ask)
            pytest.skip(str(error))
        result = named.kept(log, measurement, subjects, result)
        record_and_judge(log, measurement, result, name, ask)
        return result

    def _asking(self, log: TestLog, subjects: Sequence[Any]) -> Callable[[Measurement[Any]], Result]:
        """Return what asks these subjects any question, with progress, and keeps what it stated as its cost."""
        from stabilitykit.measurements.measure import ask
        from stabilitykit.measurements.progress import progress_to
        from stabilitykit.subjects.answers import answers_in

        def asking(measurement: Measurement[Any]) -> Result:
            log.stated = plan.stated(measurement, subjects)
            with progress_to(stream(self._config)), self._sharing(), answers_in(resume.kept(log)):
                return ask(measurement, subjects)

        return asking

    def examples(self, check: str, dim: int, argument: str = "direction") -> Callable[[Test], Test]:
        """Return a decorator for a test under `@given`: it first gets the worst directions that a former run recorded.

        They are those of this test's check of that name in the folder of `--stability-replay` and in the baseline, and
        none without these options. `dim` is the subject's number of coordinates, `argument` what the test calls its
        direction.
        """
        from stabilitykit.strategies import replaying

        log, recorded = current(self._config), []
        if replay := self._config.stash.get(REPLAY, None):
            recorded += replay.directions(log.check_id(check), dim)
        if held := self._config.stash.get(HELD, None):
            recorded += held.directions(names(log.item, log.check_id(check)), dim)
        return replaying(recorded, argument)

    def subject(
        self,
        prompt: str | None = None,
        *,
        path: str = "prefill",
        batch: int | str = 1,
        site: str = "post_norm",
        loaded: Any = None,
    ) -> Subject:
        """Return a prompt of a model as a subject, the run's first by default; kept for the session.

        `loaded` defaults to the test's own `stability_model`, or to the run's first model in its first dtype. Skips the
        test where the model cannot be asked in this way, such as lanes that see each other.
        """
        from stabilitykit.subjects.causal_lm import CausalLMSubject

        log = current(self._config)
        log.watch.start()
        loaded = loaded or getattr(log.item, "funcargs", {}).get("stability_model") or self.load()
        log.watch.meet(loaded)
        prompt = self.prompts[0] if prompt is None else prompt
        key = (id(loaded), prompt, path, batch, site)
        if key not in self._subjects:
            try:
                self._subjects[key] = (loaded, CausalLMSubject(loaded, prompt, site=site, path=path, batch=batch))
            except UnsupportedError as error:
                pytest.skip(str(error))
        return self._subjects[key][1]

    def subjects(self, **how: Any) -> list[Subject]:
        """Return `subject(prompt, **how)` for each prompt of the profile."""
        return [self.subject(prompt, **how) for prompt in self.prompts]

    @property
    def generation(self) -> dict[str, Any]:
        """The prompts that are continued, and how many tokens of each."""
        return generations.asked(self.settings)

    def recording(self, loaded: Any) -> dict[str, Any]:
        """Return where the recording of a model is kept, and how closely it looks; nothing without the option."""
        if self.settings.record is None:
            return {}
        folder = generations.place(self.settings.record, self.settings, _choice(loaded, self.settings.place))
        return {"folder": str(folder), **generations.kept(self.settings)}

    def against(self, loaded: Any) -> Any:
        """Return the recording that a model is compared with, None without `--stability-against`."""
        from stabilitykit.traces.store import read_recording

        if self.settings.against is None:
            return None
        place = generations.place(self.settings.against, self.settings, _choice(loaded))
        if place not in self._recordings:
            self._recordings[place] = read_recording(place)
        return self._recordings[place]

    def load(self, spec: str | None = None, dtype: str | None = None) -> Any:
        """Return the model as the run's options ask for it, loaded once; by default the first in its first dtype."""
        key = (spec or self.settings.models[0], dtype or self.settings.dtypes[0])
        if key not in self._models:
            self._models[key] = self._config.hook.pytest_stability_load_model(
                spec=key[0], dtype=key[1], settings=self.settings
            )
        return self._models[key]

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Share what takes long: singular vectors among xdist workers, and processes that are other devices."""
        from stabilitykit.measurements.derived import derived_in
        from stabilitykit.subjects.standing import Processes, standing

        if self._processes is None:
            self._processes = Processes()
            self._config.add_cleanup(self._processes.close)
        with derived_in(self._vectors) if self._vectors else nullcontext(), standing(self._processes):
            yield

    def forget(self, loaded: Any) -> None:
        """Let go of a model and of its subjects: the next one may need the memory."""
        self._models = {key: model for key, model in self._models.items() if model is not loaded}
        self._subjects = {key: held for key, held in self._subjects.items() if held[0] is not loaded}


def _choice(loaded: Any, place: str = "") -> ModelChoice:
    """Return a model in its dtype, which test ids and folders are named after."""
    from stabilitykit.numerics.bits import name_of
    from stabilitykit.plugin.fixtures import ModelChoice

    return ModelChoice(loaded.spec, name_of(loaded.model.dtype), place)


def _listed(subject: Any) -> list[Any]:
    """Return one subject, or several from anything that yields them, as a list: they may be asked more than once."""
    from stabilitykit.subjects.measurable import Measurable

    return [subject] if isinstance(subject, Measurable) or not isinstance(subject, Iterable) else list(subject)


def load_model(spec: str, dtype: str, settings: Settings) -> Any:
    """Load a model by stabilitykit's own loader."""
    from stabilitykit.subjects.models import load

    return load(
        spec,
        dtype=dtype,
        device=settings.device,
        attention=settings.attention,
        experts=settings.experts,
        load_args=dict(settings.load_args),
    )
