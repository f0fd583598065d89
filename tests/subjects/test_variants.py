"""The same function at another site or in true float64: what is shared with it, and what is proved again."""

import pytest
import torch

from stabilitykit.errors import UsageError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects import causal_lm, proofs
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load

IDS = [3, 10, 17, 24, 31]


@pytest.fixture(scope="module")
def llama():
    return load("tiny:llama")


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_another_site_is_proved_with_the_prefix_that_is_there(llama, path, monkeypatch):
    subject = CausalLMSubject(llama, IDS, path=path, batch=2)
    built, proved, prove = [], [], proofs.prove
    monkeypatch.setattr(causal_lm, "prefix_of", lambda *asked: built.append(asked))
    monkeypatch.setattr(proofs, "prove", lambda one: proved.append(one.site) or prove(one))
    logits = subject.with_site("logits")
    assert (built, proved) == ([], ["logits"])
    monkeypatch.undo()
    there = CausalLMSubject(llama, IDS, path=path, batch=2, site="logits")
    assert bits_equal(logits.baseline, there.baseline)
    assert logits.describe() == there.describe()
    with pytest.raises(UsageError, match="nowhere"):
        subject.with_site("nowhere")


def test_lanes_that_only_the_head_mixes_are_seen_at_the_logits():
    """The planted defect lies behind the site whose proofs passed."""
    loaded = load("tiny")
    subject = CausalLMSubject(loaded, IDS, batch=3)
    mix = loaded.model.lm_head.register_forward_hook(lambda _module, _args, z: z + 1e-3 * z.mean(dim=0, keepdim=True))
    logits = subject.with_site("logits")
    mix.remove()
    assert (subject.batch, logits.batch) == (3, 1)


def test_a_float64_twin_is_made_once_and_belongs_to_one_input_and_batch(llama):
    subject = CausalLMSubject(llama, IDS, path="decode", batch=2)
    twin = subject.in_float64()
    assert subject.in_float64() is twin
    assert subject.with_site("logits").in_float64().site == "logits"
    assert subject.with_batch(3).in_float64().batch == 3
    there = subject.at(subject.x0 + 1)
    assert torch.equal(there.in_float64().x0, there.x0.double())
