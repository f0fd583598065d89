"""What a subject proves about itself, with a planted model for every way the proof must fail."""

from contextlib import contextmanager

import pytest
import torch
from oracles.cache_name import ATTENTION

from stabilitykit.errors import InvalidError, UnsupportedError
from stabilitykit.faults.planted import planted
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.determinism import RunToRun
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects import proofs
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load

IDS = [(7 * i + 3) % 258 for i in range(12)]
FAMILIES = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "mixtral"]


@contextmanager
def hooked(module, hook):
    handle = module.register_forward_hook(lambda _module, _args, output: hook(output))
    try:
        yield
    finally:
        handle.remove()


class Counting:
    """Adds a tiny value that grows with every call."""

    def __init__(self, every=1):
        self.calls, self.every = 0, every

    def __call__(self, state):
        self.calls += 1
        return state + 1e-3 * (self.calls // self.every)


# --- clean models pass


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_six_families_prove_themselves(family, path, batch):
    proved = CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=batch).proofs
    assert proved.ids_equal_embeddings
    assert proved.repeatable
    assert proved.lanes_independent
    assert proved.draws == (0 if batch == 1 else proofs.DRAWS)
    assert proved.cache_shared is (None if path == "prefill" else True)
    assert (proved.note == "") == ((family, path, batch) != ("mixtral", "decode", 6))


# --- ids and embeddings


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_model_that_reads_its_ids_again_is_refused(path):
    """Gemma 3n looks up per-layer embeddings by token id: measured, its logits from embeddings differ by over 1."""
    with pytest.raises(UnsupportedError, match="its input is more than the embedding") as refusal:
        CausalLMSubject(load("tiny:gemma3n"), IDS, path=path)
    assert "\n" not in str(refusal.value)


def test_a_model_whose_embedding_misses_one_bit_is_refused():
    """Planted: the model's own lookup gives another bit than the embedding module, in one token."""
    loaded = load("tiny:llama")
    model = loaded.model
    forward = model.forward

    def through_ids(input_ids=None, inputs_embeds=None, **options):
        if input_ids is not None:
            inputs_embeds = model.get_input_embeddings()(input_ids)
            inputs_embeds[0, 3, 5] *= 1 + 2.0**-20
        return forward(inputs_embeds=inputs_embeds, **options)

    model.forward = through_ids
    with pytest.raises(UnsupportedError, match="differ from logits from ids"):
        CausalLMSubject(loaded, IDS)
    model.forward = forward
    assert CausalLMSubject(loaded, IDS).proofs.ids_equal_embeddings


# --- repeatability


def test_noise_that_begins_late_is_noise_and_no_second_input():
    """Planted: from the second forward of the prompt on, products are narrow. Unsupported would have been a skip."""
    with planted("tf32@from-the-second"), pytest.raises(InvalidError, match="its logits differ between two equal"):
        CausalLMSubject(load("tiny:llama"), IDS, path="decode")
    with planted("tf32@from-the-second"):
        noisy = CausalLMSubject(load("tiny:llama"), IDS, path="decode", allow_noise=True)
    assert not noisy.proofs.repeatable


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_noise_is_refused_with_the_way_to_measure_it(path):
    loaded = load("tiny:llama")
    with (
        hooked(loaded.model.model.layers[1], Counting()),
        pytest.raises(InvalidError, match="2 of 2 rows differ between two equal calls") as refusal,
    ):
        CausalLMSubject(loaded, IDS, path=path, batch=2)
    assert "only RunToRun is meaningful: pass allow_noise=True for it" in str(refusal.value)
    assert "[float32, " + path in str(refusal.value)


def test_allowed_noise_is_measured_and_not_called_a_pass():
    loaded = load("tiny:llama")
    with hooked(loaded.model.model.layers[1], Counting()):
        subject = CausalLMSubject(loaded, IDS, batch=2, allow_noise=True)
        assert not subject.proofs.repeatable
        assert not subject.proofs.lanes_independent
        assert not subject.proofs.ids_equal_embeddings
        assert subject.proofs.note == "equal calls differ"
        result = RunToRun(runs=7).measure(subject)
    assert result.verdict == "differs"
    assert result.readings["differing_runs"].value == 7
    assert result.readings["distinct_outputs"].value == 8
    assert result.readings["differing_bits"].value > 100


def test_rare_noise_is_counted_run_by_run():
    loaded = load("tiny:llama")
    noise = Counting(every=4)
    with hooked(loaded.model.model.layers[1], noise):
        subject = CausalLMSubject(loaded, IDS, allow_noise=True)
        noise.calls = -1  # the first run is call 0, so runs 4, 5, 6, 7 and 8 differ from it
        result = RunToRun(runs=8).measure(subject)
    assert [row["differs"] for row in result.rows] == [False] * 3 + [True] * 5
    assert result.readings["differing_runs"].value == 5
    assert result.readings["distinct_outputs"].value == 3


def test_the_clean_twin_of_the_noisy_model_passes():
    loaded = load("tiny:llama")
    with hooked(loaded.model.model.layers[1], lambda state: state + 1e-3):
        result = RunToRun(runs=3).measure(CausalLMSubject(loaded, IDS, batch=2))
    assert result.verdict == "pass"


# --- lanes


def mixes_nothing(subject):
    return proofs.lanes_independent(subject, subject.evaluate(subject.copies(subject.batch)))


def test_mixtral_mixes_its_lanes_and_is_measured_with_other_experts():
    """Its grouped experts sort the rows of all lanes together, so a lane's bits depend on its neighbours."""
    loaded = load("tiny:mixtral")
    users = loaded.model.config._experts_implementation
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=6)
    assert subject.proofs.note == f"lanes mix under the model's experts; measured with {subject.experts}"
    assert subject.experts not in (None, users)
    assert subject.describe()["experts"] == subject.experts
    assert subject.batch == 6
    assert mixes_nothing(subject)
    subject.experts = None
    assert not mixes_nothing(subject), "the planted negative no longer mixes"
    assert loaded.model.config._experts_implementation == users


def test_the_chosen_experts_also_compute_the_prefix():
    loaded = load("tiny:mixtral")
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=6)
    users = loaded.model.config._experts_implementation
    loaded.model.set_experts_implementation(subject.experts)
    E = loaded.model.get_input_embeddings()(torch.tensor([IDS])).repeat(6, 1, 1)
    with torch.no_grad():
        past = loaded.model.base_model(inputs_embeds=E[:, :-1], use_cache=True)[ATTENTION]
        last = loaded.model.base_model(inputs_embeds=E[:, -1:], **{ATTENTION: past}, use_cache=True)
    loaded.model.set_experts_implementation(users)
    assert bits_equal(subject.baseline, last.last_hidden_state[:, -1])


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_lanes_that_mix_fall_back_to_a_batch_of_one(path):
    loaded = load("tiny:llama")
    with hooked(loaded.model.model.layers[1], lambda state: state + 1e-7 * state.mean(dim=0, keepdim=True)):
        subject = CausalLMSubject(loaded, IDS, path=path, batch=6)
        assert subject.proofs.note == "lanes of a batch of 6 see each other; measured at batch 1"
        assert subject.batch == 1
        assert subject.proofs.draws == 0
        assert subject.describe()["batch"] == 1
        assert bits_equal(subject.baseline, CausalLMSubject(loaded, IDS, path=path).baseline)


def test_a_mixture_that_no_experts_can_help_gets_its_own_back():
    loaded = load("tiny:mixtral")
    with hooked(loaded.model.model.layers[1], lambda state: state + 1e-7 * state.mean(dim=0, keepdim=True)):
        subject = CausalLMSubject(loaded, IDS, path="decode", batch=6)
        assert (subject.batch, subject.experts) == (1, None)
        assert bits_equal(subject.baseline, CausalLMSubject(loaded, IDS, path="decode").baseline)


def test_one_lane_that_sees_one_neighbour_is_enough():
    """Only the last row hears of the first: equal rows would hide it, and so would a lane proof of one draw."""

    def whisper(state):
        state = state.clone()
        state[-1] += 1e-6 * (state[0] - state[-1])
        return state

    loaded = load("tiny:llama")
    with hooked(loaded.model.model.layers[1], whisper):
        assert CausalLMSubject(loaded, IDS, path="decode", batch=3).batch == 1


def test_slots_may_differ_as_long_as_each_keeps_its_own_bits():
    loaded = load("tiny:llama")
    with hooked(loaded.model.model.layers[1], lambda s: s + 1e-3 * torch.arange(len(s))[:, None, None]):
        subject = CausalLMSubject(loaded, IDS, batch=4)
        assert subject.batch == 4
        assert subject.proofs.lanes_independent
        assert not subject.proofs.slots_equal
        assert not bits_equal(subject.baseline[0], subject.baseline[3])
    assert CausalLMSubject(loaded, IDS, batch=4).proofs.slots_equal


def test_crowds_hold_x0_and_strangers():
    subject = CausalLMSubject(load("tiny:llama"), IDS, batch=8)
    masks = []
    for seed in range(proofs.DRAWS):
        X, kept = proofs._crowd(subject, seed)
        same = (subject.x0 == X).all(dim=1)
        assert kept.any()
        assert bool(same[kept].all())
        assert not bool(same[~kept].any())
        masks.append(tuple(kept.tolist()))
    assert len(set(masks)) > 1
    assert any(not all(mask) for mask in masks)


# --- the swap proof


@pytest.mark.parametrize(("family", "holds"), [("llama", True), ("gemma2", True), ("mixtral", True), ("zamba2", False)])
@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_the_swap_proof_knows_who_reads_the_input_again(family, holds, path):
    """Zamba 2 feeds the embedding to every shared attention block."""
    assert CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=3).screens is holds


@contextmanager
def rereading(model, scale):
    """The last block adds the first block's input again: what block 0 hides from the output, this shows."""
    seen = []
    layers = model.model.layers
    first = layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        with hooked(layers[-1], lambda state: state + scale * seen[-1]):
            yield
    finally:
        first.remove()


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_model_that_reads_its_input_again_is_never_screened(path):
    loaded = load("tiny:llama")
    with rereading(loaded.model, 1e-3):
        subject = CausalLMSubject(loaded, IDS, path=path, batch=2)
        assert not subject.screens
        FirstChange(direction=torch.eye(2, 64)).measure(subject)
        assert subject.counter.screened == 0
        assert subject.counter.forwards > 0
    twin = CausalLMSubject(loaded, IDS, path=path, batch=2)
    FirstChange(direction=torch.eye(2, 64)).measure(twin)
    assert twin.screens
    assert twin.counter.screened > 0


def test_a_screen_that_lies_would_be_caught_by_the_proof():
    """Block 0 forgets the last token and the last block reads it again: by its state alone nothing ever changes."""

    def forget(state):
        state = state.clone()
        state[:, -1] = 0.5
        return state

    loaded = load("tiny:llama")
    with rereading(loaded.model, 1.0), hooked(loaded.model.model.layers[0], forget):
        subject = CausalLMSubject(loaded, IDS)
        direction = torch.zeros(64)
        direction[3] = 1
        found = FirstChange(direction=direction).measure(subject)
        assert not subject.screens
        assert found.readings["censored"].value == 0
        subject.screens = True  # what the proof forbids
        blind = FirstChange(direction=direction, max_cells=50).measure(subject)
        assert blind.readings["censored"].value == 1


def test_a_perturbation_that_nothing_notices_proves_nothing():
    """A constant output survives every swap, and must not count as a proof."""
    loaded = load("tiny:llama")
    with hooked(loaded.model.model.norm, lambda state: torch.ones_like(state)):
        assert not CausalLMSubject(loaded, IDS).screens


@pytest.mark.parametrize("site", ["embed", "module:model.layers.1"])
def test_sites_that_the_proof_does_not_speak_of_are_not_screened(site):
    assert not CausalLMSubject(load("tiny:llama"), IDS, site=site).screens
