"""The environment record: complete, plain, silent about the host, and read back rather than believed."""

import getpass
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from stabilitykit.subjects import environment as module
from stabilitykit.subjects.environment import KINDS, environment, numeric_key
from stabilitykit.subjects.models import load

READ_BACK = "from stabilitykit.subjects.environment import *; import json; print(json.dumps(environment()))"


def test_the_record_is_plain_json_with_every_field():
    record = environment(load("tiny"))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.keys() == KINDS.keys()
    assert set(KINDS.values()) == {"identity", "context", "noise"}


def test_nothing_fails_on_this_machine():
    record = environment(load("tiny:mixtral", dtype="bfloat16", attention="eager", experts="batched_mm"))
    assert not [value for value in record.values() if str(value).startswith("error:")]
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert record["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_the_model_is_described():
    model = load("tiny:mixtral", dtype="bfloat16", attention="eager", experts="batched_mm")
    record = environment(model)
    assert (record["dtype"], record["device"]) == ("bfloat16", "cpu")
    assert (record["attention"], record["experts"]) == ("eager", "batched_mm")
    assert record["weight_digest"] == model.digest
    assert record["weight_alignment"] == "0"
    assert record["weight_alignment_counts"] == f"0:{len(list(model.model.parameters()))}"


def test_without_a_model_its_fields_are_none():
    record = environment()
    assert all(record[name] is None for name in ("dtype", "device", "attention", "experts", "weight_digest"))


def test_a_failing_field_records_its_error(monkeypatch):
    monkeypatch.setattr(torch.__config__, "show", lambda: 1 / 0)
    record = environment()
    assert record["mkl"] == record["onednn"] == "error: ZeroDivisionError: division by zero"
    assert isinstance(numeric_key(record), str)


def test_no_host_no_user_and_no_unlisted_variable(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-secret")
    record = environment(load("tiny"))
    assert not {socket.gethostname(), getpass.getuser()} & set(record.values())
    assert "hunter2-secret" not in json.dumps(record)
    assert os.getcwd() not in json.dumps(record)


def test_the_key_is_stable_and_short():
    model = load("tiny")
    assert numeric_key(environment(model)) == numeric_key(environment(model))
    assert len(numeric_key(environment())) == 12


def test_the_key_follows_identity_only():
    record = environment(load("tiny"))
    for name, kind in KINDS.items():
        changed = numeric_key({**record, name: "another"}) != numeric_key(record)
        assert changed == (kind == "identity"), name


def test_the_weights_do_not_enter_the_key_but_their_dtype_does():
    keys = [numeric_key(environment(load("tiny", load_args={"seed": seed}))) for seed in (0, 1)]
    assert keys[0] == keys[1]
    assert numeric_key(environment(load("tiny", dtype="float64"))) != keys[0]


def test_misaligned_weights_are_seen_and_change_the_key():
    model = load("tiny")
    weight = model.model.model.norm.weight
    weight.data = torch.cat([weight.data.new_zeros(1), weight.data])[1:]
    record = environment(model)
    assert record["weight_alignment"] == "0 4"
    assert numeric_key(record) != numeric_key(environment(load("tiny")))


def test_flush_to_zero_is_probed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert environment()["flush_denormal"] is True
    finally:
        torch.set_flush_denormal(False)
    assert environment()["flush_denormal"] is False


def test_the_deterministic_flag_and_precision_are_read():
    before = numeric_key(environment())
    torch.use_deterministic_algorithms(True)
    try:
        assert environment()["deterministic"] is True
        assert numeric_key(environment()) != before
    finally:
        torch.use_deterministic_algorithms(False)


def test_effective_switches_are_read_back_not_believed():
    variables = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert (record["cpu_capability"], record["threads"]) == ("DEFAULT", 1)
    assert record["env.MKL_CBWR"] == "COMPATIBLE"
    if environment()["mkl_cbwr"] is not None:
        assert record["mkl_cbwr"] == 3
    assert numeric_key(record) != numeric_key(environment())


def test_a_torch_without_its_own_mkl_says_none(monkeypatch, tmp_path):
    monkeypatch.setattr(module.torch, "__file__", str(tmp_path / "__init__.py"))
    assert environment()["mkl_cbwr"] is None


def test_what_cannot_change_in_a_process_is_read_once(monkeypatch):
    before = environment()
    for name in ("version", "Path"):
        monkeypatch.setattr(module, name, lambda _: 1 / 0)
    after = environment()
    assert all(after[name] == before[name] for name in ("transformers", "cpu"))
