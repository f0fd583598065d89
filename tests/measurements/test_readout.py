"""Angles, distances, norm and head: on toys whose states are planted, and on tiny models against plain algebra."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements import decision_planes
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.readout import hearing, norm_and_head

V, H = 16, 8
KINDS = (sk.ReadoutAngles, sk.NormAlignment, sk.HeadReplay)


def drawn(shape, seed=0):
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)).float()


def toy(toys, weight, states, norm=None, blocks=None, head=None):
    """A model that sends each token's embedding through its blocks and norm to the head."""
    model = toys.model(blocks or [toys.Times(1.0)], norm)
    with torch.no_grad():
        model.lm_head.weight.copy_(weight)
        model.model.embed_tokens.weight.copy_(states)
    if head is not None:
        head.weight = model.lm_head.weight
        model.lm_head = head
    return sk.adopt(model)


def asked(kind, loaded, prompts=((3,),), tokens=1, **how):
    return sk.measure(kind(prompts, tokens, **how), loaded, progress=False)


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def degrees(a, b):
    return math.degrees(math.acos(float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))))


def states_of(loaded, ids):
    """What the norm returns and what it reads, taken from the model in one forward without a cache."""
    read = []
    norm = find(loaded.model).final_norm
    handle = norm.register_forward_hook(lambda _norm, inputs, output: read.append((inputs[0], output)))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0]
    handle.remove()
    return read[0][0][0], read[0][1][0], logits


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:gemma2", "tiny:phi"])
def test_angles_and_distances_are_those_of_plain_algebra(spec):
    loaded = sk.load(spec)
    result = asked(sk.ReadoutAngles, loaded, ("once upon", [5, 6]), 3, ranks=(1, 2, 10, 100))
    head = find(loaded.model).head
    W, bias = head.weight.double(), getattr(head, "bias", None)
    bias = torch.zeros(len(W)).double() if bias is None else bias.double()
    for number, ids in enumerate((list(b"once upon"), [5, 6])):
        positions = rows(result, "position", number=number)
        text = [*ids, *(row["token_id"] for row in positions)]
        before, after, _ = states_of(loaded, text[:-1])
        for row in positions:
            t = row["position"]
            h, z = after[t].double(), W @ after[t].double() + bias
            order = z.argsort(descending=True).tolist()
            assert (row["token_id"], row["second_id"]) == tuple(order[:2])
            one, two = order[:2]
            assert row["distance"] == pytest.approx(float((z[one] - z[two]) / (W[one] - W[two]).norm()), rel=1e-4)
            every = [float((z[one] - z[r]) / (W[one] - W[r]).norm()) if r != one else math.inf for r in range(len(W))]
            assert row["nearest_distance"] == pytest.approx(min(every), rel=1e-4)
            assert row["nearest_id"] == int(np.argmin(every))
            assert row["relative_distance"] == pytest.approx(min(every) / float(h.norm()), rel=1e-4)
            angles = rows(result, "angle", number=number, position=t)
            assert [row["token_id"] for row in angles] == [order[rank - 1] for rank in (1, 2, 10, 100)]
            for angle in angles:
                assert angle["angle_after"] == pytest.approx(degrees(W[angle["token_id"]], after[t]), abs=1e-3)
                assert angle["angle_before"] == pytest.approx(degrees(W[angle["token_id"]], before[t]), abs=1e-3)
    assert result.arrays["angle_after"].shape == (6, 4)
    assert value(result, "angle_10") == pytest.approx(np.median(result.arrays["angle_after"][:, 2]))
    assert value(result, "angle_before_100") == pytest.approx(np.median(result.arrays["angle_before"][:, 3]))
    assert value(result, "min_distance") == result.arrays["distance"].min()
    summary = rows(result, "rank", state="after", rank=10)[0]
    assert summary["q99"] == pytest.approx(np.quantile(result.arrays["angle_after"][:, 2], 0.99))


def test_the_distance_is_how_far_the_state_must_move_for_a_tie(toys):
    weight, states = drawn((V, H)), drawn((V, H), 1)
    result = asked(sk.ReadoutAngles, toy(toys, weight, states), ranks=(1, 2))
    (row,) = rows(result, "position")
    h = states[3].double()
    normal = weight[row["token_id"]].double() - weight[row["nearest_id"]].double()
    tied = weight.double() @ (h - row["nearest_distance"] * normal / normal.norm())
    assert float(tied[row["token_id"]] - tied[row["nearest_id"]]) == pytest.approx(0, abs=1e-12)
    assert float(tied.max() - tied[row["token_id"]]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("far", "nearest", "margin"), [(5, 5, 1.0), (6, 6, 1.1)])
def test_a_plane_behind_the_second_can_be_nearer(toys, far, nearest, margin):
    """Logits 5, 4 and 3.9; the row of one of the others is 50 away from the first's, and so its plane is near."""
    weight, states = torch.zeros(V, H), torch.zeros(V, H)
    states[3, 0] = 1.0
    weight[:, 0] = -1.0
    weight[4:7, 0] = torch.tensor([5.0, 4.0, 3.9])
    weight[far, 1] = 50.0
    result = asked(sk.ReadoutAngles, toy(toys, weight, states), ranks=(1, 2))
    (row,) = rows(result, "position")
    assert (row["token_id"], row["second_id"], row["nearest_id"]) == (4, 5, nearest)
    assert row["margin"] == 1.0
    assert row["distance"] == pytest.approx(1 / math.hypot(1, 50 * (far == 5)), rel=1e-12)
    assert row["nearest_distance"] == pytest.approx(margin / math.hypot(margin, 50), rel=1e-6)
    assert value(result, "nearer_than_second") == (nearest == 6)


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_plane_is_that_of_brute_force(toys, seed, monkeypatch):
    """With a bias that decides, and more rows than are held at a time."""
    monkeypatch.setattr(decision_planes, "_ROWS", 5)
    weight, states, bias = drawn((V, H), seed), drawn((V, H), seed + 10), 3 * drawn((V,), seed + 20)
    head = nn.Linear(H, V)
    head.bias.data = bias
    result = asked(sk.ReadoutAngles, toy(toys, weight, states, head=head), ranks=(1, 2))
    (row,) = rows(result, "position")
    z, W = weight.double() @ states[3].double() + bias.double(), weight.double()
    one = int(z.argmax())
    every = [float((z[one] - z[r]) / (W[one] - W[r]).norm()) if r != one else math.inf for r in range(V)]
    assert (row["token_id"], row["nearest_id"]) == (one, int(np.argmin(every)))
    assert row["nearest_distance"] == pytest.approx(min(every), rel=1e-12)


def test_a_row_that_equals_the_first_has_no_plane_with_it(toys):
    weight, states = drawn((V, H)), drawn((V, H), 1)
    first = int((weight @ states[3]).argmax())
    twin = 15 if first < 15 else 0
    weight[twin] = weight[first]
    result = asked(sk.ReadoutAngles, toy(toys, weight, states), ranks=(1, 2))
    (row,) = rows(result, "position")
    assert {row["token_id"], row["second_id"]} == {first, twin}
    assert row["distance"] == math.inf
    assert row["nearest_id"] not in (first, twin)
    assert 0 < row["nearest_distance"] < math.inf


def test_a_rank_beyond_the_vocabulary_is_refused(toys):
    with pytest.raises(sk.UnsupportedError, match="16 tokens, none at rank 100"):
        asked(sk.ReadoutAngles, toy(toys, drawn((V, H)), drawn((V, H), 1)))


def test_a_norm_that_only_scales_turns_nothing(toys):
    loaded = toy(toys, drawn((V, H)), drawn((V, H), 1), norm=toys.Times(4.0))
    result = asked(sk.NormAlignment, loaded, ((3,), (5,)), 4)
    assert value(result, "ranking_changed") == value(result, "max_angle_change") == 0
    assert value(result, "positions") == 8


def gained(toys):
    """The state points at token 4 before the norm; its gains turn it to token 5, which is said."""
    weight, states = torch.zeros(V, H), torch.zeros(V, H)
    states[3, :2] = torch.tensor([1.0, 0.25])
    weight[4, 0], weight[5, 1] = 1.0, 1.0
    weight[6:, 2] = -1.0
    gains = torch.ones(H)
    gains[1] = 16.0
    return toy(toys, weight, states, norm=toys.Times(gains))


def test_gains_that_turn_the_state_to_another_token_are_seen(toys):
    result = asked(sk.NormAlignment, gained(toys), top=2)
    (row,) = rows(result, "position")
    assert (row["token_id"], row["nearest_before"], row["nearest_after"]) == (5, 4, 5)
    assert row["angle_before"] == pytest.approx(math.degrees(math.atan2(1.0, 0.25)), rel=1e-12)
    assert row["angle_after"] == pytest.approx(math.degrees(math.atan2(1.0, 4.0)), rel=1e-12)
    assert value(result, "ranking_changed") == value(result, "ranking_changed_share") == 1
    assert (value(result, "nearest_is_chosen_before"), value(result, "nearest_is_chosen_after")) == (0, 1)
    assert value(result, "mean_angle_change") == pytest.approx(row["angle_after"] - row["angle_before"])
    assert value(result, "max_angle_change") == pytest.approx(abs(row["angle_change"]))


def test_alignment_is_that_of_the_states_the_model_computed():
    loaded = sk.load("tiny")
    result = asked(sk.NormAlignment, loaded, ("once upon",), 3)
    W = loaded.model.lm_head.weight.double()
    text = [*b"once upon", *(row["token_id"] for row in rows(result, "position"))]
    before, _, logits = states_of(loaded, text[:-1])
    for row in rows(result, "token"):
        t = row["position"]
        assert row["token_id"] == int(logits[t].argsort(descending=True)[row["rank"] - 1])
        assert row["angle_before"] == pytest.approx(degrees(W[row["token_id"]], before[t]), abs=1e-3)
        assert row["logit_after"] == pytest.approx(float(logits[t, row["token_id"]]), rel=1e-4)
    means = rows(result, "rank", rank=2)[0]
    own = [row["angle_change"] for row in rows(result, "token", rank=2)]
    assert means["mean_angle_change"] == pytest.approx(np.mean(own))
    assert means["sd_angle_change"] == pytest.approx(np.std(own, ddof=1))


class Stateful(nn.Linear):
    """A head that adds a little more at each call: the planted one that is not a function."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls * 2.0**-10


class Crowded(nn.Linear):
    """A head whose order of two near tokens turns with the number of tokens it is given."""

    def forward(self, x):
        z = super().forward(x).clone()
        z[..., 4] -= 0.5 * (x.shape[1] > 1)
        return z


class Favouring(nn.Linear):
    """A head that adds to token 5 what its row does not say."""

    def forward(self, x):
        z = super().forward(x).clone()
        z[..., 5] += 2.0**-10
        return z


def near(toys, head=None):
    """Token 4 says itself, a quarter of a logit ahead of token 5."""
    weight, states = torch.zeros(V, H), torch.zeros(V, H)
    states[:, 0] = 1.0
    weight[:, 0] = -1.0
    weight[4, 0], weight[5, 0] = 2.0, 1.75
    return toy(toys, weight, states, head=head)


def test_the_same_head_on_the_same_state_gives_the_same_bits(toys):
    result = asked(sk.HeadReplay, near(toys), ((3,),), 3)
    assert result.verdict == "measured"
    assert value(result, "differing_positions") == value(result, "flips") == 0
    assert value(result, "min_margin") == 0.25
    assert {row["margin_here"] for row in rows(result, "replay")} == {0.25}
    assert value(result, "below") == 0
    assert value(asked(sk.HeadReplay, near(toys), near=0.26), "below") == 1


def test_a_head_with_a_state_of_its_own_differs(toys):
    result = asked(sk.HeadReplay, near(toys, Stateful(H, V, bias=False)), ((3,),), 3)
    assert result.verdict == "differs"
    assert value(result, "differing_positions") == 3
    assert value(result, "max_ulp") > 0


def test_a_head_that_depends_on_its_company_flips_only_there(toys):
    result = asked(sk.HeadReplay, near(toys, Crowded(H, V, bias=False)), ((3,),), 3)
    assert result.verdict == "measured"
    ways = {row["way"]: row for row in rows(result, "way")}
    assert {way: row["flips"] for way, row in ways.items()} == {"alone": 0, "together": 3, "dots": 0, "float64": 0}
    assert (ways["alone"]["differing"], ways["together"]["differing"]) == (0, 3)
    assert (ways["alone"]["rms_margin_change"], ways["together"]["rms_margin_change"]) == (0.0, 0.5)
    assert value(result, "flips") == value(result, "differing_together") == 3
    assert value(result, "max_margin_change") == 0.5
    assert result.readings["max_margin_change"].place["way"] == "together"
    assert result.worst.right_name == "together"


def test_a_tie_that_only_rounding_broke_is_told_by_the_exact_head(toys):
    """Token 5 is ahead by less than half an ULP: the float32 head has a tie, and says the lower id."""
    weight, states = torch.zeros(V, H), torch.zeros(V, H)
    states[3, :2] = torch.tensor([1.0, 2.0**-13])
    weight[:, 0] = -1.0
    weight[4, 0] = weight[5, 0] = 1.0
    weight[5, 1] = 2.0**-13
    result = asked(sk.HeadReplay, toy(toys, weight, states))
    ways = {row["way"]: row for row in rows(result, "replay")}
    assert (ways["alone"]["token_id"], ways["alone"]["margin"]) == (4, 0.0)
    assert (ways["dots"]["token_here"], ways["dots"]["margin_here"]) == (4, 0.0)
    assert (ways["float64"]["token_here"], ways["float64"]["margin_here"]) == (5, -(2.0**-26))
    assert value(result, "flips") == 1


def test_a_bias_of_the_head_is_part_of_every_way():
    for row in rows(asked(sk.HeadReplay, sk.load("tiny:phi"), ("once upon",), 3), "replay"):
        assert row["margin_here"] == pytest.approx(row["margin"], abs=1e-5)


def test_of_an_exact_tie_the_lower_id_is_taken(toys):
    """The rows of both tokens are equal, and the head says the higher one: redone by its rows it is the lower."""
    loaded = near(toys, Favouring(H, V, bias=False))
    with torch.no_grad():
        loaded.model.lm_head.weight[5] = loaded.model.lm_head.weight[4]
    ways = {row["way"]: row for row in rows(asked(sk.HeadReplay, loaded), "replay")}
    assert {way: row["token_here"] for way, row in ways.items()} == {"alone": 5, "together": 5, "dots": 4, "float64": 4}
    assert ways["float64"]["margin_here"] == 0


def test_the_lens_names_the_block_that_turns_the_preference(toys):
    """Blocks 0 and 1 leave the state at token 5; block 2 turns it to token 4, block 3 keeps it there."""
    turn = torch.eye(H)
    turn[:2, :2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    weight, states = torch.zeros(V, H), torch.zeros(V, H)
    states[3, 1] = 1.0
    weight[4, 0], weight[5, 1] = 1.0, 0.5
    weight[6:, 0] = -1.0
    blocks = [toys.Times(1.0), toys.Times(2.0), toys.Matrix(turn), toys.Times(1.0)]
    result = asked(sk.HeadReplay, toy(toys, weight, states, norm=toys.Times(3.0), blocks=blocks))
    (settled,) = rows(result, "settled")
    assert (settled["token_id"], settled["second_id"]) == (4, 0)
    assert [row["ahead"] for row in rows(result, "stage")] == [0.0, 0.0, 6.0, 6.0]
    assert [row["ahead_raw"] for row in rows(result, "stage")] == [0.0, 0.0, 2.0, 2.0]
    assert (settled["first_ahead"], settled["settled"], settled["turns"]) == (2, 2, 1)
    assert value(result, "median_settled") == 2
    assert result.arrays["ahead"].tolist() == [[0.0, 0.0, 6.0, 6.0]]


def test_the_last_block_behind_the_lens_is_the_models_own_margin():
    loaded = sk.load("tiny")
    result = asked(sk.HeadReplay, loaded, ("once upon",), 4)
    last = rows(result, "stage", block=2)
    exact = rows(result, "replay", way="float64")
    assert [row["ahead"] for row in last] == pytest.approx([row["margin_here"] for row in exact], rel=1e-12)
    assert value(result, "differing_positions") == 0
    assert result.arrays["margins"].shape == (5, 4)


@pytest.mark.parametrize("spec", ["tiny:gemma2", "tiny:granite", "tiny:phi", "tiny:opt", "tiny:gpt2", "tiny:mamba"])
@pytest.mark.parametrize("kind", KINDS)
def test_families_are_measured_at_the_cost_that_was_stated(kind, spec):
    """Also those that cap or scale their logits: the order is the head's."""
    loaded = sk.load(spec)
    result = asked(kind, loaded, ([5, 6, 7], [8]), 2)
    assert value(result, "positions") == 4
    assert result.execution.forwards == kind(([5, 6, 7], [8]), 2).cost(loaded).forwards == 4


def test_blocks_that_return_several_states_have_no_lens():
    """Gemma 3n carries four streams side by side: no one of them is what the norm reads."""
    result = asked(sk.HeadReplay, sk.load("tiny:gemma3n"), ([5, 6, 7],), 2)
    assert not rows(result, "stage")
    assert "median_settled" not in result.readings
    assert value(result, "positions") == 2
    assert result.arrays["ahead"].size == 0


def test_listening_leaves_nothing_behind():
    loaded = sk.load("tiny")
    tool = norm_and_head(loaded)
    with pytest.raises(KeyError), hearing(tool.anatomy, stream=True):
        raise KeyError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{"prompts": "text"}, {"prompts": ()}, {"prompts": ("a",), "tokens": 0}])
def test_what_cannot_be_meant_is_refused(kind, how):
    with pytest.raises(sk.UsageError):
        kind(**how)


def test_ranks_and_tops_that_cannot_be_meant_are_refused():
    for ranks in ((), (2, 1), (0, 1), (1, 1)):
        with pytest.raises(sk.UsageError):
            sk.ReadoutAngles(("a",), ranks=ranks)
    with pytest.raises(sk.UsageError):
        sk.NormAlignment(("a",), top=1)
