"""This repository's own wiring: pinned threads, and what a missing model means to the tests that need it."""

import os
from pathlib import Path

import pytest

# Bits depend on the number of threads, and two xdist workers with all cores each would fight for them. Only here: with
# an editable installation this file is also above the suite that is run from elsewhere.
# A worker inherits what this file has set in the controller: then, as where nobody has, the number is ours to choose.
OURS = "STABILITYKIT_PINNED_THREADS"
if Path.cwd().is_relative_to(Path(__file__).parent) and os.environ.get("OMP_NUM_THREADS") == os.environ.get(OURS):
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ["OMP_NUM_THREADS"] = os.environ[OURS] = str(max(1, 2 // workers))


@pytest.fixture(autouse=True)
def _model_present(request: pytest.FixtureRequest) -> None:
    """Skip tests marked `model` without SmolLM2; STABILITYKIT_REQUIRE_MODEL=1 makes that an error, for CI."""
    if request.node.get_closest_marker("model") is None:
        return
    from stabilitykit.subjects import smollm2

    if smollm2.packaged_file() is None and not smollm2.converted_folder().exists():
        missing = f"SmolLM2 is not installed: {smollm2.INSTALL}"
        if os.environ.get("STABILITYKIT_REQUIRE_MODEL") == "1":
            raise RuntimeError(missing)
        pytest.skip(missing)
