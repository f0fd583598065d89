"""Two logits without the others: the bits of the whole head, and a third token that leads is never overlooked."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements import pair_logits
from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.measurements.pair_logits import narrowed, whole
from stabilitykit.numerics.bits import bits_equal

IDS = [3, 10, 17, 24]


def gap_of(family="llama", pair=None, batch=4, **options):
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}", **options), IDS, path="decode", batch=batch, site="logits")
    return LogitGap(subject, pair or tuple(subject.baseline[0].topk(2).indices.tolist()))


def rows(gap, count, scale, seed=0):
    draws = torch.randn(count, gap.subject.x0.numel(), generator=torch.Generator().manual_seed(seed))
    return (gap.subject.x0 + scale * draws).to(gap.subject.x0.dtype)


def whole_heads(gap):
    """Count the products with the whole head from now on."""
    seen = []
    gap.subject.anatomy.head.register_forward_pre_hook(lambda _, args: seen.append(1))
    return seen


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2", "phi"])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 3.0])
def test_both_ways_say_the_same_to_the_bit(family, scale):
    """Near the first row and far from it, in one batch after another; gemma2 caps its logits, phi's head has a bias."""
    gap = gap_of(family)
    first, read = narrowed(gap, rows(gap, 4, scale))
    wanted = whole(gap, rows(gap, 4, scale))
    for seed in range(1, 5):
        assert bits_equal(first.pairs, wanted.pairs)
        assert first.third.tolist() == wanted.third.tolist()
        first, wanted = read(rows(gap, 4, scale, seed)), whole(gap, rows(gap, 4, scale, seed))


def test_the_whole_head_runs_only_where_another_token_might_lead():
    gap = gap_of()
    _, read = narrowed(gap, rows(gap, 4, 1e-6))
    seen, forwards = whole_heads(gap), gap.subject.counter.forwards
    assert not read(rows(gap, 4, 1e-6, 1)).third.any()
    assert not seen
    assert gap.subject.counter.forwards == forwards + 4
    far = rows(gap, 4, 3.0, 2)
    assert read(far).third.tolist() == whole(gap, far).third.tolist()
    assert read(far).third.any()
    assert len(seen) == 3


def test_a_pair_that_does_not_lead_is_seen_to_be_led():
    """The third token's logit is never computed alone: the bound must fail, and the whole head say so."""
    subject = gap_of().subject
    order = subject.baseline[0].argsort(descending=True).tolist()
    gap = LogitGap(subject, (order[1], order[2]))
    _, read = narrowed(gap, rows(gap, 4, 1e-6))
    seen = whole_heads(gap)
    assert read(rows(gap, 4, 1e-6, 1)).third.all()
    assert seen


@pytest.mark.parametrize("change", [1 + 2.0**-23, 0.5])
def test_a_panel_with_other_bits_is_not_used(monkeypatch, change):
    """A kernel that adds up a narrow product in another order."""
    gap = gap_of()
    panel = pair_logits._Panel._one
    monkeypatch.setattr(pair_logits._Panel, "_one", lambda self, Y, token: change * panel(self, Y, token))
    _, read = narrowed(gap, rows(gap, 4, 1e-6))
    seen = whole_heads(gap)
    assert bits_equal(read(rows(gap, 4, 1e-6, 1)).pairs, whole(gap, rows(gap, 4, 1e-6, 1)).pairs)
    assert len(seen) == 2


def test_a_function_without_a_head_is_read_whole():
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    gap = LogitGap(sk.FunctionSubject(lambda X: X @ matrix.T, torch.ones(3), batch=2), (0, 1))
    told, read = narrowed(gap, rows(gap, 2, 1.0))
    assert bits_equal(told.pairs, whole(gap, rows(gap, 2, 1.0)).pairs)
    assert bits_equal(read(rows(gap, 2, 1.0, 1)).pairs, whole(gap, rows(gap, 2, 1.0, 1)).pairs)
