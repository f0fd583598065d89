"""The same function at another last embedding: same bits as a subject of that token, and nothing stale kept."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.numerics.bits import bits_equal, nudge

PROMPT, OTHER = [7, 8, 9, 10], [7, 8, 9, 200]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2", "mixtral"])
def loaded(request):
    return sk.load(f"tiny:{request.param}")


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 1), ("decode", 3)])
@pytest.mark.parametrize("site", ["post_norm", "logits"])
def test_at_another_tokens_embedding_it_is_that_tokens_subject(loaded, path, batch, site):
    """Outputs, states, products, float64 and noise agree bit for bit with a subject that was made of that token."""
    here = sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch, site=site)
    before, screens, floor = here.baseline.clone(), here.screens, here.noise_floor()
    other = sk.CausalLMSubject(loaded, OTHER, path=path, batch=batch, site=site)
    there = here.at(other.x0)
    assert bits_equal(there.baseline, other.baseline)
    assert bits_equal(there.baseline_state, other.baseline_state)
    assert there.screens == other.screens
    U = torch.ones(1, here.baseline.shape[1])
    assert bits_equal(there.vjp(U), other.vjp(U))
    assert there.noise_floor() == other.noise_floor()
    assert not bits_equal(here.baseline, there.baseline)
    assert bits_equal(here.baseline, before)
    assert here.screens == screens
    assert here.noise_floor() == floor


def test_it_is_counted_with_its_origin_and_keeps_its_own_input(loaded):
    """One counter; a later write into the given vector does not reach it."""
    here = sk.CausalLMSubject(loaded, PROMPT, path="decode")
    x = nudge(here.x0, 1)
    there = here.at(x)
    x.zero_()
    assert bits_equal(there.x0, nudge(here.x0, 1))
    assert there.counter is here.counter


def test_float64_twin_is_that_of_the_new_input(loaded):
    """The oracle starts from the moved embedding, widened."""
    here = sk.CausalLMSubject(loaded, PROMPT, site="logits")
    there = here.at(sk.CausalLMSubject(loaded, OTHER).x0)
    exact = sk.CausalLMSubject(loaded, OTHER, site="logits").in_float64()
    assert bits_equal(there.in_float64().baseline, exact.baseline)


def test_description_says_that_the_input_is_no_tokens():
    """And does not say so at the token's own embedding, whose description keeps every word."""
    here = sk.CausalLMSubject(sk.load("tiny"), PROMPT)
    assert "input" not in here.describe()
    there = here.at(nudge(here.x0, 1))
    assert there.describe()["input"] == "not a token's embedding"
    assert there.describe()["x0_digest"] != here.describe()["x0_digest"]
    assert here.at(here.x0).describe() == here.describe()
    assert there.at(here.x0).describe() == here.describe()


def test_other_batch_site_and_lengths_keep_the_embedding():
    """What is proved again from the prompt is moved again; a cut prompt ends in the moved embedding."""
    here = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode")
    there = here.at(nudge(here.x0, 1))
    assert bits_equal(there.with_batch(3).x0, there.x0)
    assert bits_equal(there.with_site("logits").x0, there.x0)
    assert there.with_site("logits").baseline.shape == (1, 258)
    assert all(bits_equal(one.x0, there.x0) for one in there.relatives((2, 4)))
    assert [one.describe()["input"] for one in there.relatives((2,))] == ["not a token's embedding"] * 2


def test_singular_vectors_are_those_of_the_new_input():
    """They are kept by description, so a moved subject has its own."""
    here = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode")
    there = here.at(sk.CausalLMSubject(sk.load("tiny"), OTHER).x0)
    first = sk.singular_vectors(here, 1)[0]
    assert not bits_equal(first, sk.singular_vectors(there, 1)[0])
    assert bits_equal(first, sk.singular_vectors(here, 1)[0])


def test_a_whole_prompt_can_be_moved_but_has_no_other_lengths():
    """rows="all" takes (T*H,) and equals the prompt of those tokens; cutting it would leave nothing to move."""
    loaded = sk.load("tiny")
    here = sk.CausalLMSubject(loaded, PROMPT, rows="all")
    other = sk.CausalLMSubject(loaded, OTHER, rows="all")
    there = here.at(other.x0)
    assert bits_equal(there.baseline, other.baseline)
    with pytest.raises(sk.UnsupportedError, match="no other lengths"):
        list(there.relatives((2,)))


def test_what_is_no_input_is_refused():
    """Another shape, another dtype, a NaN."""
    here = sk.CausalLMSubject(sk.load("tiny"), PROMPT)
    with pytest.raises(sk.UsageError, match=r"x is \(3,\) float32; this subject takes \(64,\) float32"):
        here.at(torch.ones(3))
    with pytest.raises(sk.UsageError, match="float64"):
        here.at(here.x0.double())
    with pytest.raises(sk.InvalidError, match="nan"):
        here.at(torch.full_like(here.x0, float("nan")))


def test_moved_lanes_are_proved_where_they_are():
    """A model that mixes its lanes only away from the token's embedding is found out by `at`, not by construction."""
    loaded = sk.load("tiny")
    here = sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=4)
    far = here.x0 * 64

    def mix(_module, _args, output):
        return output + output.mean(0, keepdim=True) * (output.abs().amax() > 100).to(output)

    handle = here.anatomy.blocks[0].register_forward_hook(mix)
    try:
        assert here.at(here.x0).proofs.note == ""
        assert "lanes" in here.at(far * 1e3).proofs.note
        assert here.at(far * 1e3, proved=False).proofs.note == ""
    finally:
        handle.remove()


def test_a_function_is_moved_with_its_parts():
    """The first stage, the float64 twin and the counter come along; a module tied to its call does not move."""
    subject = sk.FunctionSubject(lambda X: X**2, torch.ones(2), first=lambda X: X * 2, exact=lambda X: X**2)
    there = subject.at(torch.tensor([3.0, 4.0]))
    assert there.baseline.tolist() == [[9.0, 16.0]]
    assert there.baseline_state.tolist() == [[6.0, 8.0]]
    assert there.in_float64().baseline.tolist() == [[9.0, 16.0]]
    assert there.counter is subject.counter
    with pytest.raises(sk.UsageError, match=r"\(3,\)"):
        subject.at(torch.ones(3))
    module = sk.ModuleSubject(sk.CausalLMSubject(sk.load("tiny"), PROMPT), "model.layers.0.mlp")
    with pytest.raises(sk.UnsupportedError, match="tied to its own input"):
        module.at(module.x0)
