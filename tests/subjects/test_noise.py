"""The noise floor: planted dependences on batch shape, slot and threads are found, and a clean function has none."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.subjects import causal_lm, noise

X0 = torch.linspace(-1, 1, 6)


def test_a_function_without_noise_has_floor_zero():
    with noise.threads(2):
        floor = sk.FunctionSubject(lambda X: X * 2, X0, batch=4).noise_floor()
    assert (floor.l2, floor.max_abs, floor.distinct) == (0.0, 0.0, 1)
    assert floor.evaluations == 4 + 1 + 2 + 3 + 8 + 4
    assert floor.sentence.startswith("0: all")


def test_a_planted_dependence_on_the_batch_is_the_floor():
    """Rows of a batch of three are moved by 3 e_0 + 4 e_1, all others are not."""

    def planted(X):
        return X + (len(X) == 3) * torch.tensor([3.0, 4.0, 0, 0, 0, 0])

    floor = sk.FunctionSubject(planted, X0).noise_floor()
    assert floor.l2 == pytest.approx(5.0)
    assert floor.max_abs == pytest.approx(4.0)
    assert "batch 3" in floor.pair
    assert floor.distinct == 2


def test_a_planted_dependence_on_the_slot_or_the_threads_is_seen():
    slots = sk.FunctionSubject(lambda X: X + torch.arange(len(X))[:, None], X0).noise_floor()
    assert slots.max_abs == pytest.approx(7.0)
    with noise.threads(2):
        threaded = sk.FunctionSubject(lambda X: X + torch.get_num_threads(), X0).noise_floor()
        assert torch.get_num_threads() == 2
    assert threaded.max_abs == pytest.approx(1.0)
    assert "1 thread" in threaded.pair


def test_no_more_threads_are_tried_than_run():
    with noise.threads(1):
        floor = sk.FunctionSubject(lambda X: X + torch.get_num_threads(), X0).noise_floor()
    assert (floor.l2, floor.evaluations) == (0.0, 1 + 2 + 3 + 8)


def test_threads_are_put_back_after_an_error():
    ambient = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), noise.threads(ambient + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == ambient


def test_a_model_is_tried_on_both_paths_and_measured_once():
    subject = sk.CausalLMSubject(sk.load("tiny"), "The capital of France is")
    floor = subject.noise_floor()
    with torch.no_grad():
        decode = sk.CausalLMSubject(subject.loaded, "The capital of France is", path="decode").baseline
    gap = float((decode.double() - subject.baseline.double()).norm())
    assert floor.l2 >= gap
    before = subject.counter.forwards
    assert subject.noise_floor() is floor
    assert subject.counter.forwards == before


def test_a_model_without_a_cache_has_one_path():
    subject = sk.CausalLMSubject(sk.load("tiny:mamba"), "The capital")
    assert subject.noise_floor().evaluations > 4


def test_the_subjects_own_batch_is_asked_behind_the_prefix_that_is_there(monkeypatch):
    subject = sk.CausalLMSubject(sk.load("tiny"), "The capital of France is", path="decode", batch=4)
    built, real = [], causal_lm.prefix_of
    monkeypatch.setattr(causal_lm, "prefix_of", lambda one, batch: built.append(batch) or real(one, batch))
    with noise.threads(1):
        floor = subject.noise_floor()
    assert sorted(built) == [1, 2, 3, 8]
    assert floor.evaluations == 4 + 1 + 2 + 3 + 8 + 1
