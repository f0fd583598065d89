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


def test_a_token_behind_the_other_of_the_pair_costs_nothing_where_that_one_leads():
    """The second of the pair is the last of all: the first is ahead of the others all the same."""
    subject = gap_of().subject
    order = subject.baseline[0].argsort(descending=True).tolist()
    gap = LogitGap(subject, (order[0], order[-1]))
    _, read = narrowed(gap, rows(gap, 4, 1e-6))
    seen = whole_heads(gap)
    assert not read(rows(gap, 4, 1e-6, 1)).third.any()
    assert not seen


def planted(toys, *head):
    """The gap of tokens 4 and 5 of a model that sends what it is given to a head with the rows 4, 5 and 6 as named."""
    model = toys.model([toys.Times(1.0)])
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[4:7, :2] = torch.tensor(head)
        model.model.embed_tokens.weight.copy_(torch.eye(16, 8)[0])
    return LogitGap(sk.CausalLMSubject(sk.adopt(model), [3], batch=2, site="logits"), (4, 5))


def test_what_bounds_the_other_tokens_is_the_first_row_and_its_own_state(toys):
    """The second row of the first batch lies where the third token leads: there the bound of the first is void."""
    gap = planted(toys, [10.0, 0.0], [9.0, 0.0], [0.0, 20.0])
    far = gap.subject.x0 + torch.eye(8)[1]
    told, read = narrowed(gap, torch.stack([gap.subject.x0, far]))
    assert told.third.tolist() == [False, True]
    assert read(torch.stack([far, far])).third.tolist() == [True, True]


def test_a_row_that_another_token_leads_is_seen_beside_one_that_the_pair_leads_by_far(toys):
    """In either order: the pair has 200 in one row, and nothing against 20 in the other."""
    gap = planted(toys, [100.0, 0.0], [90.0, 0.0], [0.0, 20.0])
    X = torch.stack([2 * gap.subject.x0, torch.eye(8)[1]])
    _, read = narrowed(gap, gap.subject.x0.repeat(2, 1))
    assert read(X).third.tolist() == [False, True]
    assert read(X.flip(0)).third.tolist() == [True, False]


@pytest.mark.parametrize(("behind", "products"), [(2.0**-22, 1), (2.0**-16, 0)])
def test_a_lead_within_rounding_is_none(toys, behind, products):
    """The third token is behind by 2 eps, and by 128: less and more than the 20 that a sum of 8 products may be off."""
    gap = planted(toys, [1.0, 0.0], [0.5, 0.0], [1.0 - behind, 0.0])
    X = gap.subject.x0.repeat(2, 1)
    _, read = narrowed(gap, X)
    seen = whole_heads(gap)
    assert not read(X).third.any()
    assert len(seen) == products


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


def test_a_head_that_is_given_rows_without_tokens_is_read_whole():
    gap, wanted = gap_of(), gap_of()
    head = gap.subject.anatomy.head
    head.register_forward_pre_hook(lambda _, given: (given[0][:, 0],))
    head.register_forward_hook(lambda _, __, Z: Z[:, None])
    told, read = narrowed(gap, rows(gap, 4, 1e-6))
    assert bits_equal(told.pairs, whole(wanted, rows(gap, 4, 1e-6)).pairs)
    assert bits_equal(read(rows(gap, 4, 1e-6, 1)).pairs, whole(wanted, rows(gap, 4, 1e-6, 1)).pairs)


def test_a_function_without_a_head_is_read_whole():
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    gap = LogitGap(sk.FunctionSubject(lambda X: X @ matrix.T, torch.ones(3), batch=2), (0, 1))
    told, read = narrowed(gap, rows(gap, 2, 1.0))
    assert bits_equal(told.pairs, whole(gap, rows(gap, 2, 1.0)).pairs)
    assert bits_equal(read(rows(gap, 2, 1.0, 1)).pairs, whole(gap, rows(gap, 2, 1.0, 1)).pairs)
