"""Several devices: a worker on each, told by the controller, named in the report, and missed when it dies."""

import csv
from types import SimpleNamespace

import pytest
import torch

from stabilitykit.plugin import places
from stabilitykit.plugin.collector import Collector
from stabilitykit.plugin.facade import Stability
from stabilitykit.plugin.options import SETTINGS
from stabilitykit.plugin.places import PLACE, Places
from stabilitykit.report import html
from stabilitykit.settings import Settings
from stabilitykit.subjects import hardware

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

def pytest_stability_update_record(record):
    if record["result"]:
        record["result"]["environment"]["gpu_uuid"] = "GPU-" + record["result"]["subject"]["name"]
"""
EACH_ASKS = """
import os, time

@pytest.mark.parametrize("number", range(4))
def test_where(stability, number):
    print("MEASURED ON", stability.settings.device)
    stability.measure(ToyDrift(0.0), FunctionSubject(lambda X: X, torch.zeros(3), name=stability.settings.device))
    time.sleep(0.3)
"""


def configured(held, worker):
    node = SimpleNamespace(gateway=SimpleNamespace(id=worker), workerinput={})
    held.pytest_configure_node(node)
    return node.workerinput[PLACE]


def test_workers_take_the_devices_in_turn_and_a_replacement_that_of_the_dead():
    held = Places(("cuda:0", "cuda:1"), apart=False)
    taken = [configured(held, f"gw{index}")["device"] for index in range(3)]
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]
    held.pytest_testnodedown(SimpleNamespace(gateway=SimpleNamespace(id="gw0")))
    assert configured(held, "gw3") == {"device": "cuda:0", "place": ""}
    assert [held.device(f"gw{index}") for index in (0, 3)] == ["cuda:0", "cuda:0"]
    assert held.device("gw9") == ""


def test_ids_name_the_device_where_every_worker_runs_all_tests():
    assert configured(Places(("cuda:3", "cpu"), apart=True), "gw0") == {"device": "cuda:3", "place": "cuda-3"}


@pytest.mark.long
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
        cards = {(row["worker"], row["gpu_uuid"]) for row in csv.DictReader(file)}
    assert cards == {("gw0", "GPU-cuda:0"), ("gw1", "GPU-cuda:1")}


@pytest.mark.long
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
        (["--stability-device=xpu", "-n", "auto"], "--stability-device 'xpu' is not available to this torch"),
        (["--stability-device=cpu,cuda:0", "-n", "2"], "'cuda:0' is not available to this torch"),
        (["--stability-device=cpu,cpu", "-n", "2", "--stability-load-arg=device_map=auto"], "takes several; leave one"),
        (["--stability-device=cpu,"], "device '' is none of cpu, cuda, cuda:N"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(inner, options, sentence):
    run = inner("def test_it(stability):\n    pass\n", *options)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text


def test_chance_does_not_decide_on_which_kind_a_check_is_measured(inner, pytester):
    pytester.makeconftest(CARDS.replace("KINDS = {}", "KINDS = {'cuda:0': 'NVIDIA A100', 'cuda:1': 'NVIDIA H100'}"))
    run = inner("def test_it(stability):\n    pass\n", "-n", "2", "--stability-device=cuda:0,cuda:1")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cuda:0 is NVIDIA A100, cuda:1 is NVIDIA H100" in run.text
    assert "add --dist each" in run.text


def test_auto_is_one_worker_for_each_device(inner, pytester, monkeypatch):
    """Not one for each core, as many as those may be."""
    pytester.makeconftest("def pytest_unconfigure(config):\n    print('STARTED', config.option.numprocesses)\n")
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "7")
    options = ("-n", "auto", "--collect-only", "-s")
    assert "STARTED 3" in inner("", *options, "--stability-device=cpu,cpu,cpu").text
    assert "STARTED 7" in inner("", *options).text


def asked(workers):
    options = {"tx": ["popen"] * workers, "dist": "load", "numprocesses": workers, "collectonly": False}
    given = SimpleNamespace(**options)
    return SimpleNamespace(option=given, getoption=lambda name, _=None: options[name], getvalue=options.get)


def test_a_type_alone_is_as_many_of_its_cards_as_there_are_workers(monkeypatch):
    monkeypatch.setattr(hardware, "visible", lambda kind: tuple(f"{kind}:{index}" for index in range(3)))
    monkeypatch.setattr(places, "_kinds", lambda devices: ["one kind"] * len(devices))
    cuda = Settings(device="cuda", devices=("cuda",))
    assert places.auto(cuda) == 3
    assert places.opened(asked(2), cuda).devices == ("cuda:0", "cuda:1")
    assert places.opened(asked(4), cuda).devices == ("cuda:0", "cuda:1", "cuda:2")
    assert places.opened(asked(1), cuda) is None
    assert places.opened(asked(2), Settings(device="cuda:1", devices=("cuda:1",))) is None
    assert places.opened(asked(2), Settings()) is None


def test_each_device_records_into_a_folder_of_its_own_and_is_compared_with_one(tmp_path, monkeypatch):
    settings = Settings(record=tmp_path, against=tmp_path, place="cuda-1")
    asking = SimpleNamespace(settings=settings, _recordings={tmp_path: "the recording"})
    loaded = SimpleNamespace(spec="tiny", model=SimpleNamespace(dtype=torch.float32))
    assert Stability.recording(asking, loaded)["folder"] == str(tmp_path / "tiny-float32-cuda-1")
    assert Stability.against(asking, loaded) == "the recording"


def test_a_worker_makes_its_card_the_current_one(monkeypatch):
    chosen = []
    module = SimpleNamespace(is_available=lambda: True, set_device=chosen.append)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    config = SimpleNamespace(workerinput={PLACE: {"device": "cuda:1", "place": ""}})
    assert places.settled(config, Settings()).device == "cuda:1"
    assert places.settled(SimpleNamespace(), Settings()) == Settings()
    hardware.make_current("cpu")
    assert chosen == ["cuda:1"]


def test_of_a_worker_s_environment_the_page_says_what_is_not_the_run_s():
    there = {"gpu": "H200", "gpu_uuid": "GPU-1", "threads": 2, "torch": "2", "time_utc": "now"}
    shared = {"gpu": "H200", "gpu_uuid": "GPU-0", "threads": 1, "torch": "2", "time_utc": "then"}
    told = html._worker({"device": "cuda:1", "environment": there}, shared)
    assert told == {"measured on": "cuda:1", "gpu": "H200", "gpu_uuid": "GPU-1", "threads": 2}


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
