"""Where a relative stands, which numbers of threads are tried where none are named, and that cases must be named."""

import os

import pytest
import torch

from stabilitykit.measurements.invariance import Invariance, where
from stabilitykit.measurements.thread_invariance import ThreadInvariance
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.noise import threads


def test_a_function_counts_as_one_token():
    assert where(FunctionSubject(lambda X: X, torch.ones(3)))["length"] == 1


def test_threads_are_the_powers_of_two_up_to_the_cores(monkeypatch):
    with threads(1):
        for cores, tried in ((1, []), (2, [2]), (7, [2, 4]), (8, [2, 4, 8])):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _process, cores=cores: range(cores), raising=False)
            assert ThreadInvariance().others() == tried


def test_a_subclass_that_names_no_cases_is_told_at_once():
    class Nothing(Invariance):
        cost = subjects = sentence = name = None

    with pytest.raises(NotImplementedError):
        Nothing().compared([None])
