"""Logits of known states: those that the model itself gives for them, and no forward for it."""

import pytest
import torch

from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.head import logit_changes
from stabilitykit.subjects.models import load

IDS = [(7 * i + 3) % 258 for i in range(6)]


@pytest.fixture(scope="module")
def loaded():
    return load("tiny:llama")


def inputs(subject, count):
    generator = torch.Generator().manual_seed(count)
    far = torch.where(torch.arange(count) % 2 == 0, 1.0, 1e-6)[:, None]
    return subject.x0 + far * torch.randn(count, subject.x0.numel(), generator=generator)


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 3)])
def test_changes_are_those_of_the_models_own_logits(loaded, path, batch):
    subject = CausalLMSubject(loaded, IDS, path=path, batch=batch)
    X = inputs(subject, 5)
    slots = [place % batch for place in range(5)]
    states = subject(X)
    forwards = subject.counter.forwards
    found = logit_changes(subject, states, slots)
    assert subject.counter.forwards == forwards + batch, "only the baseline, which nobody had asked for"
    own = CausalLMSubject(loaded, IDS, path=path, batch=batch, site="logits")
    L, L0 = own(X).double(), own.baseline.double()[slots]
    assert [change for change, _ in found] == pytest.approx((L - L0).abs().amax(dim=1).tolist(), abs=1e-6)
    assert [moved for _, moved in found] == (L.argmax(dim=1) != L0.argmax(dim=1)).tolist()
    assert {moved for _, moved in found} == {True, False}
    assert logit_changes(own, own(X), slots) == found


def test_each_output_is_compared_in_its_own_slot(loaded):
    """Slot 1 was given another baseline on purpose: whoever compares with slot 0's sees a change."""
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=2)
    subject.baseline[1] = subject(inputs(subject, 1))[0]
    found = logit_changes(subject, subject.baseline[[1, 0, 1]].clone(), [1, 0, 1])
    assert found == [(0.0, False)] * 3
    crossed = logit_changes(subject, subject.baseline[[0]].clone(), [1])
    assert crossed[0][0] > 0


def test_no_boundary_no_change(loaded):
    assert logit_changes(CausalLMSubject(loaded, IDS), torch.empty(0, 64), []) == []


def test_what_the_head_does_not_read_has_no_logits(loaded):
    for site in ("block:0", "pre_norm"):
        subject = CausalLMSubject(loaded, IDS, site=site)
        assert logit_changes(subject, subject.baseline, [0]) is None
    function = FunctionSubject(lambda X: X, torch.ones(3))
    assert logit_changes(function, function.baseline, [0]) is None
