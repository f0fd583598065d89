"""Models and recordings of a stranger: nothing of theirs runs, sizes are refused before memory is taken, secrets stay.

What hostile bytes do to the other readers is in tests/traces/test_store.py and tests/results/test_archive.py.
"""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

import stabilitykit as sk
from stabilitykit import load_args
from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.subjects.headers import LARGEST, MOST
from stabilitykit.subjects.tiny import byte_tokenizer, tiny

RAN = []


class Payload:
    """What a pickle can be made to do."""

    def __reduce__(self):
        return (RAN.append, ("pickle",))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    tiny("llama").save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path, monkeypatch):
    """Fail whatever test lets a stranger's code run, in a pickle or as a module beside the weights."""
    RAN.clear()
    monkeypatch.setenv("STRANGER", str(tmp_path / "ran"))
    yield
    assert not RAN
    assert not (tmp_path / "ran").exists()


def with_code(folder, file, **more):
    """Let a configuration name Python code that lies beside it, and give the code a trace to leave."""
    code = "import os, pathlib\npathlib.Path(os.environ['STRANGER']).write_text('x')\nclass Mine: pass\n"
    (folder / "stranger.py").write_text(code, encoding="utf-8")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **more}), encoding="utf-8")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.safetensors"])
def test_a_pickle_is_never_opened_under_any_name(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload()))
    for read in (sk.load, sk.Checkpoint):
        with pytest.raises(UnreadableError):
            read(str(folder))


def test_a_pickle_beside_good_weights_is_not_looked_at(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    torch.save({"weight": Payload()}, folder / "training_args.bin")
    assert sk.load(str(folder)).digest == sk.load("tiny").digest


def test_code_beside_a_model_is_not_run_whatever_names_it(folder):
    named = {"AutoModelForCausalLM": "stranger.Mine", "AutoConfig": "stranger.Mine"}
    with_code(folder, "config.json", auto_map=named)
    with_code(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["stranger.Mine", "stranger.Mine"]})
    assert sk.load(str(folder)).digest == sk.load("tiny").digest  # of an architecture that transformers has
    with_code(folder, "config.json", model_type="stranger")
    for read in (lambda place: sk.load(place), lambda place: sk.Checkpoint(place).config):
        with pytest.raises(UnreadableError, match="it runs Python code of its own, which is never done"):
            read(str(folder))


def header(names):
    """Return a safetensors file that holds empty tensors of these names."""
    about = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(str(number) for number in range(100_000)), f"holds 100000 tensors; more than {MOST} are not read"),
        ((LARGEST + 1).to_bytes(8, "little") + b"{}", f"more than {LARGEST} are not read"),
        ((1 << 63).to_bytes(8, "little") + b"{}", f"more than {LARGEST} are not read"),
    ],
    ids=["tensors", "header", "length"],
)
def test_a_header_beyond_all_measure_is_refused_before_it_is_taken_for_a_model(folder, content, says):
    (folder / "model.safetensors").write_bytes(content)
    for read in (sk.load, sk.Checkpoint):
        with pytest.raises(UnreadableError, match=says):
            read(str(folder))


@pytest.mark.parametrize(
    "name", ["../weights.safetensors", "/etc/passwd", "..\\weights.safetensors", "a/b.safetensors"]
)
def test_an_index_leads_nowhere_out_of_the_folder(folder, name):
    (folder.parent / "weights.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"not a \.safetensors file beside it"):
        sk.Checkpoint(folder)


def test_no_variable_that_is_not_listed_reaches_any_output(tmp_path):
    """Report, journal, tables, recording, baseline and terminal of a run in a shell that holds secrets."""
    secrets = {name: f"planted-{name.lower()}-7f3a" for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD")}
    command = [sys.executable, "-m", "stabilitykit", "run", "--model", "tiny", "--report", "report", "--save", "base"]
    command += ["--record", "recording", "--", "-k", "test_run_to_run or test_trace", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **secrets}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run.json", "index.html", "results.csv", "manifest.json"} <= {path.name for path in written}
    written["terminal"] = (done.stdout + done.stderr).encode()
    leaks = [
        (str(path), name)
        for path, content in written.items()
        for name, value in secrets.items()
        if value.encode() in content
    ]
    assert not leaks
    assert not [path for path, content in written.items() if b"HF_TOKEN" in content]


@pytest.mark.parametrize("key", ["token", "use_auth_token", "HF_Token", "api_key", "apikey", "password"])
def test_a_secret_that_is_typed_as_an_option_is_refused_without_its_value(key):
    """The report says what was asked for."""
    with pytest.raises(UsageError, match=f"load-arg {key} may be a secret") as refusal:
        load_args.parsed([f"{key}=hf_7f3a"])
    assert "7f3a" not in str(refusal.value)
