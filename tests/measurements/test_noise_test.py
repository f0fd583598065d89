"""How often noise flips the top token: heads with a known probability, a head that never flips, and plain forwards."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.noise_models import SETS, coordinate_length
from stabilitykit.numerics.bits import ulp_distance
from stabilitykit.numerics.statistics import rate_bound, wilson

PROMPT = "The capital of France is"


def head(margin, x0=(2.0, 0.0), batch=8):
    """Two logits, the first larger by x_1 + margin m: noise of standard deviation s flips it with Phi(-m / s)."""

    def fn(X):
        return torch.stack([X[:, 1] + margin, torch.zeros(len(X), dtype=X.dtype)], dim=1)

    return sk.FunctionSubject(fn, torch.tensor(x0, dtype=torch.float64), batch=batch, name="head")


def ask(subject, *kinds, **how):
    return sk.measure(sk.NoiseTest(kinds=kinds, **how), subject, progress=False)


def rows(result, part):
    return [row for row in result.rows if row["part"] == part]


def value(result, name):
    return result.readings[name].value


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_flip_rate_is_the_known_probability(share):
    """Pooled over seeds within four standard deviations; the 95 % interval holds it for at least 17 of 20 seeds."""
    scale = 0.5
    margin = -scale * NormalDist().inv_cdf(share)
    subject = head(margin, batch=64)
    results = [ask(subject, sk.Gaussian(scale, "abs"), draws=500, seed=seed) for seed in range(20)]
    for result in results:
        rate, flips = result.readings["flip_rate"], value(result, "flips")
        assert rate.value == flips / 500
        assert (rate.low, rate.high) == wilson(flips, 500)
        assert value(result, "flip_rate_bound") == rate_bound(flips, 500)
        assert value(result, "draws") == 500
        assert value(result, "margin") == pytest.approx(margin)
    rates = [result.readings["flip_rate"] for result in results]
    assert np.mean([rate.value for rate in rates]) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1e4))
    assert sum(rate.low < share < rate.high for rate in rates) >= 17


def test_uniform_noise_flips_by_its_share_beyond_the_margin():
    """Uniform on (-0.5, 0.5) passes -0.3 in a fifth of the draws; the smallest flip moves x_1 by at least 0.3."""
    result = ask(head(0.3), sk.Uniform(0.5, "abs"), draws=1000)
    assert value(result, "flip_rate") == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 1000))
    assert 0.3 / 2 <= value(result, "smallest_flip") < 0.33 / 2


def test_a_clean_head_never_flips():
    result = ask(head(1e6), sk.UlpNoise(1), sk.Gaussian(0.1), sk.RoundTrip(4.0), draws=50)
    assert value(result, "flips") == value(result, "flip_rate") == 0
    assert value(result, "smallest_flip") == math.inf
    assert value(result, "flip_rate_bound") == rate_bound(0, 50)
    assert value(result, "draws") == 101
    assert result.sentence.startswith("None of 101 draws of 3 kinds of noise")
    result.check(flip_rate=0, smallest_flip=">= 0.1", flip_rate_bound=0.06)


def test_a_kind_without_chance_is_run_once_and_its_rate_is_exact():
    result = ask(head(0.5), sk.Constant(-1.0, "abs"), sk.Constant(-0.25, "abs"), draws=50)
    first, second = rows(result, "kind")
    assert (first["draws"], first["flips"], first["flip_rate"], first["low"], first["high"]) == (1, 1, 1, 1, 1)
    assert (second["draws"], second["flip_rate"], second["flip_rate_bound"], second["high"]) == (1, 0, 0, 0)
    assert first["smallest_flip"] == pytest.approx(math.sqrt(2) / 2)
    assert value(result, "flip_rate") == 1
    assert result.readings["flip_rate"].place == {"noise": "Constant(-1 abs)"}
    assert result.sentence == (
        "Noise changed the top token in 1 of 2 draws; the smallest that did was Constant(-1 abs), 0.707 of the input, "
        "with 1 of 1 draws."
    )


def test_the_worst_kind_is_named():
    result = ask(head(0.3), sk.Gaussian(0.01, "abs"), sk.Gaussian(1.0, "abs"), draws=40)
    assert result.readings["flip_rate"].place == {"noise": "Gaussian(1 abs)"}
    assert result.readings["smallest_flip"].place == {"noise": "Gaussian(1 abs)"}
    assert value(result, "flips") == rows(result, "kind")[1]["flips"]


def test_amplification_and_jump_are_medians_of_the_worst_kind():
    """y = (x_1 + m, 0), so a shift by c of both coordinates moves the output by c and the input by c sqrt 2."""
    result = ask(head(1.0), sk.Constant(0.5, "abs"), sk.Coordinate(0.25, "abs", index=1))
    shift, axis = rows(result, "draw")
    assert (shift["input_l2"], shift["output_l2"]) == (pytest.approx(0.5 * math.sqrt(2)), pytest.approx(0.5))
    assert shift["relative_l2"] == pytest.approx(0.5 * math.sqrt(2) / 2)
    assert shift["amplification"] == pytest.approx(1 / math.sqrt(2))
    assert axis["amplification"] == pytest.approx(1)
    assert value(result, "median_amplification") == pytest.approx(1)
    assert result.readings["median_amplification"].place["noise"].startswith("Coordinate")
    assert value(result, "max_logit_change") == pytest.approx(0.5)
    assert value(result, "jump_over_noise") == math.inf, "this head has no noise floor"


def test_the_jump_is_over_the_noise_floor():
    def fn(X):
        return torch.stack([X[:, 1] + 1, torch.full((len(X),), 1e-3 * len(X), dtype=X.dtype)], dim=1)

    subject = sk.FunctionSubject(fn, torch.tensor([1.0, 0.0], dtype=torch.float64), batch=8)
    floor = subject.noise_floor().l2
    assert floor == pytest.approx(7e-3)
    result = ask(subject, sk.Coordinate(0.5, "abs", index=1))
    assert value(result, "jump_over_noise") == pytest.approx(0.5 / floor)
    assert result.noise == subject.noise_floor().sentence


def test_angles_margins_and_divergence_by_hand():
    """Logits (1, 0) become (-2, 0) by a shift of -3 of x_1."""
    (row,) = rows(ask(head(1.0), sk.Coordinate(-3.0, "abs", index=1)), "draw")
    p, q = torch.tensor([1.0, 0.0]).double().softmax(0), torch.tensor([-2.0, 0.0]).double().softmax(0)
    assert row["output_angle"] == pytest.approx(math.pi)
    assert row["kl"] == pytest.approx(float((p * (p / q).log()).sum()))
    assert (row["margin_before"], row["margin_after"]) == (1, 2)
    assert (row["token_id_before"], row["token_id_after"], row["token_changed"]) == (0, 1, True)
    assert (row["logit_before"], row["logit_after"]) == (1, 0)
    assert (row["probability_before"], row["probability_after"]) == (
        pytest.approx(float(p[0])),
        pytest.approx(float(q[1])),
    )
    assert (row["logit_l2"], row["logit_max_abs"], row["output_l2"]) == (3, 3, 3)
    assert row["token_before"] == "", "a function has no tokenizer"


def test_the_largest_logit_change_is_of_one_logit():
    subject = sk.FunctionSubject(lambda X: X, torch.zeros(4, dtype=torch.float64))
    result = ask(subject, sk.Constant(0.5, "abs"))
    assert value(result, "max_logit_change") == 0.5
    assert rows(result, "draw")[0]["logit_l2"] == 1


def slotted(X):
    """The identity with another offset in every slot of a batch."""
    return X + torch.arange(len(X), dtype=X.dtype)[:, None]


def test_each_draw_is_compared_with_the_baseline_of_its_own_slot():
    subject = sk.FunctionSubject(slotted, torch.tensor([1.0, -1.0], dtype=torch.float64), batch=4)
    for row in rows(ask(subject, sk.Gaussian(0.1, "abs"), draws=10), "draw"):
        assert row["amplification"] == pytest.approx(1, rel=1e-9)


def test_equal_inputs_are_run_once_and_no_noise_changes_nothing():
    subject = head(1.0, batch=1)
    subject.noise_floor()
    result = ask(subject, sk.UlpNoise(0), sk.DtypeRoundTrip("float64"), sk.Gaussian(0.0), draws=20)
    assert result.execution.forwards == 2, "the baseline and the undisturbed input"
    for row in rows(result, "draw"):
        assert (row["input"], row["output_l2"], row["token_changed"]) == (0, 0, False)
        assert math.isnan(row["amplification"])
    assert math.isnan(value(result, "median_amplification"))
    assert [row["n_distinct"] for row in rows(result, "kind")] == [1, 1, 1]


def test_an_undisturbed_input_with_other_bits_is_invalid():
    """The mask of the study: the disturbed run sees another one, so that even no disturbance changes the output."""
    calls = iter(range(1000))
    subject = sk.FunctionSubject(lambda X: X * (1 + (next(calls) > 0)), torch.ones(2))
    with pytest.raises(sk.InvalidError, match="the unperturbed input, run among perturbed ones, has other bits"):
        ask(subject, sk.UlpNoise(0))


def test_each_kind_has_a_stream_of_its_own_from_the_seed():
    asked = (sk.Gaussian(0.1, "abs"), sk.Uniform(0.1, "abs"))
    first, again, other = (ask(head(1.0), *asked, draws=3, seed=seed) for seed in (1, 1, 2))
    assert first.rows == again.rows
    assert first.rows != other.rows
    alone = ask(head(1.0), asked[0], draws=3, seed=1)
    assert [row["input_l2"] for row in rows(alone, "draw")] == [row["input_l2"] for row in rows(first, "draw")][:3]
    more = ask(head(1.0), asked[0], draws=5, seed=1)
    assert [row["input_l2"] for row in rows(more, "draw")][:3] == [row["input_l2"] for row in rows(alone, "draw")]


def apply(kind, x0, seed=0):
    return kind.apply(x0, np.random.Generator(np.random.PCG64(seed)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("steps", [1, 3])
def test_ulp_noise_moves_every_coordinate_by_exactly_its_floats(dtype, steps):
    x0 = torch.linspace(-2, 3, 101).to(dtype)
    moved = apply(sk.UlpNoise(steps), x0)
    assert set(ulp_distance(x0, moved).tolist()) == {steps}
    up = int((moved.double() > x0.double()).sum())
    assert 30 < up < 71


def test_scaled_noise_has_its_size_in_every_unit():
    x0 = torch.tensor([3.0, -4.0] * 5000)
    rms = math.sqrt(12.5)
    assert coordinate_length("rel", x0) == pytest.approx(rms)
    assert coordinate_length("ulp", x0) == 2.0**-22
    for unit, length in (("abs", 1.0), ("rel", rms)):
        noise = (apply(sk.Gaussian(0.1, unit), x0) - x0).double()
        assert float(noise.std()) == pytest.approx(0.1 * length, rel=0.03)
        assert abs(float(noise.mean())) < 0.005 * length
        noise = (apply(sk.Uniform(0.1, unit), x0) - x0).double()
        assert float(noise.abs().max()) == pytest.approx(0.1 * length, rel=0.01)
        assert float(noise.std()) == pytest.approx(0.1 * length / math.sqrt(3), rel=0.03)
        shift = (apply(sk.Constant(0.1, unit), x0) - x0).double()
        assert torch.allclose(shift, torch.full_like(shift, 0.1 * length), rtol=1e-5)
        axis = (apply(sk.Coordinate(0.1, unit, index=1), x0) - x0).double()
        assert axis.nonzero().flatten().tolist() == [1]
        assert float(axis[1]) == pytest.approx(0.1 * length, rel=1e-5)
    assert torch.equal(apply(sk.Constant(1, "ulp"), x0), x0 + 2.0**-22)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_round_trip_is_that_of_the_dtype_s_own_arithmetic(dtype):
    x0 = torch.linspace(-0.03, 0.03, 997).to(dtype)
    for kind in SETS["round trips"]:
        wanted = x0 + torch.tensor(kind.constant, dtype=dtype)
        assert torch.equal(apply(kind, x0), wanted - torch.tensor(kind.constant, dtype=dtype))


def test_a_large_round_trip_leaves_nothing_and_a_small_one_most():
    """The constant is not the size of the change; at 32 every bfloat16 coordinate of size 0.01 is lost."""
    x0 = 0.01 * torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal(4096)).to(torch.bfloat16)
    change = {
        c: float((apply(sk.RoundTrip(c), x0) - x0).double().norm() / x0.double().norm()) for c in (2.0**-10, 1, 32)
    }
    assert change[2.0**-10] < 2e-3
    assert 0.1 < change[1] < 0.3
    assert change[32] == 1


def test_a_dtype_round_trip_is_a_cast_and_back():
    x0 = torch.linspace(-1, 1, 100)
    assert torch.equal(apply(sk.DtypeRoundTrip("bfloat16"), x0), x0.bfloat16().float())
    assert torch.equal(apply(sk.DtypeRoundTrip("float8_e5m2"), x0), x0.to(torch.float8_e5m2).float())


def test_the_study_s_sets_are_complete():
    assert [kind.constant for kind in SETS["round trips"]] == [2.0**p for p in range(-10, 6)]
    assert len(SETS["added"]) == 64
    assert SETS["added"][:4] == (
        sk.Uniform(2.0**-11, "abs"),
        sk.Gaussian(2.0**-10, "abs"),
        sk.Constant(2.0**-10, "abs"),
        sk.Coordinate(2.0**-10, "abs"),
    )
    result = sk.measure(sk.NoiseTest(kinds="added", draws=1), head(1.0), progress=False)
    assert value(result, "draws") == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sk.NoiseTest(kinds=()), "kinds is empty"),
        (lambda: sk.NoiseTest(kinds="white"), "kinds 'white' is not one of sizes, round trips, added"),
        (lambda: sk.NoiseTest(kinds=(0.1,)), "0.1 is no kind of noise"),
        (lambda: sk.NoiseTest(kinds=(sk.UlpNoise(1), sk.UlpNoise(1))), "name one noise twice"),
        (lambda: sk.NoiseTest(draws=0), "draws=0 draws nothing"),
        (lambda: sk.UlpNoise(1.5), "steps=1.5 is not a count"),
        (lambda: sk.UlpNoise(-1), "steps=-1 is not a count"),
        (lambda: sk.Gaussian(math.nan), "scale=nan is not a finite number"),
        (lambda: sk.Uniform(1, "percent"), "unit 'percent' is not one of abs, rel, ulp"),
        (lambda: sk.RoundTrip(math.inf), "constant=inf is not a finite number"),
        (lambda: sk.DtypeRoundTrip("int8"), "int8 has no floating-point lattice"),
        (lambda: sk.DtypeRoundTrip("half a byte"), "'half a byte' is no dtype"),
        (lambda: ask(head(1.0), sk.Coordinate(1.0, index=2)), "coordinate 2 does not exist"),
        (lambda: ask(head(1.0), sk.UlpNoise(1), spare_special=True), "has no tokenizer to say which"),
    ],
)
def test_what_means_nothing_is_refused(make, message):
    with pytest.raises(sk.UsageError, match=message):
        make()


def test_a_model_is_compared_with_plain_forwards():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode", batch=8)
    result = ask(subject, sk.Gaussian(0.1), sk.RoundTrip(4.0), draws=6, seed=3)
    random = np.random.Generator(np.random.PCG64((3, 0)))
    model, E, x0 = subject.model, subject.embeddings, subject.x0.double()
    base = model(inputs_embeds=E[None], output_hidden_states=True)
    for row in rows(result, "draw")[:6]:
        noise = torch.from_numpy(random.standard_normal(64)) * 0.1 * float(x0.norm()) / 8
        x = (x0 + noise).float()
        assert row["input_l2"] == pytest.approx(float((x.double() - x0).norm()), rel=1e-12)
        found = model(inputs_embeds=torch.cat([E[:-1], x[None]])[None], output_hidden_states=True)
        before, after = base.logits[0, -1].double(), found.logits[0, -1].double()
        assert (row["token_id_before"], row["token_id_after"]) == (int(before.argmax()), int(after.argmax()))
        change = (found.hidden_states[-1] - base.hidden_states[-1])[0, -1]
        assert row["output_l2"] == pytest.approx(float(change.norm()), rel=1e-3)
        cosine = torch.cosine_similarity(found.hidden_states[-1][0, -1], base.hidden_states[-1][0, -1], dim=0)
        assert row["output_angle"] == pytest.approx(math.acos(float(cosine)), rel=1e-2)
        assert row["pre_norm_l2"] > 0
        assert row["pre_norm_angle"] > 0


def test_a_part_of_a_model_has_no_tokens():
    part = sk.ModuleSubject(sk.CausalLMSubject(sk.load("tiny"), "abc"), "model.layers.1.mlp")
    with pytest.raises(sk.UnsupportedError, match="is a part of a model and has no logits"):
        ask(part, sk.UlpNoise(1))


def test_all_rows_of_the_prompt_may_move_and_special_tokens_be_spared():
    loaded = sk.load("tiny")
    ids = [256, *b"abc"]
    subject = sk.CausalLMSubject(loaded, ids, rows="all", batch=4)
    result = ask(subject, sk.Gaussian(0.1), sk.UlpNoise(1), draws=3)
    assert result.arrays["token_l2"].shape == (6, 4)
    assert (result.arrays["token_l2"] > 0).all()
    for row, lengths in zip(rows(result, "draw"), result.arrays["token_l2"], strict=True):
        assert row["input_l2"] == pytest.approx(np.linalg.norm(lengths))
    spared = ask(subject, sk.Gaussian(0.1), draws=3, spare_special=True)
    assert (spared.arrays["token_l2"][:, 0] == 0).all()
    assert (spared.arrays["token_l2"][:, 1:] == result.arrays["token_l2"][:3, 1:]).all()
    last = sk.CausalLMSubject(loaded, [*b"abc", 257], batch=4)
    with pytest.raises(sk.UsageError, match="every token that moves is special"):
        ask(last, sk.UlpNoise(1), spare_special=True)
    assert "token_l2" not in ask(last, sk.UlpNoise(1)).arrays


def test_the_stated_cost_bounds_the_work():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode", batch=16)
    asked = sk.NoiseTest()
    stated, took = asked.cost(subject).forwards, sk.measure(asked, subject, progress=False).execution.forwards
    assert stated / 2 <= took <= stated


def test_the_stated_rows_are_those_of_draws_baseline_and_noise_floor():
    """8 inputs in batches of 4 and the baseline; the floor takes 3 batches, and 1, 2, 3, 8 and one more."""
    assert sk.NoiseTest(kinds=(sk.Gaussian(0.1),), draws=7).cost(head(1.0, batch=4)).forwards == (3 + 3) * 4 + 14 + 1
