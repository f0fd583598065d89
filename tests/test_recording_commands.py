"""Record here, compare there: the commands a person types, with their exit codes and files."""

import csv
import json
import os
import subprocess
import sys

import pytest

import stabilitykit as sk


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "stabilitykit", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a folder with a recording of the tiny model, made by the command."""
    place = tmp_path_factory.mktemp("record")
    done = command("run", "--model", "tiny", "--record", "A", "--tokens", "3", "--report", "R", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_a_recording_is_kept_whole_and_the_report_says_where(recorded):
    made = sk.read_recording(recorded / "A")
    assert len(made.generations) == 10  # what is kept is not cut to a quick look
    assert {one.steps for one in made.generations} == {3}
    assert {one.kind for one in made.generations} == {"answerable", "false premise"}
    with open(recorded / "R" / "summary.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["check_id"] == "trace[tiny-float32]"
    assert "The recording is in" in row["sentence"]


@pytest.mark.long
def test_the_same_machine_compares_as_no_other_device_and_the_page_says_so(recorded):
    words = ("run", "--model", "tiny", "--against", "A", "--report", "S", "--", "-q", "-k", "cross_device")
    done = command(*words, cwd=recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(recorded / "S" / "summary.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["check_id"], row["status"]) == ("cross_device[tiny-float32-against]", "not-distinct")
    with open(recorded / "S" / "tables" / "divergence.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10


@pytest.mark.long
def test_another_device_is_seen_and_a_strict_run_fails_over_it(recorded):
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}
    words = ["run", "--model", "tiny", "--against", "A", "--strict", "--report", "T", "--", "-q", "-k", "cross_device"]
    done = subprocess.run(
        [sys.executable, "-m", "stabilitykit", *words], cwd=recorded, capture_output=True, text=True, env=environ
    )
    assert done.returncode == 1, done.stdout + done.stderr
    with open(recorded / "T" / "results.csv", encoding="utf-8", newline="") as file:
        rows = {row["reading"]: row for row in csv.DictReader(file)}
    assert rows["first_step"]["stage"].startswith("module:model.layers.0.")
    assert rows["first_step"]["module"].startswith("model.layers.0.")
    assert float(rows["differing_stages"]["value"]) > 0


def test_two_recordings_are_compared_by_one_command(recorded, tmp_path):
    a = sk.read_recording(recorded / "A")
    same = command("compare", str(recorded / "A"), str(recorded / "A"), cwd=tmp_path)
    assert (same.returncode, same.stdout.splitlines()[-1]) == (
        0,
        f"All 30 tokens of 10 prompts are equal. All {30 * len(a.stages)} digests are equal: no bit differs.",
    )
    one = a.generations[4]
    digests = one.digests.copy()
    digests[1, 7, 3] ^= 4
    planted = type(one)(**{**vars(one), "digests": digests})
    other = sk.Recording(**{**vars(a), "generations": (*a.generations[:4], planted, *a.generations[5:])})
    sk.write_recording(other, tmp_path / "B")
    found = command("compare", str(recorded / "A"), "B", "--report", "page", cwd=tmp_path)
    assert found.returncode == 1
    assert f"1, {a.stages[7].name}" in found.stdout
    assert "written: page/index.html" in found.stdout
    assert (tmp_path / "page" / "index.html").is_file()
    plain = command("compare", str(recorded / "A"), "B", "--json", cwd=tmp_path)
    assert json.loads(plain.stdout)["verdict"] == "differs"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("compare", "A", "nowhere"), 2, "are a folder and a file"),
        (("compare", "A", "empty"), 3, "holds no manifest.json"),
        (("compare", "A", "other"), 3, "are of different things and were not compared"),
        (("compare", "A", "A.safetensors"), 2, "are a folder and a file"),
        (("run", "--against", "empty"), 2, "against 'empty' holds no manifest.json"),
        (("run", "--record", "X", "--record-level", "layer"), 2, "record-level 'layer' is none of block, module, op"),
        (("run", "--record", "X", "--record-states", "some"), 2, "record-states 'some' is none of none, norm"),
        (("run", "--record", "X", "--tokens", "0"), 2, "tokens '0' is not a whole number from 1 up"),
        (("run", "--record", "X", "--record-step", "x"), 2, "record-step 'x' is not a whole number from 0 up"),
    ],
)
def test_what_cannot_be_meant_or_compared_has_one_sentence_and_its_status(recorded, words, status, sentence):
    (recorded / "empty").mkdir(exist_ok=True)
    if words[-1] == "other" and not (recorded / "other").exists():
        sk.write_recording(sk.record(sk.load("tiny:gpt2"), ["a"], 1), recorded / "other")
    done = command(*words, cwd=recorded)
    assert done.returncode == status, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_several_models_are_kept_in_folders_of_their_own(tmp_path):
    words = ("run", "--model", "tiny", "--dtype", "float32,bfloat16", "--record", "A", "--tokens", "1", "--report", "R")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "A").iterdir()) == ["tiny-bfloat16", "tiny-float32"]
    wide, narrow = (sk.read_recording(tmp_path / "A" / name) for name in ("tiny-float32", "tiny-bfloat16"))
    assert sk.measure(sk.TraceComparison(wide), narrow, progress=False).verdict in ("measured", "differs")
