"""Where a relative stands, which numbers of threads and lengths are tried, and that cases must be named."""

import os

import pytest
import torch

from stabilitykit.errors import UsageError
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


@pytest.mark.parametrize("lengths", [(), (0,), (3, 0)])
def test_a_number_of_threads_is_tried_with_prompts_of_at_least_one_token(lengths):
    assert ThreadInvariance(lengths=(1,)).lengths == (1,)
    with pytest.raises(UsageError, match="a prompt has at least 1 token"):
        ThreadInvariance(lengths=lengths)


def test_a_subclass_that_names_no_cases_is_told_at_once():
    class Nothing(Invariance):
        cost = subjects = sentence = name = None

    with pytest.raises(NotImplementedError):
        Nothing().compared([None])
