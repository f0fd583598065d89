"""The plugin's own hooks: facts about the machine, and changes to a record."""

CONFTEST = """
import os

def pytest_stability_machine_info():
    return {"rack": "r7", "process": os.environ.get("PYTEST_XDIST_WORKER", "alone")}

def pytest_stability_update_record(record):
    record["result"]["environment"]["job"] = "42"
"""
MEASURES = "def test_drift(stability):\n    stability.measure(ToyDrift(3.0), TOY)\n"


def test_hooks_add_to_what_is_stored(pytester, either):
    """The machine is asked about where it measured: in a worker, if there are any."""
    pytester.makeconftest(CONFTEST)
    run = either(MEASURES)
    environment = run.run["run"]["environment"]
    assert environment["rack"] == "r7"
    assert (environment["process"] == "alone") is (run.records["toy_drift[test_drift]"]["worker"] == "")
    assert run.records["toy_drift[test_drift]"]["result"]["environment"]["job"] == "42"


def test_a_hook_cannot_store_what_is_no_record(pytester, inner):
    pytester.makeconftest("def pytest_stability_update_record(record):\n    record['extra'] = 1\n")
    run = inner(MEASURES)
    assert run.result.ret != 0
    assert "extra" in run.text
