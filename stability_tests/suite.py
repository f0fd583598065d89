"""The whole suite as a class, for a model that no option can name."""

import importlib
import pkgutil

import pytest

import stability_tests
import stabilitykit as sk


class StabilitySuite:
    """Every test of the suite, on the model that `model` returns; its checks are named after your class.

    In a test file of your own::

        import stabilitykit
        from stability_tests.suite import StabilitySuite

        class TestMine(StabilitySuite):
            @classmethod
            def model(cls):
                return stabilitykit.adopt(build(), tokenizer, spec="mine")

    The options of the run decide how much is measured. A test that you define again under its name replaces ours;
    `test_zoom = None` leaves one out.
    """

    @classmethod
    def model(cls):
        """Return a `LoadedModel` (of `stabilitykit.load` or `adopt`); it is asked for once a session."""
        raise sk.UsageError(
            f"{cls.__name__} has no model: give it a classmethod model() that returns stabilitykit.adopt(...)"
        )

    @pytest.fixture(scope="session")
    @classmethod
    def stability_model(cls, stability):
        """The class's own model, in place of the run's."""
        loaded = cls.model()
        yield loaded
        stability.forget(loaded)


def _tests():
    """Yield every test of the suite: a file that is added to it is in the class as well."""
    for module in pkgutil.iter_modules(stability_tests.__path__):
        if module.name.startswith("test_"):
            yield from vars(importlib.import_module(f"stability_tests.{module.name}")).items()


for name, test in _tests():
    if name.startswith("test_"):
        setattr(StabilitySuite, name, staticmethod(test))
