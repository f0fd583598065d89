"""Fresh processes: the same bits from the same settings, others under other kernels, and what goes wrong is said."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements import process_invariance
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.process_invariance import ProcessInvariance
from stabilitykit.subjects import causal_lm, launch, replica
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.replica import Replica
from stabilitykit.subjects.tiny import tiny


def subject(loaded=None):
    return CausalLMSubject(loaded or sk.load("tiny:gpt2"), [5, 7, 11, 13])


def test_a_fresh_process_loads_an_object_too_and_gives_its_bits():
    """The weights are not those of any name: they are handed over, and known by their digest."""
    model = tiny("llama")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    asked = ProcessInvariance(processes=1, lengths=(1, 3))
    one = subject(sk.adopt(model))
    result = measure(asked, one)
    assert result.verdict == "pass"
    result.check(differing_bits="<= 0")
    assert [(row["process"], row["path"], row["length"], row["changed"]) for row in result.rows] == [
        (1, "prefill", 1, ""),
        (1, "prefill", 3, ""),
        (1, "decode", 1, ""),
        (1, "decode", 3, ""),
    ]
    assert result.sentence == (
        "1 fresh process gave the same bits in all 4 cases. "
        "0 of 1 differed: rate < 95% at 95%, if processes are independent draws."
    )
    assert result.readings["rate_bound"].value == pytest.approx(0.95)  # of processes, whatever each of them is asked
    assert result.execution.forwards == asked.cost(one).forwards == 4 * 3


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this processor has no other kernels")
def test_other_kernels_are_another_device_and_the_field_is_named():
    environ = {"ATEN_CPU_CAPABILITY": "default"}
    result = measure(ProcessInvariance(processes=1, lengths=(3,), environ=environ), subject())
    assert result.verdict == "differs"
    assert all("cpu_capability: " in row["changed"] and "-> DEFAULT" in row["changed"] for row in result.rows)
    assert 0 < result.readings["max_scaled_ulp"].value < 1000
    assert "under ATEN_CPU_CAPABILITY=default" in result.sentence
    assert "Fields of the numeric environment that differ: cpu_capability" in result.sentence
    assert result.readings["rate_bound"].value == 1
    assert result.worst.where.startswith("y (")


def test_the_sentence_names_the_variables_that_the_processes_had():
    asked = ProcessInvariance(processes=2, environ={"MKL_CBWR": "COMPATIBLE"})
    assert asked.sentence([], [({"changed": ""}, None)] * 3) == (
        "2 fresh processes under MKL_CBWR=COMPATIBLE gave the same bits in all 3 cases."
    )


def test_the_sentence_counts_processes_and_cases():
    case, same = ({"changed": ""}, None), "gave the same bits in all 3 cases."
    for processes, there in ((1, "1 fresh process"), (2, "2 fresh processes"), (3, "3 fresh processes")):
        asked = ProcessInvariance(processes=processes)
        assert asked.sentence([], [case] * 3) == f"{there} {same}"
        assert asked.sentence([case], [case] * 3) == f"In {there} 1 of 3 outputs have other bits."


def test_each_subject_is_stated_to_run_twice_here_and_once_in_every_process():
    """Two lengths on two paths."""
    costs = [ProcessInvariance(processes=processes, lengths=(1, 3)).cost(subject()) for processes in (1, 2, 5)]
    assert [cost.forwards for cost in costs] == [4 * (2 + processes) for processes in (1, 2, 5)]


@pytest.mark.parametrize("moved", [0.0, 1.0])
def test_each_output_is_held_against_that_of_the_process(monkeypatch, moved):
    """The processes are made up: they answer what is computed here, moved by one float if asked."""

    def answering(subjects, *_):
        outputs = [one.evaluate(one.copies(1))[0] for one in subjects]
        return Replica([torch.nextafter(row, row + moved) for row in outputs], environment(subjects[0].loaded))

    monkeypatch.setattr(process_invariance, "in_fresh_process", answering)
    result = measure(ProcessInvariance(processes=2, lengths=(1, 3)), subject())
    places = [(row["process"], row["length"]) for row in result.rows if row["path"] == "prefill"]
    assert places == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert {row["bits_equal"] for row in result.rows} == {not moved}


def test_a_prompt_that_moves_as_a_whole_is_asked_at_its_one_length_on_its_one_path(monkeypatch):
    """It cannot be decoded. The processes are made up, and run under something else that is told."""

    def answering(subjects, *_):
        here = environment(subjects[0].loaded)
        return Replica([one.evaluate(one.copies(1))[0] for one in subjects], {**here, "torch": "0"})

    monkeypatch.setattr(process_invariance, "in_fresh_process", answering)
    whole = CausalLMSubject(sk.load("tiny:gpt2"), [5, 7, 11], rows="all")
    asked = ProcessInvariance(processes=2, lengths=(3,))
    result = measure(asked, whole)
    assert [(row["process"], row["path"], row["length"]) for row in result.rows] == [
        (1, "prefill", 3),
        (2, "prefill", 3),
    ]
    assert all(row["bits_equal"] and row["changed"].endswith("-> 0") for row in result.rows)
    assert result.execution.forwards <= asked.cost(whole).forwards == 2 + 2


def test_other_weights_under_the_same_name_are_no_answer():
    stranger = subject(replace(sk.load("tiny:gpt2"), digest="0" * 64))
    with pytest.raises(UnsupportedError, match="loads other weights under the name 'tiny:gpt2'"):
        measure(ProcessInvariance(processes=1, lengths=(1,)), stranger)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "died by SIGILL under PYTHONPATH="),
        ("import sys; sys.exit('planted: no kernel')", "could not answer under PYTHONPATH=.*no kernel"),
        ("import time; time.sleep(60)", "did not answer within 1 s"),
    ],
)
def test_a_process_that_dies_fails_or_hangs_is_said_to(tmp_path, code, says):
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    environ = {"PYTHONPATH": str(tmp_path)}
    with pytest.raises(UnsupportedError, match=says):
        measure(ProcessInvariance(processes=1, lengths=(1,), environ=environ, timeout=1), subject())


def test_what_no_process_can_load_is_refused():
    with pytest.raises(UnsupportedError, match="no other process can load it"):
        measure(ProcessInvariance(), FunctionSubject(lambda X: X, torch.ones(3)))
    with pytest.raises(UsageError, match="processes=0 compares nothing"):
        ProcessInvariance(processes=0)


@pytest.mark.model
@pytest.mark.long
def test_smollm2_is_the_same_in_a_fresh_process():
    loaded = sk.load("smollm2")
    threads = torch.get_num_threads()
    result = measure(
        ProcessInvariance(processes=1, lengths=(1, 5)), CausalLMSubject(loaded, "The capital of France is")
    )
    assert torch.get_num_threads() == threads
    assert result.verdict == "pass", result.sentence


def test_a_process_looks_for_the_parts_of_its_model_once(tmp_path, monkeypatch):
    """Asked here, of two paths; both answer with the bits of plain subjects."""
    asked = [{"prompt": [1, 2, 3], "site": "post_norm", "path": path} for path in ("prefill", "decode")]
    request = {"model": {"spec": "tiny"}, "threads": None, "subjects": asked}
    (tmp_path / launch.REQUEST).write_text(json.dumps(request), encoding="utf-8")
    loaded = sk.load("tiny")
    wanted = [CausalLMSubject(loaded, **one).baseline[0] for one in asked]
    found, find = [], replica.find
    monkeypatch.setattr(replica, "find", lambda model: found.append(model) or find(model))
    monkeypatch.setattr(causal_lm, "find", lambda model: found.append(model) or find(model))
    replica.main(str(tmp_path))
    assert len(found) == 1
    given = load_file(tmp_path / replica.OUTPUTS)
    assert all(sk.bits_equal(given[str(place)], y) for place, y in enumerate(wanted))
