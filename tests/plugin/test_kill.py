"""A run on a real (tiny) model is killed in its middle, or interrupted, and goes on: the same values, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stabilitykit.report.journal import NAME, lines

# A few checks, one in the middle that never ends while HOLD is set, and a model that ALTER moves by one float.
SOURCE = """
import os
import time

import stabilitykit as sk
from hypothesis import given
from stabilitykit import strategies


def test_runs(stability, stability_model):
    stability.measure(sk.RunToRun(runs=3), stability.subjects())


def test_first(stability, stability_model):
    subject = stability.subject(path="decode", batch=4)
    stability.measure(sk.FirstChange(direction=strategies.gaussians(5, len(subject.x0))), subject)


def test_held(stability, stability_model):
    subject = stability.subject(path="decode", batch=4)
    stability.measure(sk.StabilityFan(angles=6), subject)
    if os.environ.get("HOLD"):
        open("held", "w").close()
        time.sleep(300)


def test_search(stability, stability_model):
    subject = stability.subject(path="decode")

    @stability.examples("first_change", len(subject.x0))
    @strategies.settings_for("quick", stability.settings.seed)
    @given(direction=strategies.directions(len(subject.x0)))
    def search(direction):
        stability.measure(sk.FirstChange(direction=direction), subject)

    search()
"""
# The model counts its batches, and its process is killed before the batch numbered KILL.
LONG = """
import os
import signal

import stabilitykit as sk
from stabilitykit import strategies
from stabilitykit.subjects import answers
from stabilitykit.subjects.causal_lm import CausalLMSubject

answers.EVERY = 0.0


def counted(name):
    asked = getattr(CausalLMSubject, name)

    def ask(self, *given):
        with open("asked.txt", "a+") as file:
            file.seek(0)
            if len(file.read()) + 1 == int(os.environ.get("KILL", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            file.write("x")
        return asked(self, *given)

    setattr(CausalLMSubject, name, ask)


counted("evaluate")
counted("first_blocks")


def test_long(stability, stability_model):
    subject = stability.subject(path="decode", batch=4)
    stability.measure(sk.FirstChange(direction=strategies.gaussians(40, len(subject.x0))), subject)
"""
CONFTEST = """
import os

import torch

import stabilitykit as sk


def pytest_stability_load_model(spec, dtype):
    if not os.environ.get("ALTER"):
        return None
    loaded = sk.load(spec, dtype=dtype)
    with torch.no_grad():
        weight = next(loaded.model.parameters())
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    return sk.adopt(loaded.model, loaded.tokenizer, spec=spec)
"""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:benchmark", "--stability-model=tiny")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test_it.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(folder):
    """Start pytest in a session of its own, which is killed at the end."""
    begun = []

    def begin(*options, command=PYTEST, **environment):
        process = subprocess.Popen(
            [*command, *options], cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            end(process, signal.SIGKILL)


def run(folder, *options, **environment):
    command = [*PYTEST, "--stability-report=out", *options]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout + done.stderr


def finished(path):
    return sum(kind == "done" for kind, _ in lines(path)[0]) if path.exists() else 0


def wait(condition, process):
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "it did not come that far"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def end(process, how):
    os.killpg(process.pid, how)
    return process.communicate(timeout=100)[0]


def values(report: Path):
    """Return what a report says of its checks, but for what it took: tests share a baseline, and the first pays."""
    noise = {"load_average", "time_utc"}
    found = json.loads((report / "run.json").read_text(encoding="utf-8"))["records"]
    for record in found:
        result = record["result"]
        result.pop("execution")
        result["environment"] = {k: v for k, v in result["environment"].items() if k not in noise}
        for name in ("resumed", "worker"):
            record.pop(name)
    arrays = {path.name: path.read_bytes() for path in sorted((report / "arrays").iterdir())}
    return found, arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run gives."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "test_it.py").write_text(SOURCE, encoding="utf-8")
    status, text = run(folder)
    assert status == 0, text
    return values(folder / "out")


def another_model_is_refused(folder, chosen):
    """Of the same name, with one weight one float away: neither taken over nor measured beside the journal."""
    before = (folder / "out" / NAME).read_bytes()
    status, text = run(folder, "--stability-resume", "-k", chosen, ALTER="1")
    assert status == pytest.ExitCode.USAGE_ERROR, text
    assert "was measured with weight_digest " in text
    assert "resume with the same model and machine, or measure anew without resuming" in text
    assert (folder / "out" / NAME).read_bytes() == before


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.long)], ids=["alone", "xdist"])
def test_a_killed_run_goes_on_to_the_same_values(folder, start, whole, workers):
    process = start("--stability-report=out", *workers, HOLD="1")
    journal = folder / "out" / NAME
    wait(lambda: (folder / "held").exists() and finished(journal) >= 2, process)
    end(process, signal.SIGKILL)
    assert not (folder / "out" / "run.json").exists()
    before, measured = journal.read_bytes(), finished(journal)
    with journal.open("ab") as file:
        file.write(b'{"crc":"0123')  # what a power cut leaves
    another_model_is_refused(folder, "search" if workers else "runs")
    assert not (folder / "out" / "run.json").exists()
    status, text = run(folder, "--stability-resume", *workers)
    assert status == 0, text
    assert f"{measured} of 4 checks were taken over" in text
    assert "that were passed over: 1" in text
    assert values(folder / "out") == whole
    assert journal.read_bytes().startswith(before)
    stored = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))["records"]
    assert sum(record["resumed"] for record in stored) == measured


def test_an_interrupt_leaves_a_report_and_says_how_to_go_on(folder, start):
    process = start("--stability-report=out", HOLD="1")
    wait(lambda: (folder / "held").exists(), process)
    text = end(process, signal.SIGINT)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "interrupted after 2 checks; go on with: pytest " in text
    assert "--stability-report=out --stability-resume" in text
    stored = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
    assert [record["check_id"] for record in stored["records"]] == [
        "first_change[tiny-float32]",
        "run_to_run[tiny-float32]",
    ]
    assert any("go on with" in note for note in stored["run"]["notes"])


def test_the_command_waits_for_the_report_when_interrupted(folder, start):
    command = (sys.executable, "-m", "stabilitykit", "run", "--model=tiny", "--profile=standard", "--")
    process = start("-p", "no:benchmark", "-k", "run_to_run or searched or singular", command=command)
    journal = folder / "reports" / NAME
    wait(lambda: finished(journal) >= 1, process)
    text = end(process, signal.SIGINT)
    assert process.returncode == 130, text
    assert "go on with: stabilitykit run --model=tiny --profile=standard --resume -- " in text
    assert (folder / "reports" / "index.html").exists()


@pytest.mark.long
def test_a_check_that_is_killed_in_its_middle_goes_on_there(folder):
    (folder / "test_it.py").write_text(LONG, encoding="utf-8")
    counter = folder / "asked.txt"

    def took():
        count = len(counter.read_text())
        counter.unlink()
        return count

    assert run(folder)[0] == 0
    whole, needed = values(folder / "out"), took()
    assert not (folder / "out" / "answers").exists()
    assert finished(folder / "out" / NAME) == 1
    status, _ = run(folder, KILL=str(needed * 2 // 3))
    assert status == -signal.SIGKILL
    assert took() == needed * 2 // 3 - 1
    assert finished(folder / "out" / NAME) == 0, "it is another run"
    status, text = run(folder, "--stability-resume")
    assert status == 0, text
    assert values(folder / "out") == whole
    assert took() < needed // 2
    assert not (folder / "out" / "answers").exists()
