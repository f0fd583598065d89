"""How Hypothesis searches in the suite: every setting spelled out, so that no ambient profile changes a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, currently_in_test_context, example, seed, settings

from stabilitykit.errors import UsageError
from stabilitykit.profile import PROFILES, Profile
from stabilitykit.strategies.recorded import Recorded

Test = TypeVar("Test", bound=Callable[..., Any])


def settings_for(profile: Profile | str, number: int = 0) -> Callable[[Test], Test]:
    """Return a decorator for a test under `@given`: the profile's examples, drawn from the seed `number`.

    In continuous integration Hypothesis loads settings of its own, and what is registered later inherits from them;
    so each field is given here, and the user's profile is neither read nor changed.
    """
    if isinstance(profile, str) and profile not in PROFILES:
        raise UsageError(f"profile {profile!r} is none of {', '.join(PROFILES)}")
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    spelled = settings(
        max_examples=chosen.examples,
        derandomize=False,  # the seed is ours, and not that of the test's source text
        database=None,  # a failure replayed from a folder would make two runs of one command differ
        verbosity=Verbosity.normal,
        phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),  # explaining runs the model again
        stateful_step_count=15,
        report_multiple_bugs=False,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        deadline=None,  # a forward takes as long as it takes
        print_blob=True,
        backend="hypothesis",
    )
    return lambda test: seed(number)(spelled(test))


def replaying(recorded: Iterable[Recorded], argument: str = "direction") -> Callable[[Test], Test]:
    """Return a decorator for a test under `@given`: before anything is drawn it gets these directions, one a time."""

    def decorate(test: Test) -> Test:
        for direction in reversed(list(recorded)):  # what is added last is tried first
            test = example(**{argument: direction})(test)
        return test

    return decorate


def planned() -> int:
    """Return how many examples the Hypothesis test that calls this may draw; 1 outside of one."""
    return settings().max_examples if currently_in_test_context() else 1
