"""Gains with known answers: linear maps, steps that rounding absorbs, rounding that is planted, curvature."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.gain import MOVES
from stabilitykit.measurements.gain_cells import ulp_moves, window
from stabilitykit.measurements.gain_readings import nearest
from stabilitykit.subjects.precision import double_of

SIGMA = [8.0, 5.0, 3.0, 2.0, 1.0, 0.5]
PROMPT = "The capital of France is"


def rotation(size, seed):
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return q


def planted(dtype=torch.float64, batch=4):
    """A linear map with the singular values SIGMA."""
    J = rotation(6, 1) @ torch.diag(torch.tensor(SIGMA, dtype=torch.float64)) @ rotation(6, 2)
    x0 = torch.linspace(0.5, 1.5, 6, dtype=dtype)
    return sk.FunctionSubject(lambda X: X @ J.T.to(X.dtype), x0, batch=batch, name="linear"), J


def cells(result):
    return [row for row in result.rows if row["part"] == "cell"]


def ask(subject, **how):
    return sk.measure(sk.DirectionalGain(**how), subject, progress=False)


def value(result, name):
    return result.readings[name].value


NAMES = [("v1", 8.0), ("-v2", 5.0), ("v_middle", 3.0), ("v_last", 0.5), ("v99", 0.5)]


@pytest.mark.parametrize(("name", "sigma"), NAMES)
@pytest.mark.parametrize("unit", ["rel", "abs", "ulp"])
def test_the_gain_of_a_linear_map_is_its_singular_value(name, sigma, unit):
    epsilons = {"rel": (0.1, 1e-3), "abs": (0.1, 1e-3), "ulp": (2.0**46, 2.0**44)}[unit]
    result = ask(planted()[0], directions=name, epsilons=epsilons, unit=unit, at=epsilons[1])
    for row in cells(result):
        assert row["gain_nominal"] == pytest.approx(sigma, rel=1e-9)
        assert row["output_diff_norm"] == pytest.approx(sigma * row["eps_abs"], rel=1e-9)
        assert row["gain_realised"] == pytest.approx(sigma, rel=1e-9)
        assert row["gain_true"] == pytest.approx(sigma, rel=1e-9)
        assert row["sigma"] == pytest.approx(sigma, rel=1e-9)
        assert row["directional_sigma"] == pytest.approx(sigma, rel=1e-9)
        assert row["ratio"] == pytest.approx(1, rel=1e-9)
        assert row["deviation"] < 1e-6
        assert row["alignment"] == pytest.approx(1, abs=1e-12)
        assert row["realised_ratio"] == pytest.approx(1, rel=1e-9)
        assert row["regime"] == "linear"
    assert len(cells(result)) == 4
    for reading in ("gain_nominal", "gain_realised", "gain_true", "sigma"):
        assert value(result, reading) == pytest.approx(sigma, rel=1e-9)
    assert value(result, "coords_moved") == 6
    assert value(result, "alignment") == pytest.approx(1, abs=1e-12)
    assert value(result, "deviation") < 1e-6
    assert value(result, "linear") == 4
    assert value(result, "rounding") == value(result, "nonlinear") == value(result, "absorbed") == 0


def test_lengths_are_those_asked_for_in_every_unit():
    subject, _ = planted(torch.float32)
    length, spacing = float(subject.x0.double().norm()), 2.0**-23 / 2
    spacings = sorted(2.0 ** (math.floor(math.log2(x)) - 23) for x in subject.x0.tolist())
    assert spacings[2] == spacing
    for unit, size in (("abs", 1.0), ("rel", length), ("ulp", spacing)):
        (row,) = cells(ask(subject, directions="v1", epsilons=(0.25,), unit=unit, signs="+"))
        assert row["eps_abs"] == pytest.approx(0.25 * size, rel=1e-12)
        assert row["eps_rel"] == pytest.approx(0.25 * size / length, rel=1e-12)
        assert row["eps_ulp"] == pytest.approx(0.25 * size / spacing, rel=1e-12)


def test_a_direction_is_used_as_given_and_its_length_is_part_of_the_step():
    subject, J = planted()
    d = 3 * torch.eye(6, dtype=torch.float64)[2]
    (row,) = cells(ask(subject, directions=d, epsilons=(1e-3,), unit="abs", signs="-"))
    assert row["eps_abs"] == pytest.approx(3e-3)
    assert row["gain_nominal"] == pytest.approx(float(J[:, 2].norm()), rel=1e-9)
    assert row["sigma"] == pytest.approx(float(J[:, 2].norm()), rel=1e-12)
    assert (row["direction"], row["sign"]) == ("0", "-")


def test_steps_that_rounding_changes_are_measured_as_they_are():
    """x0 = 1 in each of three coordinates; a step of 0.75 spacings up moves one, half a spacing of two is a tie."""
    spacing = 2.0**-23
    subject = sk.FunctionSubject(lambda X: 2 * X, torch.ones(3), batch=2)
    d = torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64)
    (row,) = cells(ask(subject, directions=d, epsilons=(spacing,), unit="abs", signs="+"))
    nominal = spacing * math.sqrt(0.75**2 + 0.5**2 + 0.25**2)
    assert row["coords_moved"] == 1
    assert row["realised_norm"] == spacing
    assert row["realised_ratio"] == pytest.approx(spacing / nominal, rel=1e-12)
    assert row["alignment"] == pytest.approx(0.75 * spacing / nominal, rel=1e-12)
    assert row["output_diff_norm"] == 2 * spacing
    assert row["gain_nominal"] == pytest.approx(2 * spacing / nominal, rel=1e-12)
    assert row["gain_realised"] == row["gain_true"] == row["directional_sigma"] == 2
    assert row["sigma"] == pytest.approx(2, rel=1e-6)


def test_an_absorbed_step_has_no_gain_and_says_so():
    subject, _ = planted(torch.float32)
    result = ask(subject, directions="v1", epsilons=(1e-2, 1e-12), at=1e-12, signs="+")
    kept, absorbed = cells(result)
    assert (kept["regime"], absorbed["regime"]) == ("linear", "absorbed")
    assert absorbed["coords_moved"] == absorbed["output_diff_norm"] == absorbed["gain_nominal"] == 0
    for name in ("gain_realised", "gain_true", "ratio", "deviation", "alignment"):
        assert math.isnan(absorbed[name]), name
    assert absorbed["input"] == 0, "it is the undisturbed input, which is run once"
    assert math.isnan(value(result, "gain_realised"))
    assert value(result, "coords_moved") == 0
    assert value(result, "absorbed") == 1
    assert result.sentence.startswith("The dtype cannot represent a step of")


def rounding_to(grid):
    """The identity, rounded to a grid as float32 rounds: its float64 twin is not rounded."""
    return sk.FunctionSubject(
        lambda X: (X / grid).round() * grid, torch.tensor([0.5, 0.25]), batch=3, exact=lambda X: X, name="grid"
    )


def test_planted_rounding_is_told_from_the_function():
    """A quantiser of 2**-10: steps far above it are linear, steps below are rounding; its own derivative is zero."""
    subject = rounding_to(2.0**-10)
    d = torch.tensor([1.0, 0.0], dtype=torch.float64)
    result = ask(subject, directions=d, epsilons=(2.0**-3, 2.0**-6, 2.0**-12, 2.0**-14), unit="abs", at=2.0**-12)
    regimes = {(row["sign"], row["epsilon"]): row["regime"] for row in cells(result)}
    for sign in "+-":
        assert [regimes[sign, 2.0**-k] for k in (3, 6, 12, 14)] == ["linear", "linear", "rounding", "rounding"]
    assert value(result, "eps_linear_min") == 2.0**-6
    assert value(result, "eps_linear_max") == 2.0**-3
    assert value(result, "gain_true") == 1
    assert value(result, "gain_realised") == 0
    assert value(result, "deviation") == 1


def test_without_an_oracle_rounding_reaches_as_far_as_one_ulp_moves_show():
    """Output noise of up to 2**-12 for any other input: deviations within three of its effects are rounding's."""

    def noisy(X):
        other = (X != 0.5).any(dim=1, keepdim=True).to(X.dtype)
        return X + 2.0**-12 * other

    class Noisy(sk.FunctionSubject):
        def jvp(self, V):
            return V

    d = torch.tensor([1.0, 0.0], dtype=torch.float64)
    subject = Noisy(noisy, torch.tensor([0.5, 0.5]), batch=2)
    asked = {"directions": d, "epsilons": (2.0**-1, 2.0**-11), "unit": "abs", "oracle": False, "signs": "+"}
    result = ask(subject, **asked)
    assert [row["regime"] for row in cells(result)] == ["linear", "rounding"]
    assert value(result, "rounding_noise") == pytest.approx(2.0**-12 * math.sqrt(2), rel=1e-3)
    assert value(result, "rounding_noise_max") == pytest.approx(2.0**-12 * math.sqrt(2), rel=1e-3)
    assert math.isnan(value(result, "gain_true"))
    curved = Noisy(lambda X: noisy(X) + (X - 0.5).abs().clamp(min=2.0**-6) - 2.0**-6, subject.x0, batch=2)
    assert [row["regime"] for row in cells(ask(curved, **asked))] == ["nonlinear", "rounding"]


def test_rounding_noise_is_the_median_and_the_largest_over_one_ulp_moves():
    """Output noise 2**-12 where the first coordinate went up and four times that where it went down."""

    def noisy(X):
        up, down = (X[:, :1] > 0.5).to(X.dtype), (X[:, :1] < 0.5).to(X.dtype)
        return X[:, 1:] + 2.0**-12 * up + 2.0**-10 * down

    class Noisy(sk.FunctionSubject):
        def jvp(self, V):
            return V[:, 1:]

    d = torch.tensor([0.0, 1.0], dtype=torch.float64)
    result = ask(Noisy(noisy, torch.tensor([0.5, 0.5]), batch=2), directions=d, epsilons=(0.1,), oracle=False)
    moves = ulp_moves(torch.tensor([0.5, 0.5]), MOVES, 0)
    effects = [2.0**-12 if move[0] > 0.5 else 2.0**-10 for move in moves]
    assert set(effects) == {2.0**-12, 2.0**-10}
    assert value(result, "rounding_noise") == pytest.approx(np.median(effects), rel=1e-3)
    assert value(result, "rounding_noise_max") == pytest.approx(2.0**-10, rel=1e-3)


def test_each_step_is_compared_with_the_baseline_of_its_own_slot():
    """Natively and in float64; the draws of the noise as well."""

    def slotted(X):
        return 3 * X + torch.arange(len(X), dtype=X.dtype)[:, None]

    subject = sk.FunctionSubject(slotted, torch.ones(2, dtype=torch.float64), batch=4)
    result = ask(subject, directions="v1", epsilons=(0.1, 0.01, 0.001), noise="isotropic", samples=[3])
    for row in cells(result):
        assert row["gain_realised"] == row["gain_true"] == pytest.approx(3, rel=1e-9)
    assert [row["gain_smoothed"] for row in result.rows if row["part"] == "smoothed"] == pytest.approx(
        [3] * 6, rel=1e-6
    )


def test_curvature_is_no_rounding():
    """x + x**2 / 2 at 0: the gain of a step e is 1 + e / 2 up and 1 - e / 2 down."""
    subject = sk.FunctionSubject(lambda X: X + X * X / 2, torch.zeros(1, dtype=torch.float64))
    d = torch.ones(1, dtype=torch.float64)
    result = ask(subject, directions=d, epsilons=(0.5, 0.02), unit="abs", at=0.5)
    gains = {(row["sign"], row["epsilon"]): (row["gain_realised"], row["regime"]) for row in cells(result)}
    assert gains["+", 0.5] == (pytest.approx(1.25), "nonlinear")
    assert gains["-", 0.5] == (pytest.approx(0.75), "nonlinear")
    assert gains["+", 0.02] == (pytest.approx(1.01), "linear")
    assert value(result, "gain_realised") == pytest.approx(1.25)
    assert result.readings["gain_realised"].place == {"direction": "0", "sign": "+", "epsilon": "0.5"}
    assert value(result, "deviation") == pytest.approx(0.25)
    assert [row["ratio"] for row in cells(result)] == pytest.approx([1.25, 1.01, 0.75, 0.99])
    assert value(result, "nonlinear") == value(result, "linear") == 2


def test_equal_lengths_are_no_agreement():
    """The change turns by a right angle and keeps its length: |dy| / |J delta| = 1, and still it is not linear."""

    class Turned(sk.FunctionSubject):
        def jvp(self, V):
            return V.flip(1) * torch.tensor([1.0, -1.0])

    subject = Turned(lambda X: X, torch.ones(2, dtype=torch.float64))
    asked = {"directions": torch.tensor([1.0, 0.0]), "epsilons": (0.1,), "unit": "abs", "signs": "+", "oracle": False}
    (row,) = cells(ask(subject, **asked))
    assert row["ratio"] == pytest.approx(1)
    assert row["deviation"] == pytest.approx(math.sqrt(2))
    assert row["regime"] == "nonlinear"


def test_a_direction_that_the_map_kills_is_linear_where_nothing_moves():
    subject = sk.FunctionSubject(lambda X: X[:, :1], torch.ones(2, dtype=torch.float64))
    (row,) = cells(ask(subject, directions=torch.tensor([0.0, 1.0]), epsilons=(0.1,), unit="abs", signs="+"))
    assert (row["regime"], row["gain_realised"], row["sigma"], row["deviation"]) == ("linear", 0, 0, 0)
    assert math.isnan(row["ratio"])


def test_the_linear_range_is_the_longest_run_and_the_larger_steps_win_a_tie():
    def ray(regimes):
        return [{"eps_abs": 2.0**k, "regime": name} for k, name in enumerate(regimes)]

    L, R, N = "linear", "rounding", "nonlinear"
    assert window(ray([R, L, R, L, L, N])) == (8, 16)
    assert window(ray([L, R, L, N])) == (4, 4)
    assert all(math.isnan(end) for end in window(ray([R, N])))
    assert window(ray([L, L])[::-1]) == (1, 2)


def test_readings_are_taken_at_the_nearest_length():
    rows = [{"epsilon": epsilon} for epsilon in (1e-1, 1e-3, 1e-5)]
    for at, epsilon in ((1, 1e-1), (2e-3, 1e-3), (1e-4, 1e-3), (1e-9, 1e-5)):
        assert nearest(rows, at) == [{"epsilon": epsilon}]


def test_the_worst_ray_decides():
    result = ask(planted()[0], directions=("v1", "v_last"), epsilons=(1e-2,))
    assert value(result, "gain_realised") == pytest.approx(8, rel=1e-9)
    assert result.readings["gain_realised"].place["direction"] == "v1"
    assert value(result, "sigma") == pytest.approx(8, rel=1e-9)


def test_signs_are_one_or_both():
    for signs, wanted in (("both", ["+", "-"]), ("+", ["+"]), ("-", ["-"])):
        assert [
            row["sign"] for row in cells(ask(planted()[0], directions="v1", epsilons=(1e-2,), signs=signs))
        ] == wanted


def test_equal_inputs_are_run_once():
    subject, _ = planted(torch.float32, batch=1)
    subject.noise_floor()
    result = ask(subject, directions="v1", epsilons=[10.0**-k for k in range(9, 40)], oracle=False)
    assert value(result, "absorbed") > 50
    assert result.execution.forwards <= 1 + 1 + 8 + 6


def test_a_function_without_derivative_is_measured_without_a_regime():
    class Bare(sk.FunctionSubject):
        def jvp(self, V):
            raise sk.UnsupportedError("none")

    subject = Bare(lambda X: 2 * X, torch.ones(2), batch=2)
    result = ask(subject, directions=torch.ones(2), epsilons=(0.1,), signs="+", oracle=False)
    (row,) = cells(result)
    assert row["regime"] == "unknown"
    assert row["gain_realised"] == pytest.approx(2)
    assert math.isnan(row["directional_sigma"])
    assert value(result, "unknown") == 1
    assert math.isnan(value(result, "rounding_noise"))
    assert "1 unknown" in result.sentence


def test_a_subject_without_a_float64_twin_says_why():
    weight = torch.eye(2)
    subject = sk.FunctionSubject(lambda X: X @ weight, torch.ones(2), batch=2, name="narrow")
    result = ask(subject, directions="v1", epsilons=(1e-2,))
    assert "No true float64: narrow takes no float64 input" in result.sentence
    assert result.subject["oracle"].startswith("narrow takes no float64 input")
    assert math.isnan(value(result, "gain_true"))
    assert value(result, "linear") == 2
    assert ask(planted()[0], directions="v1", epsilons=(1e-2,)).subject["oracle"] == "true float64"


def test_an_input_that_does_not_repeat_is_invalid():
    counted = iter(range(10**6))
    subject = sk.FunctionSubject(lambda X: X + next(counted), torch.ones(2))
    with pytest.raises(sk.InvalidError, match="has other bits than before"):
        ask(subject, directions=torch.ones(2), oracle=False)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilons": ()}, "give at least one length"),
        ({"epsilons": (1e-3, 0.0)}, "all positive and finite"),
        ({"epsilons": (math.inf,)}, "all positive and finite"),
        ({"unit": "relative"}, "unit 'relative' is not one of abs, rel, ulp"),
        ({"signs": "+-"}, "signs '\\+-' is not one of both, \\+, -"),
        ({"at": 0}, "at=0 is not a positive number"),
        ({"tolerance": math.nan}, "tolerance=nan is not a positive number"),
        ({"rule": "p16"}, "rule 'p16' is not one of"),
        ({"noise": "white"}, "noise 'white' is not one of isotropic, along"),
        ({"noise": "along", "noise_scale": 0}, "noise_scale=0 draws nothing"),
        ({"noise": "along", "noise_unit": "m"}, "noise_unit 'm' is not one of eps, abs, rel, ulp"),
        ({"samples": 2}, "an interval needs at least 3 draws"),
        ({"samples": ()}, "an interval needs at least 3 draws"),
    ],
)
def test_what_means_nothing_is_refused(how, message):
    with pytest.raises(sk.UsageError, match=message):
        sk.DirectionalGain(**how)


def test_a_zero_direction_is_refused():
    with pytest.raises(sk.UsageError, match="the direction is zero"):
        ask(planted()[0], directions=torch.zeros(6))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "gpt2"])
def test_true_gains_of_models_are_their_singular_values(family):
    """In true float64, at absolute steps from 1e-4, within 1 percent of |J v| from the dense matrix."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), PROMPT, path="decode", batch=16)
    twin = subject.in_float64()
    dense = torch.cat([twin.vjp(rows) for rows in torch.eye(64, dtype=torch.float64).split(16)])
    result = ask(subject, directions=("v1", "v3"), epsilons=(1e-2, 1e-3, 1e-4), unit="abs", at=1e-4)
    for row in cells(result):
        v = sk.singular_vectors(subject, 3)[int(row["direction"][1:]) - 1]
        assert row["sigma"] == pytest.approx(float((dense @ v).norm()), rel=1e-5)
        if row["epsilon"] < 1e-2:
            assert row["gain_true"] == pytest.approx(float((dense @ v).norm()), rel=0.01)
            assert row["regime"] == "linear"
    assert value(result, "rounding_noise") < 1e-4


def test_a_plain_cast_to_float64_fails_where_true_float64_does_not():
    """The study's float64 gains: the norm casts to float32, so at 1e-8 they are noise over the step."""
    loaded = sk.load("tiny:llama")
    asked = {"directions": torch.linspace(-1, 1, 64, dtype=torch.float64), "signs": "+", "unit": "abs"}
    asked |= {"epsilons": (1e-4, 1e-7, 1e-9, 1e-11)}
    plain = sk.CausalLMSubject(replace(loaded, model=double_of(loaded.model)), PROMPT, path="decode", batch=4)
    rows = cells(ask(plain, **asked))
    truth = [row["gain_true"] for row in rows]
    assert truth == pytest.approx([rows[0]["sigma"]] * 4, rel=1e-3)
    study = [row["gain_realised"] for row in rows]
    assert study[0] == pytest.approx(truth[0], rel=0.01)
    assert all(abs(gain - truth[0]) > 0.5 * truth[0] for gain in study[2:])
    assert [row["regime"] for row in rows if row["epsilon"] in (1e-4, 1e-9, 1e-11)] == [
        "linear",
        "rounding",
        "rounding",
    ]


def test_tokens_before_and_after_come_from_the_same_forward():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode", batch=16)
    result = ask(subject, directions="v1", epsilons=(0.3, 1e-5), signs="+", export=True)
    model, E = subject.model, subject.embeddings
    with torch.no_grad():
        before = model(inputs_embeds=E[None]).logits[0, -1].double()
        for row in cells(result):
            x = sk.perturb(subject.x0, sk.singular_vectors(subject, 1)[0], row["eps_abs"])
            after = model(inputs_embeds=torch.cat([E[:-1], x[None]])[None]).logits[0, -1].double()
            assert (row["token_id_before"], row["token_id_after"]) == (int(before.argmax()), int(after.argmax()))
            assert row["token_changed"] == (int(before.argmax()) != int(after.argmax()))
            assert row["logit_l2"] == pytest.approx(float((after - before).norm()), rel=1e-3, abs=1e-5)
            assert row["logit_max_abs"] == pytest.approx(float((after - before).abs().max()), rel=1e-3, abs=1e-5)
            two = after.topk(2).values
            assert row["margin_after"] == pytest.approx(float(two[0] - two[1]), abs=1e-5)
            assert row["probability_after"] == pytest.approx(float(after.softmax(0).max()), rel=1e-4)
            assert row["logit_after"] == pytest.approx(float(two[0]), rel=1e-4)
            p, q = before.softmax(0), after.softmax(0)
            assert row["kl"] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-2, abs=1e-9)
            assert row["token_after"] == subject.loaded.tokenizer.decode([row["token_id_after"]])
    flips = [row for row in cells(result) if row["token_changed"]]
    assert value(result, "token_changes") == len(flips)
    assert value(result, "eps_token_change") == min((row["realised_norm"] for row in flips), default=math.inf)
    assert set(result.arrays) == {"directions", "epsilons", "x0", "y0", "inputs", "states", "logits"}
    row = cells(result)[0]
    assert result.arrays["logits"][row["input"]].argmax() == row["token_id_after"]
    change = result.arrays["states"][row["input"]] - result.arrays["y0"][row["slot"]]
    assert np.linalg.norm(change) == pytest.approx(row["output_diff_norm"], rel=1e-12)
    assert np.array_equal(result.arrays["inputs"][0], subject.x0.double().numpy())


def test_the_export_is_read_without_pickle(tmp_path):
    subject, _ = planted()
    result = ask(subject, directions="v1", epsilons=(1e-2,), export=True)
    np.savez(tmp_path / "gain.npz", **result.arrays)
    with np.load(tmp_path / "gain.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays} == dict.fromkeys(result.arrays, "f")
    assert "logits" not in result.arrays, "a function has no head"


def test_a_mixture_says_whether_its_experts_changed():
    subject = sk.CausalLMSubject(sk.load("tiny:mixtral"), PROMPT, batch=4)
    result = ask(subject, directions=torch.linspace(-1, 1, 64), epsilons=(1.0, 1e-6), signs="+", oracle=False)
    far, near = cells(result)
    assert far["routing_changed"] is True
    assert near["routing_changed"] is False
    assert value(result, "routing_changes") == 1
    assert "routing_changes" not in ask(planted()[0], directions="v1", epsilons=(1e-2,)).readings


def test_several_prompts_give_the_distribution_of_each_cell_and_never_of_lengths():
    loaded = sk.load("tiny")
    subjects = [sk.CausalLMSubject(loaded, prompt, path="decode", batch=4) for prompt in ("abc", "Hello", "1 + 1 =")]
    asked = sk.DirectionalGain(directions="v1", epsilons=(1e-2, 1e-3), signs="+", oracle=False)
    result = sk.measure(asked, subjects, progress=False)
    rows = [row for row in result.rows if row["part"] == "prompts"]
    assert [(row["quantity"], row["epsilon"]) for row in rows] == [
        ("gain_realised", 1e-2),
        ("gain_realised", 1e-3),
        ("sigma", None),
    ]
    for row in rows[:2]:
        gains = [one["gain_realised"] for one in cells(result) if one["epsilon"] == row["epsilon"]]
        assert len(gains) == row["count"] == 3
        assert row["mean"] == pytest.approx(np.mean(gains))
        assert row["sd"] == pytest.approx(np.std(gains, ddof=1))
        assert row["median"] == pytest.approx(np.median(gains))
        assert row["geometric_mean"] == pytest.approx(np.prod(gains) ** (1 / 3))
        assert (row["least"], row["most"]) == (min(gains), max(gains))
    assert {row["subject"] for row in cells(result)} == {"abc", "Hello", "1 + 1 ="}
    assert not [row for row in sk.measure(asked, subjects[:1], progress=False).rows if row["part"] == "prompts"]


def test_the_stated_cost_bounds_the_work():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode", batch=16)
    for asked in (
        sk.DirectionalGain(),
        sk.DirectionalGain(directions=("v1", "v_last"), signs="+", oracle=False),
        sk.DirectionalGain(directions="v1", noise="along", samples=5, epsilons=(1e-3, 1e-5)),
    ):
        fresh = sk.CausalLMSubject(subject.loaded, PROMPT, path="decode", batch=16)
        stated = asked.cost(fresh)
        took = sk.measure(asked, fresh, progress=False).execution
        assert stated.forwards / 4 <= took.forwards <= stated.forwards
        assert took.backwards <= stated.backwards
