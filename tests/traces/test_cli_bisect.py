"""The command that bisects recordings: what it prints, what it refuses, and its exit status."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import stabilitykit as sk
from stabilitykit.cli import main
from stabilitykit.numerics.bits import nudge
from stabilitykit.subjects.generation import Text
from stabilitykit.traces.live import variables
from stabilitykit.traces.record import record
from stabilitykit.traces.store import read_recording, write_recording

PROMPTS = ["Hello", "\x1b[31mred"]


class NudgedSilu(TorchDispatchMode):
    """Moves one element of what the second SiLU of each forward gives."""

    def __enter__(self):
        self.count = 0
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if str(func) == "aten.silu.default":
            self.count += 1
            if self.count == 2:
                result.view(-1)[3:4].copy_(nudge(result.view(-1)[3:4], 1))
        return result


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Recordings of one tiny model: plain, plain again, nudged, without operations, and of another prompt."""
    place, loaded = tmp_path_factory.mktemp("recordings"), sk.load("tiny")

    def kept(name, prompts=PROMPTS, mode=None, **given):
        call = Text._call
        with pytest.MonkeyPatch.context() as patch:

            def planted(self, *arguments):
                with mode or nullcontext():
                    return call(self, *arguments)

            patch.setattr(Text, "_call", planted)
            made = record(loaded, prompts, 3, **{"level": "op", "steps": (0, 2), **given})
        write_recording(made, place / name)

    kept("a")
    kept("twin")
    elsewhere = read_recording(place / "twin")
    changed = {**elsewhere.environment, "mkl_cbwr": 3, "time_utc": "later"}
    write_recording(replace(elsewhere, environment=changed), place / "twin elsewhere")
    kept("nudged", mode=NudgedSilu())
    kept("modules", level="module")
    kept("other", prompts=["Hullo", "x"])
    kept("first", steps=(0,))
    return place


def bisect(folders, capsys, *words):
    status = main(["bisect", *(str(folders / one) if (folders / one).is_dir() else one for one in words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_equal_recordings_are_the_same(folders, capsys):
    status, said, _ = bisect(folders, capsys, "a", "twin")
    logs = [log for one in read_recording(folders / "a").generations for log in one.operations.values()]
    count = sum(len(log.entries) for log in logs)
    assert (status, said) == (0, f"All {count} operations of 4 forwards gave the same bits.\n")
    status, said, _ = bisect(folders, capsys, "a", "twin", "--prompt", "1", "--step", "2")
    assert (status, "of the forward gave the same bits" in said) == (0, True)


def test_the_planted_operation_is_named(folders, capsys):
    status, said, _ = bisect(folders, capsys, "a", "nudged")
    lines = said.splitlines()
    assert (status, lines[0]) == (1, "Prompt 0 'Hello', step 0:")
    assert lines[1].startswith(
        "The first operation whose bits differ is model.layers.1.mlp.act_fn/aten.silu.default#0 (number "
    )
    assert "the difference is local, by its elementwise library" in lines[1]
    assert len(lines) == 2
    status, said, _ = bisect(folders, capsys, "a", "nudged", "--prompt", "1", "--step", "2")
    assert said.splitlines()[0] == r"Prompt 1 '\x1b[31mred', step 2:"
    assert "is model.layers.1.mlp.act_fn/aten.silu.default#0" in said


def test_a_known_difference_of_the_machines_is_told_with_the_operation(folders, capsys):
    _, said, _ = bisect(folders, capsys, "nudged", "twin elsewhere")
    known = next(line for line in said.splitlines() if line.startswith("What else is not the same in A and B: "))
    assert "mkl_cbwr: " in known
    assert " -> 3" in known
    assert "time_utc" not in known


def test_json_has_both_sides(folders, capsys):
    status, said, _ = bisect(folders, capsys, "a", "nudged", "--json")
    found = json.loads(said)
    assert (status, found["prompt"], found["step"], found["forwards"]) == (1, 0, 0, 4)
    bisection = found["bisection"]
    assert (bisection["kind"], bisection["cause"]["name"]) == ("local", "elementwise library")
    assert bisection["a"]["inputs"] == bisection["b"]["inputs"]
    assert bisection["a"]["outputs"][0]["digest"] != bisection["b"]["outputs"][0]["digest"]
    assert (found["replay"], found["reproducer"]) == (None, None)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("a",), 2, "give either a second recording B or --live"),
        (("a", "twin", "--live"), 2, "give either a second recording B or --live"),
        (("a", "twin", "--set", "X=1"), 2, "--set is of a process that runs now; give --live instead of B"),
        (("a", "twin", "--reproduce", "x"), 2, "--reproduce is of a process that runs now"),
        (("a", "--live", "--set", "1X=1"), 2, "--set '1X=1' is not NAME=VALUE"),
        (("a", "--live", "--set", "X"), 2, "--set 'X' is not NAME=VALUE"),
        (("a", "twin", "--step", "1"), 2, "has no operations of that prompt and step; it has those of 0/0, 0/2, 1/0"),
        (("modules", "twin"), 3, "holds no operations; record it again with --record-level op"),
        (("a", "modules"), 3, "holds no operations of prompt 0, step 0"),
        (("a", "first"), 3, "holds no operations of prompt 0, step 2"),
        (("a", "other"), 3, "are of different things and were not compared"),
        (("a", "nowhere"), 3, "nowhere"),
    ],
)
def test_what_cannot_be_meant_or_compared_is_refused(folders, capsys, words, status, says):
    found, said, problem = bisect(folders, capsys, *words)
    assert (found, said) == (status, "")
    assert problem.startswith("stabilitykit bisect: ")
    assert says in problem


def test_a_damaged_log_is_unreadable(folders, capsys, tmp_path):
    made = write_recording(read_recording(folders / "a"), tmp_path / "damaged")
    file = made / "operations-p000-s0.json"
    file.write_text(file.read_text().replace("aten.mm", "aten.mn", 1))
    status, _, problem = bisect(folders, capsys, "a", str(made))
    assert (status, "operations-p000-s0.json is damaged" in problem) == (3, True)


def test_a_live_twin_is_the_same(folders, capsys):
    status, said, _ = bisect(folders, capsys, "a", "--live", "--prompt", "0")
    assert (status, "operations of 2 forwards gave the same bits" in said) == (0, True)


def test_a_live_setting_is_confirmed_and_reproduced(folders, capsys, tmp_path):
    """Another instruction set, really, where this processor has a choice."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has one capability only")
    words = ("a", "--live", "--set", "ATEN_CPU_CAPABILITY=default", "--reproduce", str(tmp_path / "alone"))
    status, said, _ = bisect(folders, capsys, *words)
    assert status == 1
    assert "Run again alone on the same operands, it gave A's bits under A's setting and B's under B's." in said
    lines = said.splitlines()
    ours, theirs = (line.split(": ", 1)[1].strip() for line in lines[-2:])
    assert "ATEN_CPU_CAPABILITY=default" in theirs
    statuses = []
    for command in (ours, theirs):
        there = {"shell": True, "cwd": tmp_path / "alone", "capture_output": True, "text": True, "timeout": 120}
        statuses.append(subprocess.run(command.replace("python ", f"{sys.executable} "), **there).returncode)
    assert statuses == [0, 1]


def test_the_variables_of_a_recording_are_those_that_decide(folders):
    made = read_recording(folders / "a")
    told = {
        **made.environment,
        "env.MKL_CBWR": "COMPATIBLE",
        "env.PYTHONHASHSEED": "0",
        "env.ATEN_CPU_CAPABILITY": None,
    }
    found = variables(type("Recorded", (), {"environment": {**made.environment, **told}}))
    assert found["MKL_CBWR"] == "COMPATIBLE"
    assert "PYTHONHASHSEED" not in found
    assert "ATEN_CPU_CAPABILITY" not in found


def test_help_starts_fast_and_names_both_ways():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stabilitykit", "bisect", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "--live" in done.stdout
    assert " torch\n" not in done.stderr
