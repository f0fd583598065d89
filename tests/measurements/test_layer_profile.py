"""Profiles of layers: models whose every state is known, against the same chain written out by hand."""

import math

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.avalanche import avalanche

AXIS = torch.eye(8, dtype=torch.float64)[2]
ONES = torch.ones(8, dtype=torch.float64) / math.sqrt(8)
DENSE = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))


def value(result, name):
    return result.readings[name].value


def rows_at(result, site, **fields):
    return [row for row in result.rows if row["site"] == site and all(row[k] == v for k, v in fields.items())]


def by_hand(states, x):
    """Every state of a chain of functions."""
    found = [x]
    for function in states:
        found.append(function(found[-1]))
    return found


# --- gains that are known


def test_exact_gains_are_those_of_the_blocks(toys):
    """Powers of two round nothing, so every number has a closed form."""
    gains = [torch.tensor([2.0, 1, 4, 1, 1, 1, 1, 1]), torch.full((8,), 8.0), torch.full((8,), 0.5)]
    subject = toys.subject([toys.Times(g) for g in gains])
    result = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.25, 0.5), unit="abs"), subject)
    x0, factor = subject.x0.double(), 1.0
    state = x0
    assert [row["site"] for row in result.rows[:6]] == [
        "embed",
        "block:0",
        "block:1",
        "block:2",
        "pre_norm",
        "post_norm",
    ]
    for site, gain in zip(["embed", "block:0", "block:1", "block:2"], [torch.ones(8), *gains], strict=True):
        factor, state = factor * float(gain[2]), state * gain
        for row in rows_at(result, site, epsilon=0.5, sign=-1):
            delta = row["realised_norm"]
            assert row["changed"] == 1
            assert row["percent_changed"] == 12.5
            assert row["l2"] == row["max_abs"] == 8 * row["mean_abs"] == factor * delta
            assert row["gain_realised"] == row["gain_exact"] == factor
            assert row["relative_l2"] == pytest.approx(factor * delta / float(state.norm()), rel=1e-12)
            assert row["gain_ratio"] == 1
            assert row["excess"] == row["rounding_share"] == row["forward_error"] == 0
            assert row["first_changed"] == (site == "embed")
    relative = [rows_at(result, f"block:{k}", epsilon=0.5, sign=-1)[0]["relative_l2"] for k in (0, 1, 2)]
    growth = [rows_at(result, f"block:{k}", epsilon=0.5, sign=-1)[0]["growth"] for k in (1, 2)]
    assert growth == pytest.approx([relative[1] / relative[0], relative[2] / relative[1]])
    assert math.isnan(value(result, "avalanche_block"))
    assert value(result, "avalanches") == 0
    assert value(result, "gain_ratio") == 1
    assert value(result, "forward_error") == 0
    start = float(x0.norm()) / float((x0 * gains[0]).norm()) * 4
    assert value(result, "amplification_end") == pytest.approx(start)
    assert value(result, "amplification_exact") == pytest.approx(start)
    assert value(result, "peak_growth") == pytest.approx(start)
    assert value(result, "peak_growth_site") == 1
    assert result.readings["peak_growth"].place["site"] == "block:0"
    assert result.readings["peak_growth"].place["block"] == "0"


def test_the_realised_step_is_reported_beside_the_nominal_one(toys):
    subject = toys.subject([toys.Times(2.0)])
    row = rows_at(sk.measure(sk.LayerProfile(direction=ONES, epsilons=(1e-7,), signs=(1,)), subject), "embed")[0]
    x = sk.perturb(subject.x0, ONES, 1e-7 * float(subject.x0.double().norm()))
    delta = x.double() - subject.x0.double()
    assert row["step"] == pytest.approx(1e-7 * float(subject.x0.double().norm()))
    assert row["realised_norm"] == float(delta.norm()) != row["step"]
    assert row["coords_moved"] == int((delta != 0).sum())
    assert row["alignment"] == pytest.approx(float(delta @ ONES / delta.norm()))
    assert row["gain_realised"] == 1


# --- where rounding takes over


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_avalanche_begins_at_the_block_that_rounds(toys, place):
    """One block of three multiplies by 1000 and rounds to 8 bits; its twin in float64 does not round."""
    blocks = [toys.Times(2.0) for _ in range(3)]
    blocks[place] = toys.Coarse(1000.0)
    subject = toys.subject(blocks, batch=8)
    asked = sk.LayerProfile(direction=ONES, epsilons=tuple(np.geomspace(3e-4, 1e-1, 24)))
    result = sk.measure(asked, subject)
    native = [lambda x: 2 * x] * 3
    exact = list(native)
    native[place], exact[place] = (lambda x: (x * 1000).to(torch.bfloat16).float()), (lambda x: x * 1000)
    still, still64 = by_hand(native, subject.x0), by_hand(exact, subject.x0.double())
    starts, moved = [], set()
    for sign in (1, -1):
        for epsilon in asked.epsilons:
            x = sk.perturb(subject.x0, ONES, sign * epsilon * float(subject.x0.double().norm()))
            told, true = by_hand(native, x), by_hand(exact, x.double())
            dh = [float((b.double() - a.double()).norm()) for a, b in zip(still, told, strict=True)]
            dh64 = [float((b - a).norm()) for a, b in zip(still64, true, strict=True)]
            over = [k for k in range(3) if dh[k + 1] > 2 * dh64[k + 1]]
            starts.append(over[0] if over and dh[3] > 2 * dh64[3] else math.nan)
            moved |= {epsilon} if dh[3] else set()
            for k in range(3):
                row = rows_at(result, f"block:{k}", sign=sign, epsilon=epsilon)[0]
                assert row["gain_ratio"] == pytest.approx(dh[k + 1] / dh64[k + 1], rel=1e-12)
                error = float((told[k + 1].double() - true[k + 1]).norm())
                assert row["excess"] == pytest.approx(error / dh64[k + 1], rel=1e-9)
                assert row["forward_error"] == pytest.approx(error / float(true[k + 1].norm()), rel=1e-9)
                change = (told[k + 1] - still[k + 1]).double() - (true[k + 1] - still64[k + 1])
                assert row["rounding_share"] == pytest.approx(float(change.norm()) / dh64[k + 1], rel=1e-9)
    assert {start for start in starts if not math.isnan(start)} == {place}
    np.testing.assert_array_equal(result.arrays["avalanche_block"], starts)
    assert value(result, "avalanche_block") == place
    assert result.readings["avalanche_block"].place["block"] == str(place)
    first = min(rows_at(result, "post_norm"), key=lambda row: row["realised_norm"] if row["gain_ratio"] > 2 else 9)
    assert result.readings["avalanche_block"].place["epsilon"] == f"{first['epsilon']:g}"
    assert value(result, "avalanches") == sum(not math.isnan(start) for start in starts) / 48
    ends = rows_at(result, "post_norm")
    assert value(result, "gain_ratio") == max(row["gain_ratio"] for row in ends if row["alignment"] >= 0.99)
    assert value(result, "forward_error") == max(row["forward_error"] for row in ends) > 1e-4
    assert value(result, "unchanged_outputs") == sum(not row["changed"] for row in ends) / 48
    assert value(result, "amplification_end") > 2 * value(result, "amplification_exact")
    assert f"from block {place} on" in result.sentence
    clean = sk.measure(asked, toys.subject([toys.Times(2.0), toys.Times(1000.0), toys.Times(2.0)], batch=8))
    assert math.isnan(value(clean, "avalanche_block"))


def test_an_avalanche_that_the_rest_forgets_is_none():
    """Only a change of the output that is mostly rounding has a beginning."""

    def profile(*ratios):
        sites = ["embed", *(f"block:{k}" for k in range(len(ratios) - 2)), "post_norm"]
        return [{"site": site, "gain_ratio": ratio} for site, ratio in zip(sites, ratios, strict=True)]

    assert avalanche(profile(1, 1.9, 2.1, 5, 3), 2.0) == 1
    assert math.isnan(avalanche(profile(1, 5, 5, 5, 1.9), 2.0))
    assert math.isnan(avalanche(profile(1, 1, 1, 1, 3), 2.0))  # it begins in the norm, which is no block
    assert math.isnan(avalanche(profile(1, math.nan, math.nan, math.nan, math.nan), 2.0))
    assert avalanche(profile(1, math.inf, 0, 0, 4), 2.0) == 0
    assert avalanche(profile(1, 3, 5, 5, 5), 4.0) == 1


def test_the_ratio_at_the_output_is_that_of_steps_along_the_direction(toys):
    """Steps of a few ULP go elsewhere: what rounding makes of those is no failure to follow the direction."""
    gains = (3.0, 7.0, 1.1, 0.9, 1.3, 0.7)
    subject = toys.subject([toys.Times(g) for g in gains], norm=toys.Times(torch.linspace(1, 9, 8)))
    steps = tuple(np.geomspace(2e-8, 1e-1, 25))
    result = sk.measure(sk.LayerProfile(direction=torch.linspace(-1, 2, 8), epsilons=steps), subject)
    ends = [row for row in rows_at(result, "post_norm") if row["coords_moved"]]
    kept = [row["gain_ratio"] for row in ends if row["alignment"] >= 0.99]
    assert value(result, "gain_ratio") == max(kept) < max(row["gain_ratio"] for row in ends)
    for name, column in (("amplification_end", "relative_l2"), ("amplification_exact", "relative_l2_exact")):
        entered = [row for row in rows_at(result, "embed") if row["coords_moved"]]
        found = [end[column] / start[column] for end, start in zip(ends, entered, strict=True)]
        assert value(result, name) == max(one for one in found if one == one)


# --- which sites changed


def test_onset_and_saturation_are_the_first_such_sites(toys):
    subject = toys.subject([toys.Times(2.0), toys.Matrix(DENSE), toys.Times(2.0)])
    result = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.01, 0.5), unit="abs"), subject)
    assert (value(result, "onset_site"), value(result, "saturation_site")) == (0, 2)
    assert result.readings["saturation_site"].place["site"] == "block:1"
    assert result.readings["onset_site"].place["epsilon"] == "0.01"
    assert [row["changed"] for row in result.rows[:6]] == [1, 1, 8, 8, 8, 8]
    above = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.5,), unit="abs", tau=0.75), subject)
    assert value(above, "onset_site") == 1
    assert above.readings["onset_site"].place["site"] == "block:0"


def test_an_absorbed_change_is_none_from_there_on(toys):
    subject = toys.subject([toys.Times(2.0), toys.Coarse(), toys.Times(2.0)])
    result = sk.measure(sk.LayerProfile(direction=ONES, epsilons=(1e-6,)), subject)
    assert [row["changed"] for row in result.rows[:6]] == [8, 8, 0, 0, 0, 0]
    assert rows_at(result, "block:1")[0]["growth"] == 0
    assert math.isnan(rows_at(result, "block:2")[0]["growth"])
    assert rows_at(result, "block:1")[0]["rounding_share"] == pytest.approx(1)
    assert value(result, "unchanged_outputs") == 1
    assert math.isnan(value(result, "onset_site"))
    assert math.isnan(value(result, "saturation_site"))
    assert "none of them changes the output" in result.sentence
    assert "change" not in result.arrays


def test_arrays_hold_the_maps_and_the_change_itself(toys):
    subject = toys.subject([toys.Times(2.0), toys.Matrix(DENSE)])
    result = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.25, 0.5), unit="abs"), subject)
    sites = ["embed", "block:0", "block:1", "pre_norm", "post_norm"]
    assert result.arrays["sites"].tolist() == result.arrays["change_sites"].tolist() == sites
    assert result.arrays["relative_l2"].shape == (4, 5)
    assert result.arrays["epsilon"].tolist() == [0.25, 0.5, 0.25, 0.5]
    assert result.arrays["sign"].tolist() == [1, 1, -1, -1]
    least = min(result.rows, key=lambda row: row["realised_norm"])
    delta = sk.perturb(subject.x0, AXIS, least["sign"] * 0.25).double() - subject.x0.double()
    wanted = [delta, 2 * delta, 2 * DENSE.double() @ delta]
    np.testing.assert_allclose(result.arrays["change_exact"][:3], torch.stack(wanted).numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.arrays["change"], result.arrays["change_exact"], atol=1e-6)
    for name in ("relative_l2", "relative_l2_exact", "gain_realised", "gain_exact"):
        told = [row[name] for row in result.rows]
        np.testing.assert_array_equal(result.arrays[name].ravel(), told)


# --- the true-float64 side


def test_without_an_oracle_its_columns_are_nan(toys, monkeypatch):
    subject = toys.subject([toys.Coarse(1000.0)])
    plain = sk.measure(sk.LayerProfile(direction=ONES, epsilons=(0.1,), oracle=False), subject)
    assert all(math.isnan(row["gain_exact"]) and math.isnan(row["forward_error"]) for row in plain.rows)
    assert math.isnan(value(plain, "avalanche_block"))
    assert plain.sentence.endswith("away.")
    assert "change_exact" not in plain.arrays

    def refuse(self):
        raise UnsupportedError("no memory for a copy")

    monkeypatch.setattr(sk.CausalLMSubject, "in_float64", refuse)
    refused = sk.measure(sk.LayerProfile(direction=ONES, epsilons=(0.1,)), subject)
    assert "no memory for a copy" in refused.sentence
    assert refused.subject["oracle"] == "no memory for a copy"
    assert value(refused, "gain_ratio") != value(refused, "gain_ratio")


def test_the_oracle_costs_its_sides_its_baseline_and_its_self_test(toys):
    """Two signs of one step fill a batch of 4, its reference another, the baseline one; the self-test takes 4 rows."""
    subject = toys.subject([toys.Times(2.0)])
    with_it, without = (sk.LayerProfile(AXIS, epsilons=(0.1,), oracle=oracle).cost(subject) for oracle in (True, False))
    assert with_it.forwards - without.forwards == 4 * (2 + 1) + 4


def test_steps_below_the_oracles_proof_are_not_divided_by(toys):
    """An exact zero of the embedding moves by 1e-20: true float64 has no digit of that in its states."""
    model = toys.model([toys.Matrix(DENSE)])
    with torch.no_grad():
        model.model.embed_tokens.weight[2, 2] = 0.0
    subject = sk.CausalLMSubject(sk.adopt(model), [3, 1, 2], batch=2)
    result = sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(1e-20, 0.5), unit="abs", signs=(1,)), subject)
    tiny, large = rows_at(result, "block:0")
    assert tiny["coords_moved"] == 1
    assert math.isnan(tiny["gain_exact"])
    assert math.isnan(tiny["excess"])
    assert tiny["forward_error"] > 0
    assert large["gain_exact"] == pytest.approx(float(DENSE[:, 2].double().norm()))


# --- sites are named


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_pre_norm_is_what_enters_the_norm_and_post_norm_what_leaves_it(family):
    """The study took the state after the norm for the one before it."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), "The capital of France is", batch=2)
    result = sk.measure(sk.LayerProfile(direction=torch.ones(64) / 8, epsilons=(1e-3,), signs=(1,)), subject)
    assert value(result, "norm_gap") == 0
    rows = {row["site"]: row for row in result.rows}
    assert rows["pre_norm"]["l2"] == rows["block:2"]["l2"] != rows["post_norm"]["l2"]
    assert rows["pre_norm"]["growth"] == 1


def test_a_norm_applied_twice_is_seen_before_the_head(toys):
    norm = toys.RMSNorm([2.0, 1, 1, 1, 1, 1, 1, 3])
    once = toys.subject([toys.Times(2.0)], norm)
    twice = toys.subject([toys.Times(2.0)], norm, between=norm)
    found = [sk.measure(sk.LayerProfile(direction=AXIS, epsilons=(0.1,)), one) for one in (once, twice)]
    assert value(found[0], "norm_gap") == 0
    assert value(found[1], "norm_gap") > 0.1
    last, entering = (rows_at(found[1], site)[0] for site in ("block:0", "pre_norm"))
    assert entering["relative_l2"] != last["relative_l2"]


@pytest.mark.parametrize("factor", [1.0, 0.5, math.nan])
def test_an_avalanche_is_more_than_the_true_change(factor):
    with pytest.raises(sk.UsageError, match="an avalanche is more than the true change"):
        sk.LayerProfile(factor=factor)


def test_a_block_that_multiplies_by_just_the_factor_is_no_avalanche():
    profile = [{"site": f"block:{k}", "gain_ratio": ratio} for k, ratio in enumerate((2.0, 3.0))]
    assert avalanche(profile, 2.0) == 1
    assert math.isnan(avalanche(profile, 3.0))
