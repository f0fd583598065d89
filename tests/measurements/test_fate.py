"""The fate of a changed input: planted blocks that lose changes, and plain transformers beside the kit."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit import strategies
from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.fate import NEVER, listable
from stabilitykit.numerics.lattice import Lattice

ONES = torch.ones(8, dtype=torch.float64)
PROMPT = "The capital of France is"
IDS = list(PROMPT.encode())


def value(result, name):
    return result.readings[name].value


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def rays(dim, count=3):
    return torch.stack([one.expand() for one in strategies.gaussians(count, dim, 1)])


class Grid(nn.Module):
    """Rounds to multiples of a power of two."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return (x / self.step).round() * self.step


# --- planted fates


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_change_dies_in_the_block_that_rounds_it_away(toys, place):
    blocks = [toys.Times(2.0) for _ in range(4)]
    blocks[place] = toys.Coarse(3.0)
    subject = toys.subject(blocks, batch=5)
    result = sk.measure(sk.Fate(directions=ONES, cells=12), subject)
    assert {row["fate"] for row in result.rows} == {f"block:{place}"}
    assert value(result, "latest_fate_block") == place
    assert result.readings["latest_fate_block"].place["site"] == f"block:{place}"
    assert value(result, "share_unchanged") == 1
    assert value(result, "share_decided_in_block_0") == (1 if place == 0 else 0)
    assert value(result, "cells") == len(result.rows) == 12
    wanted = [0] * 7
    wanted[1 + place] = 12
    assert result.arrays["histogram"].tolist() == wanted
    assert result.arrays["sites"].tolist() == ["embed", *(f"block:{k}" for k in range(4)), "post_norm", NEVER]
    assert result.arrays["fate"].tolist() == [1 + place] * 12


def test_a_change_may_die_before_block_0_in_the_norm_or_never(toys):
    found = {}
    for name, subject in {
        "embed": toys.subject([toys.Times(2.0)], before=toys.Coarse()),
        "post_norm": toys.subject([toys.Times(2.0), toys.Times(2.0)], norm=toys.Coarse()),
        NEVER: toys.subject([toys.Times(2.0), toys.Times(2.0)]),
    }.items():
        found[name] = sk.measure(sk.Fate(directions=ONES, cells=4), subject)
        assert {row["fate"] for row in found[name].rows} == {name}
    assert value(found["embed"], "latest_fate_block") == -1
    assert value(found["embed"], "share_decided_in_block_0") == 1
    assert value(found["post_norm"], "latest_fate_block") == 2  # behind the last of two blocks
    assert value(found["post_norm"], "share_decided_in_block_0") == 0
    assert math.isnan(value(found[NEVER], "latest_fate_block"))
    assert (value(found[NEVER], "share_unchanged"), value(found[NEVER], "share_decided_in_block_0")) == (0, 1)
    assert "0 of 4 changed inputs leave" in found[NEVER].sentence


def test_cells_are_the_distinct_inputs_in_order_and_each_has_its_own_fate(toys):
    """A block that rounds to multiples of 1/1024: a change lives on from the cell that reaches the next multiple."""

    subject = toys.subject([toys.Times(1.0), Grid(2.0**-10)], batch=7)
    d = torch.eye(8, dtype=torch.float64)[1] * 2.0**-23
    x0 = subject.x0.clone()
    count = math.ceil(2.0**-10 / 2.0**-23)
    result = sk.measure(sk.Fate(directions=d, cells=count), subject)
    assert len(result.rows) == count
    before = x0
    for row in result.rows:
        x = sk.perturb(x0, d, row["s_first_changed"])
        assert not same(x, before)
        assert same(sk.perturb(x0, d, math.nextafter(row["s_first_changed"], 0)), before)
        assert row["input_step"] == float((x.double() - x0.double()).norm())
        unchanged = same((x * 1024).round(), (x0 * 1024).round())
        assert (row["fate"] == "block:1") == unchanged == row["unchanged"]
        assert row["equal_after_block_0"] is False
        assert row["decided_in_block_0"] == (not unchanged)
        before = x
    shares = [row["unchanged"] for row in result.rows]
    assert 0 < sum(shares) < count
    assert value(result, "share_unchanged") == sum(shares) / count
    assert value(result, "share_decided_in_block_0") == 1 - sum(shares) / count
    assert f"of {sum(shares)} the state after block 0 does not tell it yet" in result.sentence


def test_each_state_is_held_against_its_own_slot(toys):
    """Every slot adds its own number, and all changes are lost in block 1: against slot 0 none would be."""
    subject = toys.subject([toys.Slots(), toys.Coarse()], batch=4)
    result = sk.measure(sk.Fate(directions=ONES, cells=9), subject)
    assert {row["fate"] for row in result.rows} == {"block:1"}
    assert [row["slot"] for row in result.rows] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_a_model_that_reads_its_input_again_is_not_decided_in_block_0(toys):
    """The planted defect: block 0 loses the change, and the last block finds it again."""
    keep = toys.Keep()
    subject = toys.subject([toys.Coarse(), toys.Reread(keep)], before=keep)
    row = sk.measure(sk.Fate(directions=ONES, cells=1), subject).rows[0]
    assert (row["fate"], row["equal_after_block_0"], row["decided_in_block_0"]) == (NEVER, True, False)
    assert math.isnan(row["fate_block"])


def test_a_change_that_comes_back_dies_where_it_dies_for_good(toys):
    keep = toys.Keep()
    subject = toys.subject([toys.Coarse(), toys.Reread(keep), toys.Coarse()], before=keep)
    row = sk.measure(sk.Fate(directions=ONES, cells=1), subject).rows[0]
    assert (row["fate"], row["fate_block"], row["equal_after_block_0"]) == ("block:2", 2, True)


def test_the_latest_of_several_fates_is_reported(toys):
    """Small changes die in block 0, larger ones in block 2, and the largest live on."""
    subject = toys.subject([Grid(2.0**-21), toys.Times(1.0), Grid(2.0**-18)], batch=6)
    result = sk.measure(sk.Fate(directions=torch.eye(8, dtype=torch.float64)[1], cells=40), subject)
    assert {row["fate"] for row in result.rows} == {"block:0", "block:2", NEVER}
    assert value(result, "latest_fate_block") == 2


def test_a_state_is_compared_at_every_token(toys):
    """A block that loses the last token's change and hands it to the first token has not lost it."""

    class Leak(nn.Module):
        def forward(self, x):
            moved = x[:, :1] + x[:, -1:].detach()  # without a derivative nobody sees that it is no causal model
            return torch.cat([moved, x[:, 1:-1], x[:, -1:].to(torch.bfloat16).to(x)], dim=1)

    class Back(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :-1], x[:, -1:] + x[:, :1]], dim=1)

    row = sk.measure(sk.Fate(directions=ONES, cells=1), toys.subject([Leak(), Back()])).rows[0]
    assert (row["fate"], row["equal_after_block_0"], row["screen_disagrees"]) == (NEVER, False, False)


def test_a_stopped_forward_that_answers_otherwise_is_caught(toys, monkeypatch):
    subject = toys.subject([toys.Times(2.0), toys.Coarse()], batch=3)
    clean = sk.measure(sk.Fate(directions=ONES, cells=5), subject)
    assert (clean.verdict, value(clean, "screen_disagreements")) == ("pass", 0)
    clean.check(screen_disagreements="<= 0")
    still = subject.first_blocks(subject.copies(3), 1)
    monkeypatch.setattr(sk.CausalLMSubject, "first_blocks", lambda self, X, blocks=1: still)
    broken = sk.measure(sk.Fate(directions=ONES, cells=5), subject)
    assert (broken.verdict, value(broken, "screen_disagreements")) == ("differs", 5)


# --- against plain transformers


def fates_by_hand(subject, X):
    """(fate, equal after block 0) of each input: plain hooks on the plain model, prefill, batch 1, every position."""
    model, names = subject.model, [*subject.anatomy.block_names]
    before = model.get_input_embeddings()(torch.tensor([IDS]))[:, :-1]

    @torch.no_grad()
    def states(x):
        seen = []
        handles = [
            model.get_submodule(names[0]).register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone())),
            *(
                model.get_submodule(name).register_forward_hook(
                    lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
                )
                for name in names
            ),
        ]
        seen.append(model.base_model(inputs_embeds=torch.cat([before, x[None, None]], 1), use_cache=False)[0])
        for handle in handles:
            handle.remove()
        return seen

    still, found = states(subject.x0), []
    for x in X:
        agrees = [same(a, b) for a, b in zip(states(x), still, strict=True)]
        first = next((k for k in range(len(agrees)) if all(agrees[k:])), len(agrees))
        found.append((["embed", *(f"block:{k}" for k in range(len(names))), "post_norm", NEVER][first], agrees[1]))
    return found


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, dtype) for family in ("llama", "gpt2", "mixtral") for dtype in ("float32", "bfloat16")]
    + [("zamba2", "float32")],
)
def test_the_fates_are_those_of_plain_forwards(family, dtype):
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}", dtype=dtype), IDS)
    result = sk.measure(sk.Fate(directions=rays(64), cells=20), subject)
    directions = torch.from_numpy(result.arrays["directions"])
    X = [sk.perturb(subject.x0, directions[int(row["direction"])], row["s_first_changed"]) for row in result.rows]
    assert [(row["fate"], row["equal_after_block_0"]) for row in result.rows] == fates_by_hand(subject, X)
    assert 0 < value(result, "share_unchanged") < 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_batch_of_one_token_finds_what_single_rows_find(family):
    """Slots and batch shape change bits, so fates may differ between shapes; within one shape they do not."""
    loaded = sk.load(f"tiny:{family}")
    first, second = (sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=8) for _ in range(2))
    asked = sk.Fate(directions=rays(64), cells=7)
    a, b = sk.measure(asked, first), sk.measure(asked, second)
    assert a.rows == b.rows
    assert a.execution.forwards == 8 * (math.ceil(21 / 8) + 1) == asked.cost(first).forwards
    assert a.execution.screened == asked.cost(first).screened


# --- dense coordinates


def zero_at(toys, place):
    model = toys.model([toys.Times(2.0), toys.Coarse()])
    with torch.no_grad():
        model.model.embed_tokens.weight[2, place] = 0.0
    return sk.CausalLMSubject(sk.adopt(model), [3, 1, 2], batch=4)


def test_exact_zeros_are_held_or_sampled(toys):
    subject = zero_at(toys, 3)
    held = sk.measure(sk.Fate(directions=ONES, cells=6), subject)
    assert (value(held, "held"), value(held, "exact")) == (1, 1)
    assert held.arrays["directions"][0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    sampled = sk.measure(sk.Fate(directions=ONES, cells=6, dense="sample"), subject)
    assert (value(sampled, "held"), value(sampled, "exact")) == (0, 0)
    steps = [row["input_step"] for row in sampled.rows]
    assert steps == sorted(steps)
    assert 0 < steps[0] < 1e-20  # a sample that moved nothing is no cell
    assert held.rows[0]["input_step"] > 1e-9


def test_a_ray_that_moves_zeros_alone_is_sampled(toys):
    subject = zero_at(toys, 3)
    d = torch.eye(8, dtype=torch.float64)[3]
    lattice = Lattice(subject.x0, d)
    assert listable(lattice) == (lattice, 0)
    result = sk.measure(sk.Fate(directions=d, cells=3), subject)
    assert value(result, "exact") == 0
    assert len(result.rows) == 3


def test_a_ray_may_end_before_its_cells_do(toys):
    subject = toys.subject([toys.Times(2.0)])
    d = torch.eye(8, dtype=torch.float64)[1]
    all_cells = sk.measure(sk.Fate(directions=d, cells=9), subject).rows
    few = sk.measure(sk.Fate(directions=d, cells=9, s_max=all_cells[3]["s_first_changed"]), subject)
    assert len(few.rows) == 4
    none = sk.measure(sk.Fate(directions=d, cells=9, s_max=all_cells[0]["s_first_changed"] / 2), subject)
    assert none.sentence == "No step along the rays moves the rounded input, so there is no cell to follow."
    assert all(math.isnan(value(none, name)) for name in ("share_unchanged", "share_decided_in_block_0"))
    assert none.arrays["histogram"].sum() == 0


# --- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": 0}, "cells"),
        ({"cells": 2.5}, "cells"),
        ({"s_max": 0.0}, "s_max"),
        ({"dense": "drop"}, "drop"),
        ({"rule": "p16"}, "p16"),
    ],
)
def test_impossible_parameters_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        sk.Fate(**fields)


def test_a_bare_function_has_no_blocks_and_a_nan_no_fate(toys):
    with pytest.raises(UnsupportedError):
        sk.measure(sk.Fate(directions=torch.ones(3)), sk.FunctionSubject(lambda X: X, torch.ones(3)))

    class Nan(nn.Module):
        def __init__(self):
            super().__init__()
            self.armed = False

        def forward(self, x):
            return x * math.nan if self.armed else x

    norm = Nan()
    subject = toys.subject([toys.Times(2.0)], norm=norm)
    norm.armed = True
    with pytest.raises(InvalidError):
        sk.measure(sk.Fate(directions=ONES), subject)


def test_drawn_directions_are_taken_as_recipes(toys):
    subject = toys.subject([toys.Times(2.0), toys.Coarse()])
    result = sk.measure(sk.Fate(directions=strategies.gaussians(3, 8, 4), cells=2), subject)
    assert len({row["direction"] for row in result.rows}) == 3
    np.testing.assert_array_equal(result.arrays["fate"], [2] * 6)
