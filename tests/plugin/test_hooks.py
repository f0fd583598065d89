"""The plugin's own hooks: facts about the machine, and changes to a record."""

CONFTEST = """
def pytest_stability_machine_info():
    return {"rack": "r7"}

def pytest_stability_update_record(record):
    record["result"]["environment"]["job"] = "42"
"""
MEASURES = "def test_drift(stability):\n    stability.measure(ToyDrift(3.0), TOY)\n"


def test_hooks_add_to_what_is_stored(pytester, either):
    pytester.makeconftest(CONFTEST)
    run = either(MEASURES)
    assert run.run["run"]["environment"]["rack"] == "r7"
    assert run.records["toy_drift[test_drift]"]["result"]["environment"]["job"] == "42"


def test_a_hook_cannot_store_what_is_no_record(pytester, inner):
    pytester.makeconftest("def pytest_stability_update_record(record):\n    record['extra'] = 1\n")
    run = inner(MEASURES)
    assert run.result.ret != 0
    assert "extra" in run.text
