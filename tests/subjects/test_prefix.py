"""The prefix cache: handed out as new whatever the last user did to it, and copied where sharing would lie."""

from types import SimpleNamespace

import pytest
import torch
from oracles.cache_name import ATTENTION, STATE_SPACE
from transformers import DynamicCache

from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.prefix import Prefix, state_digest

IDS = [(7 * i + 3) % 258 for i in range(12)]  # longer than the sliding windows of 8
FAMILIES = ["llama", "gemma2", "zamba2", "mamba"]  # concatenation; sliding window; states written in place


def subject_of(family, batch=1, **options):
    return CausalLMSubject(load(f"tiny:{family}"), IDS, path="decode", batch=batch, **options)


def full(subject):
    return digest(subject.evaluate(subject.copies(subject.batch)))


def stopped(subject, blocks):
    return digest(subject.first_blocks(subject.copies(subject.batch), blocks))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_stopped_and_whole_forwards_do_not_touch_each_other(family, batch):
    untouched = full(subject_of(family, batch))
    parts = {k: stopped(subject_of(family, batch), k) for k in (1, 2)}
    subject = subject_of(family, batch)
    assert stopped(subject, 1) == parts[1]
    assert full(subject) == untouched
    assert stopped(subject, 2) == parts[2]
    assert stopped(subject, 1) == parts[1]
    assert full(subject) == untouched
    assert subject.prefix(batch).intact()


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_is_plain_transformers_with_a_fresh_cache(family):
    """The oracle builds its cache anew for every call and shares nothing."""
    loaded = load(f"tiny:{family}")
    E = loaded.model.get_input_embeddings()(torch.tensor([IDS, IDS]))
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=2)
    name = STATE_SPACE if family == "mamba" else ATTENTION
    for scale in (1.0, 0.5, 1.0):
        with torch.no_grad():
            past = loaded.model.base_model(inputs_embeds=E[:, :-1], use_cache=True)[name]
            last = loaded.model.base_model(inputs_embeds=scale * E[:, -1:], **{name: past}, use_cache=True)
        assert bits_equal(subject.evaluate(scale * subject.copies(2)), last.last_hidden_state[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_in_the_middle_of_a_forward_leaves_the_next_result_right(family):
    subject = subject_of(family)
    right = full(subject)

    def fail(*_):
        raise ValueError("a user's hook")

    handle = subject.anatomy.blocks[2].register_forward_hook(fail)
    with pytest.raises(ValueError, match="a user's hook"):
        full(subject)
    handle.remove()
    assert full(subject) == right
    assert subject.prefix(1).intact()


def test_an_error_while_the_prefix_is_built_leaves_nothing_half_built():
    subject = subject_of("llama")
    right = digest(subject.evaluate(subject.copies(4)))
    subject._prefixes.clear()

    def fail(*_):
        raise ValueError("a user's hook")

    handle = subject.anatomy.blocks[1].register_forward_hook(fail)
    with pytest.raises(ValueError, match="a user's hook"):
        subject.evaluate(subject.copies(4))
    handle.remove()
    assert digest(subject.evaluate(subject.copies(4))) == right


@pytest.mark.parametrize(
    ("family", "shared"), [("llama", True), ("gemma2", True), ("gpt2", True), ("zamba2", False), ("mamba", False)]
)
def test_sharing_is_seen_not_believed(family, shared):
    subject = subject_of(family)
    assert subject.prefix(1).shared is shared
    assert subject.proofs.cache_shared is shared
    assert len({full(subject) for _ in range(3)}) == 1
    assert subject.prefix(1).intact()


def test_a_shared_cache_is_not_copied():
    subject = subject_of("llama")
    prefix = subject.prefix(1)
    ours, theirs = prefix._cache.layers, prefix.fresh().layers
    assert all(one is not other for one, other in zip(ours, theirs, strict=True))
    assert all(one.keys is other.keys for one, other in zip(ours, theirs, strict=True))


def test_planted_sharing_of_states_written_in_place_gives_wrong_bits():
    subject = subject_of("zamba2")
    right = full(subject)
    subject.prefix(1).shared = True
    wrong = [full(subject), full(subject)]
    assert wrong[1] != right
    assert not subject.prefix(1).intact()


def test_a_fresh_cache_has_the_length_of_the_prefix_every_time():
    subject = subject_of("gemma2")
    for _ in range(2):
        cache = subject.prefix(1).fresh()
        assert isinstance(cache, DynamicCache)
        assert cache.get_seq_length() == len(IDS) - 1
        full(subject)


def test_settling_puts_the_copy_in_place_of_what_sharing_has_spoilt():
    state = torch.zeros(3)
    prefix = Prefix(SimpleNamespace(states=[state]))
    original = SimpleNamespace(states=[state.clone()])
    assert prefix.fresh().states[0] is state
    state.add_(1)
    assert not prefix.intact()
    assert prefix.settle(original) is False
    assert prefix.intact()
    prefix.fresh().states[0].add_(1)
    assert prefix.intact()


def test_settling_keeps_sharing_what_was_left_alone():
    state = torch.zeros(3)
    prefix = Prefix(SimpleNamespace(states=[state]))
    assert prefix.settle(SimpleNamespace(states=[state.clone()])) is True
    assert prefix.fresh().states[0] is state


def test_the_digest_reaches_every_tensor_a_cache_can_hide():
    def cache():
        inner = SimpleNamespace(conv={0: torch.zeros(2), "k": [torch.zeros(2)]}, seen=3)
        outer = SimpleNamespace(layers=[(torch.zeros(2), torch.zeros(2))], inner=inner)
        inner.parent = outer  # a cycle
        return outer

    def places(one):
        return [*one.layers[0], one.inner.conv[0], one.inner.conv["k"][0]]

    plain = state_digest(cache())
    assert state_digest(cache()) == plain
    digests = set()
    for place in range(4):
        changed = cache()
        places(changed)[place][1] = 1
        digests.add(state_digest(changed))
    assert len(digests | {plain}) == 5
