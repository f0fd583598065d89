"""A batch nobody chose takes what fits; one that does not fit is halved, proved again, and said to be another."""

import pytest
import torch

from stabilitykit import CausalLMSubject, FirstChange, load, measure
from stabilitykit.errors import InvalidError
from stabilitykit.numerics.memory import ran_out
from stabilitykit.subjects import batches
from stabilitykit.subjects.function_subject import FunctionSubject

IDS = [3, 1, 2, 5]
DIRECTIONS = torch.randn(9, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cramped(loaded, most, message="DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"):
    """A model whose block 0 finds no memory for more than `most` rows: the planted defect."""

    def refuse(_module, args):
        if len(args[0]) > most:
            raise RuntimeError(message)

    loaded.model.model.layers[0].register_forward_pre_hook(refuse)
    return loaded


def subject_of(loaded, batch, path="decode"):
    return CausalLMSubject(loaded, IDS, path=path, batch=batch)


def test_auto_is_the_power_of_two_that_fits_into_a_quarter(monkeypatch):
    one = subject_of(load("tiny:llama"), 1)
    layers, heads, width, past = 3, 2, 16, len(IDS) - 1
    cache = 2 * layers * heads * width * past * 4
    states = 6 * 128 * 4
    assert batches.row_bytes(one) == 2 * cache + states
    for rows, batch in ((0.5, 1), (1, 1), (9, 8), (16, 16), (1000, 256)):
        free = int(4 * rows * (2 * cache + states)) + 3
        monkeypatch.setattr(batches, "free_bytes", lambda _, free=free: free)
        subject = subject_of(one.loaded, "auto")
        assert subject.batch == batch
        assert subject.describe()["proofs"]["note"] == f"batch {batch} chosen from memory"
    monkeypatch.setattr(batches, "free_bytes", lambda _: None)
    assert subject_of(one.loaded, "auto").batch == batches.MOST


def test_the_whole_prompt_takes_more_than_its_last_token():
    loaded = load("tiny:llama")
    assert batches.row_bytes(subject_of(loaded, 1, "prefill")) == 6 * len(IDS) * 128 * 4
    with_head = CausalLMSubject(loaded, IDS, site="logits")
    assert batches.row_bytes(with_head) == 6 * len(IDS) * loaded.model.config.vocab_size * 4


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_batch_that_does_not_fit_is_halved_and_proved_anew(path):
    subject = subject_of(cramped(load("tiny:llama"), 4), 16, path)
    assert subject.batch == 4
    assert subject.proofs.note == "batch 16 ran out of memory; batch 8 ran out of memory"
    clean = subject_of(load("tiny:llama"), 4, path)
    assert clean.proofs.note == ""
    assert torch.equal(subject.baseline, clean.baseline)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_measurement_that_runs_out_is_asked_again_as_a_whole_in_half_the_batch(kind):
    """Memory ends in the middle of the search: nothing found in the larger shape is kept."""
    calls = []

    def fn(X):
        calls.append(len(X))
        if len(X) > 8 and calls.count(len(X)) > 2:
            raise kind("CUDA out of memory.")
        return (X * 3).sum(dim=1, keepdim=True) + len(X)

    subject = FunctionSubject(fn, torch.linspace(0.5, 1, 64), batch=32)
    found = measure(FirstChange(direction=DIRECTIONS), subject, progress=False)
    clean = measure(FirstChange(direction=DIRECTIONS), FunctionSubject(fn, subject.x0, batch=8), progress=False)
    assert found.rows == clean.rows
    assert found.subject["batch"] == 8
    assert found.subject["memory"] == "Memory ran out at batch 32, 16; measured at 8."
    assert found.sentence.endswith("Memory ran out at batch 32, 16; measured at 8.")
    assert "memory" not in clean.subject


def test_another_error_is_raised_as_it_is():
    def fn(X):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(FirstChange(direction=DIRECTIONS), FunctionSubject(fn, torch.ones(64), batch=8), progress=False)
    with pytest.raises(RuntimeError, match="planted"):
        subject_of(cramped(load("tiny:llama"), 4, "planted"), 16)


def test_where_not_even_one_row_fits_it_is_invalid():
    def fn(X):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(InvalidError, match=r"FirstChange ran out of the device's memory \(CUDA out of memory\.\)"):
        measure(FirstChange(direction=DIRECTIONS), FunctionSubject(fn, torch.ones(64), batch=8), progress=False)


def test_what_says_that_memory_ran_out():
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("MPS backend out of memory"))
    assert not ran_out(RuntimeError("out of range"))
