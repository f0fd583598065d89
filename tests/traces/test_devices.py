"""The atlas of devices: settings grouped by the bits they give, with planted twins, strangers and deaths."""

import json
import subprocess
import sys

import pytest
import torch

from stabilitykit.cli import devices as cli_devices
from stabilitykit.errors import TimedOutError, UnsupportedError, UsageError
from stabilitykit.subjects import launch
from stabilitykit.traces import devices
from stabilitykit.traces.devices import Setting, atlas

BASE = {"float32": {"matmul": "a", "exp": "b"}, "bfloat16": {"matmul": "c", "exp": ""}}
OTHER = {"float32": {"matmul": "a", "exp": "x"}, "bfloat16": {"matmul": "c", "exp": ""}}
THIRD = {"float32": {"matmul": "y", "exp": "x"}, "bfloat16": {"matmul": "z", "exp": ""}}


@pytest.fixture
def answers(monkeypatch):
    """Let each setting answer what a test plants, or raise it."""
    planted = {}

    def ask(module, _place, request, environ, timeout):
        assert (module, request["dtypes"], timeout) == ("stabilitykit.traces.devices", ["float32", "bfloat16"], 300.0)
        value = planted[environ["NAME"]]
        if isinstance(value, Exception):
            raise value
        return {"probe": "p", "digests": value, "environment": {"threads": 1}}

    monkeypatch.setattr(launch, "ask", ask)
    return planted


def settings(*names):
    return [Setting(name, {"NAME": name}) for name in names]


def test_equal_bits_are_one_device_whatever_the_setting_is_called(answers):
    answers |= {"native": BASE, "same": BASE, "other": OTHER, "again": OTHER, "third": THIRD}
    found = atlas(settings(*answers))
    assert [(one.setting.name, one.verdict, one.group, one.same_as) for one in found] == [
        ("native", "measured", "A", ""),
        ("same", "not-distinct", "A", "native"),
        ("other", "differs", "B", ""),
        ("again", "not-distinct", "B", "other"),
        ("third", "differs", "C", ""),
    ]
    assert found[0].parts == found[1].parts == {}
    assert found[2].parts == found[3].parts == {"float32": ["exp"]}
    assert found[4].parts == {"float32": ["matmul", "exp"], "bfloat16": ["matmul"]}


def test_who_does_not_answer_is_no_device_and_no_failure(answers):
    answers |= {
        "native": BASE,
        "dead": UnsupportedError("a fresh process died by SIGILL under NAME=dead"),
        "slow": TimedOutError("a fresh process did not answer within 300 s"),
        "other": OTHER,
    }
    found = atlas(settings(*answers))
    assert [one.verdict for one in found] == ["measured", "unsupported", "timeout", "differs"]
    assert [one.group for one in found] == ["A", "", "", "B"]
    assert "SIGILL" in found[1].reason
    lines = cli_devices.table(found)
    assert lines[0] == "setting  group  verdict       parts from native at"
    assert lines[2].startswith("dead     -      unsupported   a fresh process died by SIGILL")
    assert lines[4] == "other    B      differs       float32: exp"
    assert lines[-1] == "2 settings answered and are 2 devices."


def test_without_a_reference_there_is_nothing_to_part_from(answers):
    answers |= {"native": UnsupportedError("died"), "other": BASE}
    with pytest.raises(UnsupportedError, match="died"):
        atlas(settings(*answers))
    for none in ([], settings("a", "a")):
        with pytest.raises(UsageError, match="each with a name of its own"):
            atlas(none)


def test_long_lists_are_cut_in_the_table_and_whole_in_json(answers):
    names = {f"op{i}": str(i) for i in range(9)}
    answers |= {"native": {"float32": names}, "other": {"float32": dict.fromkeys(names, "x")}}
    found = atlas(settings(*answers))
    assert cli_devices.table(found)[2].endswith("float32: op0, op1, op2, op3, op4, op5 and 3 more")
    plain = json.loads(json.dumps(found[1].to_dict(), allow_nan=False))
    assert plain["parts"] == {"float32": list(names)}
    assert plain["environ"] == {"NAME": "other"}


def test_real_processes_two_that_are_one_device_and_one_that_is_not():
    """Twins by construction: an unknown capability is ignored in silence. The stranger needs vector instructions."""
    chosen = [Setting("plain"), Setting("bogus", {"ATEN_CPU_CAPABILITY": "bogus"})]
    chosen.append(Setting("aten", {"ATEN_CPU_CAPABILITY": "default"}))
    plain, bogus, aten = atlas(chosen, ("float32",), repeats=1)
    assert (plain.verdict, bogus.verdict, bogus.same_as) == ("measured", "not-distinct", "plain")
    assert plain.environment["torch"] == str(torch.__version__)
    assert aten.environment["cpu_capability"] == "DEFAULT"
    if plain.environment["cpu_capability"] != "DEFAULT":
        assert aten.verdict == "differs"
        assert "softmax 20x1000" in aten.parts["float32"]
        assert "matmul 20x256x256" not in aten.parts["float32"]  # which is MKL's, and not torch's own


def test_a_real_process_that_is_killed_is_unsupported(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(UnsupportedError, match="died by SIGILL under PYTHONPATH="):
        atlas([Setting("dead", {"PYTHONPATH": str(tmp_path)})])


def test_the_command_refuses_what_it_cannot_mean(tmp_path):
    command = [sys.executable, "-m", "stabilitykit", "devices", "--dtype", "float31"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "stabilitykit devices: dtype 'float31' is none of float32, bfloat16, float16, float64\n"


def test_every_cpu_setting_has_a_name_and_only_the_first_sets_nothing():
    names = [one.name for one in devices.CPU_SETTINGS]
    assert len(set(names)) == len(names)
    assert [one.name for one in devices.CPU_SETTINGS if not one.environ] == ["cpu-native"]
