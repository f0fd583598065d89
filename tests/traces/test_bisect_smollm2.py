"""Two real pairs of settings on a real model: the operation that parts first, run again alone, and as a file."""

import os
import subprocess
import sys

import pytest

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.launch import shown
from stabilitykit.traces.bisect import bisect
from stabilitykit.traces.live import live, operands
from stabilitykit.traces.operations import operations_at
from stabilitykit.traces.replay import replay
from stabilitykit.traces.reproducer import Side, write_reproducer

PROMPT = "The capital of France is"
MATRICES, VECTORS = {"MKL_CBWR": "COMPATIBLE"}, {"ATEN_CPU_CAPABILITY": "default"}
CLASSES = {"elementwise library", "reduction order", "attention kernel"}


@pytest.fixture(scope="module")
def recorded():
    loaded = sk.load("smollm2")
    ids = loaded.tokenizer(PROMPT).input_ids
    return loaded, operations_at(loaded, ids, [], 0)


@pytest.fixture(scope="module")
def has_both():
    """Both settings choose something only with MKL, and vectors to do without."""
    here = environment()
    if here["mkl"] is None or here["cpu_capability"] == "DEFAULT" or os.environ.keys() & {*MATRICES, *VECTORS}:
        pytest.skip("this torch has no MKL, this processor no vector kernels, or a setting is on already")


@pytest.mark.model
@pytest.mark.parametrize("environ", [MATRICES, pytest.param(VECTORS, marks=pytest.mark.long)], ids=shown)
def test_the_first_operation_of_a_real_pair_is_found_and_confirmed(recorded, has_both, environ, tmp_path):
    loaded, log = recorded
    (other,) = live([log], loaded, environ)
    found = bisect(log, other)
    assert (found.verdict, found.kind) == ("differs", "local")
    a, b, cause = found.local_parts()
    if environ is MATRICES:
        assert (str(a.place), cause.name) == ("model.layers.0.self_attn.q_proj/aten.mm.default#0", "matmul kernel")
        assert a.inputs[1].weight == "model.layers.0.self_attn.q_proj.weight"
    else:
        assert cause.name in CLASSES
        assert "mm" not in a.operation
    assert found.later > 900
    sides = Side(a, log.threads), Side(b, other.threads, environ)
    taken = operands(log, a.place, loaded)
    path = write_reproducer(tmp_path, taken, *sides)
    seen = replay(tmp_path, *sides)
    assert seen.confirmed, seen.sentence
    assert seen.cause == ""
    commands = [line.split(": ", 1)[1].strip() for line in path.read_text().splitlines()[:2]]
    ran = [
        subprocess.run(
            one.replace("python ", f"{sys.executable} -I "),
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        for one in commands
    ]
    assert [one.returncode for one in ran] == [0, 1]
    assert ran[0].stdout.splitlines()[-1] == "passes: these are A's bits"
    assert "elements differ from A's" in ran[1].stdout
    assert ran[1].stdout.splitlines()[-1] == "fails: these are B's bits"


@pytest.mark.model
def test_a_fresh_process_with_nothing_set_is_the_clean_twin(recorded):
    loaded, log = recorded
    (twin,) = live([log], loaded)
    found = bisect(log, twin)
    assert (found.verdict, found.compared) == ("pass", len(log.entries))
    assert len(log.entries) > 1000


@pytest.mark.model
def test_a_token_on_the_cache_is_bisected_as_well(recorded, has_both):
    """The first product of a later token reads no cache yet: its difference is its own, in a kernel for one row."""
    loaded, log = recorded
    said = [int(loaded.tokenizer(" Paris").input_ids[0])]
    first = operations_at(loaded, log.ids, said, 1)
    (other,) = live([first], loaded, MATRICES)
    found = bisect(first, other)
    assert (found.kind, found.a.inputs[0].shape) == ("local", (1, 576))
    assert str(found.place) == "model.layers.0.self_attn.q_proj/aten.mm.default#0"


@pytest.mark.model
def test_a_process_that_dies_says_so(recorded, tmp_path):
    loaded, log = recorded
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(UnsupportedError, match="died by SIGILL"):
        live([log], loaded, {"PYTHONPATH": str(tmp_path)})
