"""What a recording holds, against an independent loop; and that listening which changes a bit is refused."""

import hashlib

import numpy as np
import pytest
import torch
from oracles.cache_name import ATTENTION

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnsupportedError, UsageError

PROMPT = "abc"


def loop(loaded, ids, tokens):
    """Greedy decoding with the cache, by hand: tokens, logits, and every block's output, in float64 where compared."""
    kept, said, logits = [], [], []

    def keep(_module, _args, output):
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    hooks = [layer.register_forward_hook(keep) for layer in loaded.model.model.layers]
    cache, fresh = None, list(ids)
    with torch.no_grad():
        for _ in range(tokens):
            out = loaded.model(torch.tensor([fresh]), use_cache=True, logits_to_keep=1, **{ATTENTION: cache})
            cache, row = out[ATTENTION], out.logits[0, -1]
            said.append(int(row.argmax()))
            logits.append(row.clone())
            fresh = said[-1:]
    for hook in hooks:
        hook.remove()
    return said, logits, [kept[k : k + len(hooks)] for k in range(0, len(kept), len(hooks))]


def hashed(tensor):
    head = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}\n".encode()
    return hashlib.sha256(head + tensor.contiguous().view(torch.uint8).numpy().tobytes()).digest()[:16]


def test_everything_in_a_recording_is_what_a_loop_by_hand_finds(tiny):
    made = sk.record(tiny, [PROMPT], 4, level="block", states="blocks", top=5)
    one = made.generations[0]
    said, logits, blocks = loop(tiny, one.ids, 4)
    assert one.tokens.tolist() == one.predicted.tolist() == said
    for step, row in enumerate(logits):
        order = sorted(range(len(row)), key=lambda token: (-float(row[token]), token))[:5]
        assert one.top_ids[step].tolist() == order
        assert sk.bits_equal(one.top_logits[step], row[order])
        assert one.normaliser[step] == pytest.approx(float(np.logaddexp.reduce(row.double().numpy())), abs=1e-12)
        assert one.digests[step, made.stage("logits")].tobytes() == hashed(row)
        for block, state in enumerate(blocks[step]):
            assert one.digests[step, made.stage(f"block:{block}")].tobytes() == hashed(state)
            assert sk.bits_equal(one.states[f"block:{block}"][step], state[0, -1])


def test_equal_largest_logits_are_listed_by_id(tiny, monkeypatch):
    import stabilitykit.traces.record as module

    row = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0, 2.0])
    ids, values, _, predicted = module._largest(row, 5)
    assert ids == [1, 2, 4, 3, 5]
    assert values.tolist() == [3.0, 3.0, 3.0, 2.0, 2.0]
    assert predicted == 1


def test_modules_and_blocks_agree_on_the_stages_they_share(tiny):
    blocks = sk.record(tiny, [PROMPT], 3, level="block")
    modules = sk.record(tiny, [PROMPT], 3)
    shared = [stage.name for stage in blocks.stages]
    assert set(shared) <= {stage.name for stage in modules.stages}
    for name in shared:
        left, right = (one.generations[0].digests[:, one.stage(name)] for one in (blocks, modules))
        np.testing.assert_array_equal(left, right)


def test_forced_tokens_are_read_whatever_the_model_would_say(tiny):
    free = sk.record(tiny, [PROMPT], 4, level="block")
    one = free.generations[0]
    other = (one.tokens + 1) % 200
    foreign = sk.Recording(**{**vars(free), "generations": (type(one)(**{**vars(one), "tokens": other}),)})
    forced = sk.record(tiny, foreign, level="block", forced=True)
    assert forced.mode == "forced"
    assert forced.generations[0].tokens.tolist() == other.tolist()
    assert forced.generations[0].predicted[0] == one.tokens[0]  # the prompt is the same, so is the first answer
    itself = sk.record(tiny, free, level="block", forced=True)
    np.testing.assert_array_equal(itself.generations[0].digests, one.digests)


def test_the_prompts_of_another_recording_are_continued(tiny, recording):
    again = sk.record(tiny, recording, 2, level="block")
    assert [(one.ids, one.kind, one.text) for one in again.generations] == [
        (one.ids, one.kind, one.text) for one in recording.generations
    ]
    assert again.generations[0].tokens.tolist() == recording.generations[0].tokens[:2].tolist()


def test_a_model_that_changes_when_it_is_listened_to_is_refused(tiny, monkeypatch):
    """The planted defect: a block that answers otherwise while anything hooks it, as a fused kernel may."""
    layer = tiny.model.model.layers[1]
    plain = layer.forward

    def fused(*args, **kwargs):
        output = plain(*args, **kwargs)
        return output * (1 + 2**-20) if layer._forward_hooks else output

    monkeypatch.setattr(layer, "forward", fused)
    with pytest.raises(UnsupportedError, match=r"gives other bits when it is recorded: its logits at step 0"):
        sk.record(tiny, [PROMPT], 2, level="block")


@pytest.mark.parametrize("noisy", [lambda call: call, lambda call: call == 1], ids=["always", "once"])
def test_a_model_that_does_not_repeat_itself_is_told_apart(tiny, monkeypatch, noisy):
    """Also where it is the first generation that went wrong, and all later ones agree. To skip it would hide it."""
    layer, calls = tiny.model.model.layers[1], []
    plain = layer.forward

    def unsteady(*args, **kwargs):
        calls.extend([1] * (args[0].shape[1] == 1))  # of the generation, not of the probes before it
        return plain(*args, **kwargs) * (1 + noisy(len(calls)) * 2**-20)

    monkeypatch.setattr(layer, "forward", unsteady)
    with pytest.raises(InvalidError, match="does not repeat itself"):
        sk.record(tiny, [PROMPT], 2, level="block")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"prompts": []}, "prompts is a list"),
        ({"prompts": "text"}, "prompts is a list"),
        ({"prompts": [""]}, "the prompt is empty"),
        ({"prompts": ["a"], "tokens": 0}, "tokens is too few; give at least 1"),
        ({"prompts": ["a"], "top": 1}, "top is too few; give at least 2"),
        ({"prompts": ["a"], "states": "some"}, "'some' of a recording is not one of none, norm, blocks, all"),
        ({"prompts": ["a"], "level": "layer"}, "'layer' of a recording is not one of block, module, op"),
        ({"prompts": ["a"], "steps": (-1,)}, "steps are numbered from 0"),
        ({"prompts": ["a"], "forced": True}, "forced reads the tokens of another recording"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, given, sentence):
    with pytest.raises(UsageError, match=sentence):
        sk.record(tiny, **given)


@pytest.mark.parametrize("spec", ["tiny:gpt2", "tiny:gemma2", "tiny:mixtral", "tiny:mamba", "tiny:bloom"])
def test_other_architectures_are_recorded_and_proved(spec):
    made = sk.record(sk.load(spec), ["ab"], 3)
    assert made.observer == {"steps": made.generations[0].steps}
    assert made.generations[0].digests.any(axis=2).all()
