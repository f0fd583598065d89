"""Another device: fresh processes with really other kernels, a recording of one, and one that is no other."""

import subprocess

import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import UsageError
from stabilitykit.subjects.standing import Processes, standing
from stabilitykit.traces import elsewhere, recorded
from stabilitykit.traces.devices import CPU_SETTINGS, Setting
from stabilitykit.traces.elsewhere import Ask, record_elsewhere, setting_named

ASK = {"prompts": ("ab", "xyz"), "tokens": 4}


def test_the_portable_kernels_give_other_bits_and_the_first_is_a_product_of_matrices(tiny):
    result = sk.measure(sk.CrossDevice("cpu-ref", **ASK), tiny, progress=False)
    assert result.verdict == "differs"
    assert result.readings["first_step"].value == 0
    assert result.readings["first_step"].place["stage"].startswith("module:model.layers.0.")
    assert {row["field"] for row in result.rows if row["part"] == "environment"} >= {"cpu_capability"}
    assert result.execution.forwards > 2 * 2 * 2 * 4  # both sides, plainly and recorded


def test_the_same_setting_is_not_distinct_and_a_gate_does_not_pass_over_it(tiny):
    threads = Setting("same", {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    here = recorded.recorded(tiny, Ask(**ASK))
    there = record_elsewhere(tiny, threads, Ask(**ASK))
    assert sk.measure(sk.TraceComparison(here, distinct=True), there, progress=False).verdict == "not-distinct"


def test_forced_on_our_tokens_every_step_is_compared(tiny):
    result = sk.measure(sk.CrossDevice("cpu-ref", **ASK, forced=True), tiny, progress=False)
    assert result.readings["tokens"].value == sum(one.steps for one in recorded.recorded(tiny, Ask(**ASK)).generations)
    assert result.readings["share_diverged"].value == 0


@pytest.mark.long
def test_the_stated_cost_bounds_both_sides(tiny):
    asked = sk.CrossDevice("cpu-ref", prompts=("cost",), tokens=3)
    took = sk.measure(asked, tiny, progress=False).execution.forwards
    assert asked.cost(tiny).forwards / 2 <= took <= asked.cost(tiny).forwards


@pytest.mark.long
def test_states_are_kept_on_both_sides_and_their_drift_measured(tiny):
    asked = sk.CrossDrift("cpu-ref", prompts=("ab",), tokens=3)
    result = sk.measure(asked, tiny, progress=False)
    assert result.readings["compared"].value == 3
    assert 0 < result.readings["relative_l2"].value < 1e-4
    assert result.readings["head_same"].value == 1
    digests = sk.record(tiny, ["ab"], 2)
    with pytest.raises(sk.UnsupportedError, match="keeps digests only; record it with --record-states all"):
        sk.measure(sk.CrossDrift(against=digests), tiny, progress=False)


@pytest.mark.long
def test_texts_that_part_are_read_again_by_the_other_device(tiny, monkeypatch):
    """Where the other device says something else it must read our tokens; where it says ours it has done so."""
    from stabilitykit.traces import cross_device

    asked, real = [], cross_device.recorded_elsewhere
    here = recorded.recorded(tiny, Ask(**ASK))
    other = [type(one)(**{**vars(one), "tokens": one.tokens + 1}) for one in here.generations]

    def planted(loaded, setting, ask, forced=None):
        asked.append(forced)
        there = real(loaded, setting, ask, forced)
        return sk.Recording(**{**vars(there), "generations": tuple(other)}) if forced is None else there

    monkeypatch.setattr(cross_device, "recorded_elsewhere", planted)
    result = sk.measure(sk.CrossDevice("cpu-ref", **ASK, forced=True), tiny, progress=False)
    assert asked == [None, here]
    assert result.readings["tokens"].value == sum(one.steps for one in here.generations)


def test_a_recording_of_another_device_is_continued_and_compared(tiny):
    there = record_elsewhere(tiny, setting_named("cpu-ref"), Ask(**ASK))
    result = sk.measure(sk.CrossDevice(against=there), tiny, progress=False)
    assert result.verdict == "differs"
    assert result.readings["prompts"].value == 2
    here = sk.record(tiny, **ASK)
    assert sk.measure(sk.CrossDevice(against=here), tiny, progress=False).verdict == "not-distinct"


def test_recordings_are_made_once(tiny, monkeypatch):
    counted = []
    monkeypatch.setattr(recorded, "record", lambda *args, **how: counted.append(1) or sk.record(*args, **how))
    ask = Ask(("once",), 2)
    first = recorded.recorded(tiny, ask)
    assert recorded.recorded(tiny, ask) is first
    assert recorded.recorded(tiny, ask, again=True) is not first
    assert len(counted) == 2


def test_a_model_that_came_from_no_file_is_handed_over():
    loaded = sk.adopt(sk.load("tiny").model)
    with torch.no_grad():
        loaded.model.lm_head.weight[3] *= 2
    changed = sk.adopt(loaded.model)
    result = sk.measure(sk.CrossDevice("cpu-ref", prompts=([1, 2, 3],), tokens=2), changed, progress=False)
    assert result.verdict == "differs"


@pytest.mark.long
def test_another_model_under_the_same_name_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(elsewhere, "named", lambda loaded, place: {"spec": "tiny:gpt2", "dtype": "float32"})
    with pytest.raises(sk.UnsupportedError, match="a fresh process loads other weights"):
        record_elsewhere(tiny, setting_named("cpu-ref"), Ask(("a",), 1))


def test_a_process_that_dies_is_unsupported_and_says_how(tiny, tmp_path):
    setting = Setting("dies", {"PYTHONPATH": str(tmp_path)})
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    with pytest.raises(sk.UnsupportedError, match="died by SIGILL"):
        record_elsewhere(tiny, setting, Ask(("a",), 1))


def test_settings_have_names():
    assert [setting_named(setting.name) for setting in CPU_SETTINGS] == list(CPU_SETTINGS)
    assert setting_named("cuda:1").device == "cuda:1"
    with pytest.raises(UsageError, match="setting 'gpu' is none of cpu-native, "):
        setting_named("gpu")


def test_a_generation_comes_back_and_its_recording_is_kept(tiny, tmp_path):
    result = sk.measure(sk.Trace(**ASK, folder=str(tmp_path / "kept")), tiny, progress=False)
    assert result.verdict == "pass"
    assert result.readings["differing_stages"].value == 0
    kept = sk.read_recording(tmp_path / "kept")
    assert result.readings["compared_stages"].value == sum(one.digests.size // 16 for one in kept.generations)
    sizes = [path.stat().st_size for path in (tmp_path / "kept").iterdir()]
    assert result.readings["kilobytes"].value * 1000 == sum(sizes)
    said = {row["prompt"]: row["text"] for row in result.rows}
    assert said["ab"] == "".join(tiny.tokenizer.decode([token]) for token in kept.generations[0].tokens)


def test_a_repetition_that_differs_has_a_place(tiny, monkeypatch):
    """The planted defect: the second recording meets a block that moved by one bit of float32, plainly and recorded."""
    layer, plain, moved = tiny.model.model.layers[1], tiny.model.model.layers[1].forward, []
    monkeypatch.setattr(layer, "forward", lambda *args, **how: plain(*args, **how) * (1 + 2**-20 * bool(moved)))
    asked = sk.Trace(prompts=("moved",), tokens=2, repeats=2)
    recorded.recorded(tiny, Ask(("moved",), 2))
    moved.append(1)
    result = sk.measure(asked, tiny, progress=False)
    assert result.verdict == "differs"
    assert result.readings["differing_runs"].value == 2
    assert result.readings["differing_runs"].place == {"prompt": "moved", "token": "0", "stage": "block:1"}
    with pytest.raises(sk.StabilityFailure):
        result.check(**sk.Trace.requires)


def test_one_process_records_all_that_is_asked_of_a_device(monkeypatch):
    """As `stability.measure` has it: the processes of a session stand while a measurement asks."""
    loaded, processes, started = sk.load("tiny"), Processes(), []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **how: started.append(given) or real(*given, **how))
    with standing(processes):
        for tokens in (2, 3):
            record_elsewhere(loaded, setting_named("cpu-ref"), Ask(("ab",), tokens))
    processes.close()
    assert len(started) == 1
