"""What modules were given and returned: run again alone, the same bits; anything else is left out."""

import pytest

import stabilitykit as sk
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.calls import recorded

IDS = list(range(3, 15))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba", "opt"])
def test_every_recorded_module_run_again_gives_the_same_bits(family):
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS)
    stem = subject.anatomy.block_names[1]
    names = [stem, *(f"{stem}.{name}" for name, _ in subject.model.get_submodule(stem).named_children())]
    calls = recorded(subject, subject.x0, names)
    assert list(calls) == names
    inside = subject.states(subject.copies(1), [f"module:{name}" for name in names], whole=True)
    for name in names:
        call = calls[name]
        assert call.entered.shape[0] == call.left.shape[0] == len(IDS)
        assert bits_equal(call.left, inside[f"module:{name}"][0])
        assert bits_equal(call.again(subject, subject.model.get_submodule(name), call.entered), call.left), name


def test_a_module_run_again_on_another_state_answers_for_that_state():
    subject = sk.CausalLMSubject(sk.load("tiny"), IDS)
    name = "model.layers.1"
    calls = recorded(subject, subject.x0, [name])
    x = subject.x0 * 1.5
    moved = recorded(subject, x, [name])
    state = subject.states(x[None], ["block:0"], whole=True)["block:0"][0]
    assert bits_equal(calls[name].again(subject, subject.model.get_submodule(name), state), moved[name].left)


def test_a_decode_subject_is_recorded_on_the_whole_prompt():
    loaded = sk.load("tiny")
    decode, prefill = (sk.CausalLMSubject(loaded, IDS, path=path) for path in ("decode", "prefill"))
    a, b = (recorded(one, one.x0, ["model.layers.0"])["model.layers.0"].left for one in (decode, prefill))
    assert bits_equal(a, b)


def test_what_is_not_called_once_with_a_vector_a_token_is_left_out():
    subject = sk.CausalLMSubject(sk.load("tiny:mixtral"), IDS)
    assert list(recorded(subject, subject.x0, ["model.layers", "model.layers.0.mlp.experts.act_fn", "model.norm"])) == [
        "model.norm"
    ]
    model = sk.load("tiny").model
    model.model.layers[1] = model.model.layers[0]
    twice = sk.CausalLMSubject(sk.adopt(model), IDS)
    assert list(recorded(twice, twice.x0, ["model.layers.0", "model.layers.2"])) == ["model.layers.2"]


def test_recordings_are_copies_and_leave_no_hook():
    subject = sk.CausalLMSubject(sk.load("tiny"), IDS)
    norm = subject.anatomy.final_norm
    handle = norm.register_forward_pre_hook(lambda _m, args: args[0].mul_(2) is None or None)
    seen = recorded(subject, subject.x0, ["model.layers.2", "model.norm"])
    handle.remove()
    assert bits_equal(2 * seen["model.layers.2"].left, seen["model.norm"].entered)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
