"""The plugin's own hooks; implement them in a conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stabilitykit.settings import Settings


@pytest.hookspec(firstresult=True)
def pytest_stability_load_model(spec: str, dtype: str, settings: Settings) -> Any:
    """Load the model named `spec` yourself; return None to leave it to the next one, at last to stabilitykit.

    Recipe, for an engine of your own (a hook may take fewer arguments than it is given)::

        def pytest_stability_load_model(spec):
            if spec.startswith("engine:"):
                model, tokenizer = build(spec.removeprefix("engine:"))
                return stabilitykit.adopt(model, tokenizer, spec=spec)
    """


@pytest.hookspec
def pytest_stability_machine_info() -> dict[str, Any] | None:
    """Return more facts about this machine for the run's environment: JSON-plain values under your own keys.

    It is called once, in a process that measured. Recipe::

        def pytest_stability_machine_info():
            return {"rack": os.environ.get("RACK", "")}
    """


@pytest.hookspec
def pytest_stability_update_record(record: dict[str, Any]) -> None:
    """Change one record, as JSON-plain data, before it is stored: no verdict is computed after this.

    Recipe::

        def pytest_stability_update_record(record):
            if record["result"]:
                record["result"]["environment"]["job"] = os.environ["CI_JOB_ID"]
    """
