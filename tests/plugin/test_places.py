"""Several devices: a worker on each, told by the controller, named in the report, and missed when it dies."""

import csv
from types import SimpleNamespace

import pytest

from stabilitykit.plugin.collector import Collector
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.places import PLACE, Places
from stabilitykit.settings import Settings

pytest.importorskip("xdist")

# No machine that runs these tests has two GPUs: names, kinds and the model are stood in for, nothing else is.
CARDS = """
import pytest
from stabilitykit.plugin import places
from stabilitykit.subjects import hardware

KINDS = {}
places._kinds = lambda devices: [KINDS.get(device, "one kind") for device in devices]
hardware.visible = lambda kind: (f"{kind}:0", f"{kind}:1")

@pytest.hookimpl
def pytest_stability_load_model(spec, dtype, settings):
    return object()
"""
EACH_ASKS = """
import os, time

@pytest.mark.parametrize("number", range(4))
def test_where(stability, number):
    print("MEASURED ON", stability.settings.device)
    stability.measure(ToyDrift(0.0), FunctionSubject(lambda X: X, torch.zeros(3), name=stability.settings.device))
    time.sleep(0.3)
"""


def configured(places, worker):
    node = SimpleNamespace(gateway=SimpleNamespace(id=worker), workerinput={})
    places.pytest_configure_node(node)
    return node.workerinput[PLACE]


def test_workers_take_the_devices_in_turn_and_a_replacement_that_of_the_dead():
    places = Places(("cuda:0", "cuda:1"), apart=False)
    taken = [configured(places, f"gw{index}")["device"] for index in range(3)]
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]
    places.pytest_testnodedown(SimpleNamespace(gateway=SimpleNamespace(id="gw1")))
    assert configured(places, "gw3") == {"device": "cuda:1", "place": ""}
    assert [places.device(f"gw{index}") for index in (1, 3)] == ["cuda:1", "cuda:1"]
    assert places.device("gw9") == ""


def test_ids_name_the_device_where_every_worker_runs_all_tests():
    assert configured(Places(("cuda:3", "cpu"), apart=True), "gw0") == {"device": "cuda:3", "place": "cuda-3"}


def test_devices_of_one_kind_share_the_tests_and_the_report_says_who_measured_where(inner, pytester):
    pytester.makeconftest(CARDS)
    run = inner(EACH_ASKS, "-n", "auto", "--stability-device=cuda:0,cuda:1", apart=True)
    run.result.assert_outcomes(passed=4)
    workers = run.run["run"]["workers"]
    assert {name: told["device"] for name, told in workers.items()} == {"gw0": "cuda:0", "gw1": "cuda:1"}
    assert all(told["environment"]["torch"] for told in workers.values())
    measured = {record["worker"]: record["result"]["subject"]["name"] for record in run.records.values()}
    assert measured == {"gw0": "cuda:0", "gw1": "cuda:1"}
    assert run.run["run"]["settings"]["devices"] == ["cuda:0", "cuda:1"]
    page = (run.folder / "index.html").read_text(encoding="utf-8")
    assert "Worker gw1" in page
    assert "measured on" in page
    with (run.folder / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {"gpu", "gpu_uuid", "worker"} <= next(csv.DictReader(file)).keys()


def test_with_dist_each_all_is_measured_on_each_device_and_ids_differ(inner, pytester):
    pytester.makeconftest(CARDS.replace("KINDS = {}", "KINDS = {'cuda:1': 'another kind'}"))
    source = "def test_it(stability, stability_model):\n    stability.measure(ToyDrift(0.0), TOY)\n"
    run = inner(source, "-n", "auto", "--dist", "each", "--stability-device=cuda", "--stability-model=tiny", apart=True)
    run.result.assert_outcomes(passed=2)
    assert set(run.verdicts) == {"toy_drift[tiny-float32-cuda-0]", "toy_drift[tiny-float32-cuda-1]"}
    assert {record["worker"] for record in run.records.values()} == {"gw0", "gw1"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--stability-device=cpu,cpu"], "device names 2 devices, and one process measures on one; give each a worker"),
        (["--stability-device=cpu,cpu,cpu", "-n", "2"], "2 workers leave devices out; start one for each with -n auto"),
        (["--stability-device=cpu,cpu", "-n", "3", "--dist", "each"], "3 workers would measure the same twice"),
        (["--stability-device=cpu,mps", "-n", "2"], "'mps' is not available to this torch"),
        (["--stability-device=cpu,cuda:0", "-n", "2"], "'cuda:0' is not available to this torch"),
        (["--stability-device=cpu,"], "device '' is none of cpu, cuda, cuda:N"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(inner, options, sentence):
    run = inner("def test_it(stability):\n    pass\n", *options)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text


def test_chance_does_not_decide_on_which_kind_a_check_is_measured(inner, pytester, monkeypatch):
    monkeypatch.setattr("stabilitykit.plugin.places._kinds", lambda devices: ["NVIDIA A100", "NVIDIA H100"])
    run = inner("def test_it(stability):\n    pass\n", "-n", "2", "--stability-device=cuda:0,cuda:1")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cuda:0 is NVIDIA A100, cuda:1 is NVIDIA H100" in run.text
    assert "add --dist each" in run.text


CRASHES = """
import os

@pytest.fixture
def doomed(stability):
    os._exit(9)

def test_lives(stability):
    stability.measure(ToyDrift(0.0), TOY)

def test_dies_in_setup(doomed):
    pass

def test_dies(stability):
    stability.measure(ToyDrift(0.0), TOY)
    os._exit(9)
"""


def test_each_worker_that_dies_is_a_record_which_names_its_device_also_after_its_last_test(inner, pytester):
    """The fourth worker, which replaces the second that died, dies when it has nothing left to do."""
    pytester.makeconftest(
        "import os\n\ndef pytest_sessionfinish(session):\n"
        "    if getattr(session.config, 'workerinput', {}).get('workerid') == 'gw3':\n        os._exit(9)\n"
    )
    run = inner(CRASHES, "-n", "auto", "--stability-device=cpu,cpu", apart=True)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    assert run.verdicts == {
        "dies_in_setup[test_dies_in_setup]": "crash",
        "dies[test_dies]": "crash",
        "toy_drift[test_lives]": "measured",
        "worker[gw3]": "crash",
    }
    dead = [record for record in run.records.values() if record["verdict"] == "crash"]
    assert all(record["message"].endswith(", on cpu") and record["worker"] for record in dead)
    assert "outside of any test" in run.records["worker[gw3]"]["message"]


def collector(**found):
    """A controller of two workers of which one died when all tests had passed."""
    config = SimpleNamespace(stash={SETTINGS: Settings()}, hook=None)
    held = Collector(config)
    held.texts += found.get("texts", ["{}"])
    node = SimpleNamespace(gateway=SimpleNamespace(id="gw1"))
    held.pytest_testnodedown(node, found.get("error"))
    return held


@pytest.mark.parametrize(("error", "status"), [("Not properly terminated", 1), (None, 0)])
def test_a_run_whose_worker_died_with_nothing_left_to_do_is_no_pass(error, status):
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    collector(error=error)._count_dead(session)
    assert session.exitstatus == status


def test_the_death_of_a_worker_is_no_business_of_a_run_that_measures_nothing():
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    collector(error="Not properly terminated", texts=[])._count_dead(session)
    assert session.exitstatus == pytest.ExitCode.OK
