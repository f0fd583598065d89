"""A module alone, at its true input: against the model it was taken from."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.module_subject import ModuleSubject

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def parent():
    return sk.CausalLMSubject(sk.load("tiny"), PROMPT)


@pytest.mark.parametrize("name", ["model.layers.1", "model.layers.0.self_attn", "model.layers.2.mlp.down_proj"])
def test_it_answers_as_the_module_does_inside_the_model(parent, name):
    module = ModuleSubject(parent, name)
    inside = parent.states(parent.copies(1), [f"module:{name}"])[f"module:{name}"]
    assert bits_equal(module.baseline, inside)


def test_a_block_reacts_as_it_does_when_the_model_is_run(parent):
    """Block 1 alone on block 0's perturbed state gives what the model gives for the perturbed embedding."""
    X = parent.x0[None] * 1.5
    sites = parent.states(X, ["block:0", "block:1"])
    block = ModuleSubject(parent, parent.anatomy.block_names[1])
    assert bits_equal(block.evaluate(sites["block:0"]), sites["block:1"])


def test_a_linear_module_has_its_weight_as_derivative(parent):
    module = ModuleSubject(parent, "model.layers.0.mlp.up_proj")
    weight = module.module.weight
    assert torch.allclose(module.vjp(torch.eye(len(weight))), weight, atol=1e-6)
    assert torch.allclose(module.jvp(torch.eye(64)), weight.T, atol=1e-6)
    assert torch.allclose(module.baseline[0], weight @ module.x0, atol=1e-6)


def test_rows_of_a_batch_are_the_module_of_each_row(parent):
    module = ModuleSubject(parent, "model.layers.0.mlp", batch=4)
    X = module.copies(4) * torch.tensor([1.0, 2.0, -1.0, 0.5])[:, None]
    alone = torch.cat([module.with_batch(1).evaluate(x[None]) for x in X])
    assert torch.allclose(module.evaluate(X), alone, rtol=1e-4, atol=1e-5)
    assert module.with_batch(2).baseline.shape == (2, 64)


def test_flattened_rows_and_tokens_are_told_apart():
    """The router of a mixture sees (B*T, H)."""
    parent = sk.CausalLMSubject(sk.load("tiny:mixtral"), PROMPT)
    router = ModuleSubject(parent, "model.layers.0.mlp.gate", batch=2)
    assert torch.allclose(router.baseline[0], router.module.weight @ router.x0, atol=1e-6)


@pytest.mark.parametrize("family", ["mamba", "zamba2", "gpt_oss"])
def test_modules_that_other_architectures_call_in_their_own_ways_are_isolated(family):
    parent = sk.CausalLMSubject(sk.load(f"tiny:{family}"), PROMPT)
    for name in (parent.anatomy.block_names[1], parent.anatomy.final_norm_name):
        module = ModuleSubject(parent, name, batch=2)
        slopes = module.in_float64().jvp(torch.eye(2, 64, dtype=torch.float64))
        assert float((module.jvp(torch.eye(2, 64)) - slopes).norm() / slopes.norm()) < 1e-4


def test_slots_may_be_given_different_bits():
    """Planted: each slot's state leaves block 0 with a millionth of its own; block 1 is no less a function of it."""
    loaded = sk.load("tiny")
    handle = loaded.model.model.layers[0].register_forward_hook(
        lambda _m, _a, state: state * (1 + 1e-6 * torch.arange(len(state))[:, None, None])
    )
    parent = sk.CausalLMSubject(loaded, PROMPT, batch=3)
    module = ModuleSubject(parent, "model.layers.1", batch=3)
    handle.remove()
    assert bits_equal(module.baseline[0], ModuleSubject(parent, "model.layers.1", batch=3).baseline[0])


def test_what_is_no_function_of_one_state_is_refused(parent):
    with pytest.raises(sk.UsageError, match="no module 'nowhere'"):
        ModuleSubject(parent, "nowhere")
    mixture = sk.CausalLMSubject(sk.load("tiny:mixtral"), PROMPT)
    with pytest.raises(sk.UnsupportedError, match="no vector a token"):
        ModuleSubject(mixture, "model.layers.0.mlp.experts.act_fn")
    with pytest.raises(sk.UnsupportedError, match="run 0 times"):
        ModuleSubject(parent, "model.layers")


def test_a_module_with_a_state_of_its_own_is_refused():
    """The planted defect: a module that returns something else each time it is called."""
    model = sk.load("tiny").model
    parent, mlp = sk.CausalLMSubject(sk.adopt(model), list(PROMPT.encode())), model.model.layers[0].mlp
    calls = []
    mlp.register_forward_hook(lambda _m, _a, output: output * (1 + len(calls.append(0) or calls)))
    with pytest.raises(sk.UnsupportedError, match="other bits"):
        ModuleSubject(parent, "model.layers.0.mlp")
