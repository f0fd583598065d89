"""The way into block 0: it lets through what the block lets through; who has no such way is not given one."""

import numpy as np
import pytest
import torch
from torch import nn

from stabilitykit import CausalLMSubject, FirstChange, load, measure
from stabilitykit.subjects import entry
from stabilitykit.subjects.subject import rows_differ

IDS = [3, 1, 2, 5]
HAVE = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "phi3", "gemma")
LACK = ("gemma2", "gemma3", "gpt2", "gpt_neox", "phi", "olmo2", "mamba", "granite", "opt")


def subject_of(family, path="decode", batch=3, **given):
    return CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=batch, **given)


def nudged(subject, ulps):
    """x0 with a few ULP on coordinates that differ from row to row."""
    random = np.random.Generator(np.random.PCG64(0))
    X = subject.copies(subject.batch)
    for row in X:
        chosen = torch.from_numpy(random.choice(row.numel(), size=3, replace=False))
        row[chosen] = (row.view(torch.int32)[chosen] + ulps).view(torch.float32)
    return X


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", HAVE)
def test_an_unchanged_entry_is_an_unchanged_block(family, path):
    subject = subject_of(family, path, batch=3)
    found = entry.find(subject)
    assert found is not None
    unchanged = 0
    for ulps in (0, 1, 1, 2, 64, 1 << 20):
        X = nudged(subject, ulps)
        through = ~found.changed(subject.embedded(X))
        block = rows_differ(subject.stopped_after(X, 1), subject.baseline_state)
        assert not bool((through & block).any())
        unchanged += int(through.sum())
    assert unchanged >= 3, "x0 itself passes"
    assert bool(found.changed(subject.embedded(nudged(subject, 1 << 20))).all())


@pytest.mark.parametrize("family", LACK)
def test_a_block_of_another_kind_has_no_entry(family):
    """Parallel branches, norms behind attention, scaled branches, positions added to the input, no attention at all."""
    assert entry.find(subject_of(family)) is None


def test_a_whole_prompt_has_an_entry_too():
    subject = CausalLMSubject(load("tiny:llama"), IDS, rows="all", batch=2)
    assert entry.find(subject) is not None


class Also(nn.Module):
    """A feed-forward layer that reads something else besides what it is given: the planted defect."""

    def __init__(self, layer, seen):
        super().__init__()
        self.layer, self.seen = layer, seen

    def forward(self, x):
        return self.layer(x) + 2.0**-6 * self.seen[-1].to(x)


def planted(where):
    """A model whose block 0 reads its input once more, behind attention or inside it."""
    loaded = load("tiny:llama")
    block, seen = loaded.model.model.layers[0], []
    block.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach()))
    parent, name = {
        "behind attention": (block, "mlp"),
        "inside attention": (block.self_attn, "o_proj"),
    }[where]
    setattr(parent, name, Also(getattr(parent, name), seen))
    return loaded


@pytest.mark.parametrize("where", ["behind attention", "inside attention"])
def test_a_block_that_reads_its_input_once_more_is_found_out(where):
    assert entry.find(CausalLMSubject(planted(where), IDS, path="decode", batch=2)) is None


def test_a_norm_that_does_not_give_the_same_alone_is_found_out():
    loaded, entered = load("tiny:llama"), []
    block = loaded.model.model.layers[0]
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=2)
    assert entry.find(subject) is not None
    block.register_forward_pre_hook(lambda _m, _args: entered.append(1))
    block.input_layernorm.register_forward_hook(
        lambda _m, _args, y: y * (1 + 2.0**-20) if entered and entered.pop() else y
    )
    assert entry.find(subject) is None


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_the_entry_changes_no_answer_and_saves_blocks(path, monkeypatch):
    directions = torch.randn(9, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_entry = measure(FirstChange(direction=directions), subject_of("llama", path), progress=False)
    blocks = 0

    def counted(self, X, blocks_=1, original=CausalLMSubject.first_blocks):
        nonlocal blocks
        blocks += len(X)
        return original(self, X, blocks_)

    monkeypatch.setattr(CausalLMSubject, "first_blocks", counted)
    measure(FirstChange(direction=directions), subject_of("llama", path), progress=False)
    saved, blocks = blocks, 0
    monkeypatch.setattr(entry, "screening", lambda _: ())
    without = measure(FirstChange(direction=directions), subject_of("llama", path), progress=False)
    assert [{**row, "slot": 0} for row in with_entry.rows] == [{**row, "slot": 0} for row in without.rows]
    assert saved < blocks


def test_its_rows_are_counted_as_screened():
    subject = subject_of("llama")
    screening, _ = subject.screenings
    before = subject.counter.screened
    assert screening(subject.copies(3)).tolist() == [False] * 3
    assert subject.counter.screened == before + 3


@pytest.mark.model
@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 8)])
def test_smollm2_has_an_entry_that_lets_through_what_its_block_does(path, batch):
    subject = CausalLMSubject(load("smollm2"), "The capital of France is", path=path, batch=batch)
    found = entry.find(subject)
    assert found is not None
    X = subject.copies(batch)
    X[:, subject.x0 == 0] = 1e-20
    assert not bool(found.changed(subject.embedded(X)).any())
    assert not bool(rows_differ(subject.stopped_after(X, 1), subject.baseline_state).any())
