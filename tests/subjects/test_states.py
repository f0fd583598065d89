"""States inside a model: against hooks written by hand, on both paths, and never at the price of a bit."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.states import by_token

PROMPT = "The capital of France is"
SITES = ["embed", "block:0", "block:2", "pre_norm", "post_norm", "logits", "module:model.layers.1.mlp.gate_proj"]


@pytest.fixture(scope="module")
def loaded():
    return sk.load("tiny")


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("prefill", 3), ("decode", 4)])
def test_each_state_is_that_of_the_subject_with_this_site(loaded, path, batch):
    """One forward with all hooks gives the bits of seven forwards with one site each."""
    subject = sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch)
    X = subject.copies(batch) * torch.linspace(0.5, 2, batch)[:, None]
    found = subject.states(X, SITES)
    assert list(found) == SITES
    for site in SITES:
        alone = sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch, site=site).evaluate(X)
        assert bits_equal(found[site], alone), site


def test_whole_states_hold_every_token_that_was_run(loaded):
    prefill = sk.CausalLMSubject(loaded, PROMPT)
    whole = prefill.states(prefill.copies(1), ["block:1"], whole=True)["block:1"]
    assert bits_equal(whole, prefill.stopped_after(prefill.copies(1), 2))
    decode = sk.CausalLMSubject(loaded, PROMPT, path="decode")
    assert decode.states(decode.copies(1), ["block:1"], whole=True)["block:1"].shape == (1, 1, 64)


def test_a_state_is_a_copy(loaded):
    """A hook that keeps references would show what a later operation in place wrote."""
    subject = sk.CausalLMSubject(loaded, PROMPT)
    norm = subject.anatomy.final_norm
    handle = norm.register_forward_pre_hook(lambda _m, args: args[0].mul_(2) is None or None)
    try:
        found = subject.states(subject.copies(1), ["block:2"])["block:2"]
    finally:
        handle.remove()
    assert bits_equal(found, subject.stopped_after(subject.copies(1), 3)[:, -1])


def test_what_has_no_vector_a_token_is_left_out(loaded):
    subject = sk.CausalLMSubject(loaded, PROMPT)
    assert list(subject.states(subject.copies(1), ["module:model.layers"])) == []
    assert by_token(torch.zeros(6, 5), 2, 3).shape == (2, 3, 5)
    assert by_token(torch.zeros(2, 3, 4, 5), 2, 3).shape == (2, 3, 20)
    assert by_token(torch.zeros(2, 4, 5), 2, 3) is None
    assert by_token(torch.zeros(7), 2, 3) is None


def test_the_routers_rows_are_those_of_the_last_token():
    subject = sk.CausalLMSubject(sk.load("tiny:mixtral"), PROMPT)
    name = "module:model.layers.0.mlp.gate"
    read = subject.states(subject.copies(1), [name])[name]
    assert read.shape == (1, 4)


def test_all_rows_move_the_whole_prompt(loaded):
    """rows="all": x is the prompt; the last row of its Jacobian's columns is that of rows="last"."""
    all_rows = sk.CausalLMSubject(loaded, PROMPT, rows="all", batch=2)
    last = sk.CausalLMSubject(loaded, PROMPT)
    assert all_rows.x0.numel() == len(PROMPT) * 64
    assert bits_equal(all_rows.with_batch(1).baseline, last.baseline)
    U = torch.eye(64)[:3]
    assert torch.allclose(all_rows.vjp(U)[:, -64:], last.vjp(U), atol=1e-5)
    assert float(all_rows.vjp(U)[:, :-64].abs().max()) > 0
    assert all_rows.screens
    with pytest.raises(sk.UsageError, match="prefill"):
        sk.CausalLMSubject(loaded, PROMPT, rows="all", path="decode")
    with pytest.raises(sk.UsageError, match="rows 'first' is not one of last, all"):
        sk.CausalLMSubject(loaded, PROMPT, rows="first")
