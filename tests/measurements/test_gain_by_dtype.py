"""The same function in several dtypes: casts against loads, planted dtypes, and what cannot be cast."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.gain_by_dtype import TRUE, between, in_dtype
from stabilitykit.numerics.bits import bits_equal

PROMPT = "The capital of France is"


def planted():
    """diag(4, 2, 1) in float64, and twice that in float32; bfloat16 swaps the first two axes."""

    def fn(X):
        scale = {torch.float64: [4.0, 2.0, 1.0], torch.float32: [8.0, 4.0, 2.0], torch.bfloat16: [2.0, 4.0, 1.0]}
        return X * torch.tensor(scale[X.dtype], dtype=X.dtype)

    return sk.FunctionSubject(fn, torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64), batch=2, name="planted")


def rows(result, part, **where):
    return [r for r in result.rows if r["part"] == part and all(r[name] == value for name, value in where.items())]


def test_planted_dtypes_are_recovered():
    asked = sk.GainByDtype(epsilons=(0.5, 0.25), unit="abs", at=0.25)
    result = sk.measure(asked, planted(), progress=False)
    sides = {row["dtype"]: row for row in rows(result, "dtype")}
    assert list(sides) == [TRUE, "float64", "float32", "bfloat16"]
    assert [sides[name]["sigma_1"] for name in sides] == pytest.approx([4, 4, 8, 4], rel=1e-2)
    assert [sides[name]["v1_angle"] for name in sides] == pytest.approx([0, 0, 0, 90], abs=0.2)
    gains = {row["dtype"]: row["gain_realised"] for row in rows(result, "gain", epsilon=0.25)}
    assert gains == {name: pytest.approx(gain, rel=1e-2) for name, gain in zip(sides, (4, 4, 8, 2), strict=True)}
    values = {name: reading.value for name, reading in result.readings.items()}
    assert values == {
        "sigma_deviation": pytest.approx(1, rel=1e-3),
        "gain_deviation": pytest.approx(1, rel=1e-2),
        "v1_angle": pytest.approx(90, abs=0.2),
        "sigma_true": pytest.approx(4, rel=1e-6),
        "gain_true": pytest.approx(4, rel=1e-6),
    }
    assert result.readings["sigma_deviation"].place == {"dtype": "float32"}
    assert result.readings["v1_angle"].place == {"dtype": "bfloat16"}
    for row in rows(result, "gain", dtype="float32"):
        assert row["gain_nominal"] == pytest.approx(8, rel=1e-5)
        assert (row["alignment"], row["realised_ratio"]) == (pytest.approx(1), pytest.approx(1, rel=1e-5))


def test_every_pair_of_dtypes_is_compared():
    result = sk.measure(sk.GainByDtype(epsilons=(0.25,), unit="abs"), planted(), progress=False)
    pairs = {(row["dtype"], row["against"]): row for row in rows(result, "pair")}
    assert len(pairs) == 16
    two = pairs["float32", "bfloat16"]
    assert two["sigma_difference"] == pytest.approx(1, rel=1e-3)
    assert two["v1_angle"] == pytest.approx(90, abs=0.2)
    assert two["gain_difference"] == pytest.approx(3, rel=1e-2)
    assert two["change_angle"] == pytest.approx(0, abs=1)
    same = pairs["float32", "float32"]
    assert [same[name] for name in ("sigma_difference", "gain_difference", "v1_angle")] == [0, 0, 0]
    assert pairs["float32", TRUE]["epsilon"] == 0.25


def test_axes_have_no_sign():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    assert between(a, -a) == between(a, a) == 0
    assert [between(a, side * b) for side in (1, -1)] == pytest.approx([45, 45])


def test_a_step_that_a_dtype_absorbs_has_no_gain_there():
    asked = sk.GainByDtype(epsilons=(1e-5,), unit="abs", at=1e-5)
    result = sk.measure(asked, planted(), progress=False)
    (row,) = rows(result, "gain", dtype="bfloat16")
    assert (row["coords_moved"], row["gain_nominal"]) == (0, 0)
    assert math.isnan(row["gain_realised"])
    assert math.isnan(result.readings["gain_deviation"].value)
    assert math.isnan(next(r for r in rows(result, "pair", dtype="bfloat16", against=TRUE))["gain_difference"])
    assert "nan in bfloat16" in result.sentence


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_cast_model_is_the_model_loaded_in_that_dtype(family):
    """Bit for bit: weights are cast, buffers such as rotary frequencies keep float32."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), PROMPT, path="decode", batch=2)
    cast = in_dtype(subject, torch.bfloat16)
    loaded = sk.CausalLMSubject(sk.load(f"tiny:{family}", dtype="bfloat16"), PROMPT, path="decode", batch=2)
    assert bits_equal(cast.x0, loaded.x0)
    assert bits_equal(cast.baseline, loaded.baseline)
    assert cast.loaded.digest == loaded.loaded.digest
    assert subject.x0.dtype == torch.float32, "the model itself is left alone"
    assert cast.counter is subject.counter


def test_a_model_in_two_dtypes_and_the_truth():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, path="decode", batch=4)
    asked = sk.GainByDtype()
    stated = asked.cost(subject)
    result = sk.measure(asked, subject, progress=False)
    assert result.execution.forwards <= stated.forwards
    assert result.execution.backwards + result.execution.tangents <= stated.backwards
    sides = {row["dtype"]: row for row in rows(result, "dtype")}
    assert list(sides) == [TRUE, "float32", "bfloat16"]
    exact = subject.in_float64()
    dense = torch.cat([exact.vjp(u[None]) for u in torch.eye(64, dtype=torch.float64)])
    assert sides[TRUE]["sigma_1"] == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-5)
    assert sides["float32"]["v1_angle"] < 0.1 < sides["bfloat16"]["v1_angle"] < 10
    assert sides["bfloat16"]["residual_1"] > sides["float32"]["residual_1"]
    assert result.readings["sigma_deviation"].value < 0.05


def test_the_stated_cost_is_a_baseline_proofs_and_steps_for_each_dtype():
    """The subject's own, two more and the truth, each three single rows and 6 + 1 + 2 batches of 2 for four lengths."""
    stated = sk.GainByDtype(epsilons=(0.5, 0.25, 0.125, 0.0625)).cost(planted())
    assert stated.forwards == 4 * (3 + 9 * 2) + 3 * 2


def test_what_cannot_be_cast_has_a_row_that_says_so():
    weight = torch.eye(2)
    subject = sk.FunctionSubject(lambda X: X @ weight, torch.ones(2), batch=2, name="narrow", exact=lambda X: X)
    result = sk.measure(sk.GainByDtype(dtypes=["bfloat16"]), subject, progress=False)
    (refused,) = rows(result, "dtype", dtype="bfloat16")
    assert refused["verdict"] == "unsupported"
    assert refused["reason"].startswith("narrow takes no bfloat16")
    assert "Not run: bfloat16." in result.sentence
    assert result.readings["sigma_deviation"].place == {"dtype": "float32"}
    module = sk.ModuleSubject(sk.CausalLMSubject(sk.load("tiny"), "abc"), "model.layers.0.mlp")
    with pytest.raises(sk.UnsupportedError, match="ModuleSubject\\) cannot be cast to bfloat16"):
        in_dtype(module, torch.bfloat16)
    widening = sk.FunctionSubject(lambda X: X.double(), torch.ones(2), name="widening")
    with pytest.raises(sk.UnsupportedError, match="widening answers bfloat16 with float64"):
        in_dtype(widening, torch.bfloat16)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtypes": "float32"}, "give a list of names"),
        ({"dtypes": ["int8"]}, "int8 has no floating-point lattice"),
        ({"epsilons": ()}, "all positive"),
        ({"epsilons": (0.0,)}, "all positive"),
        ({"at": math.inf}, "all positive"),
        ({"unit": "m"}, "unit 'm' is not one of"),
    ],
)
def test_what_means_nothing_is_refused(how, message):
    with pytest.raises(sk.UsageError, match=message):
        sk.GainByDtype(**how)


def test_a_step_in_parts_of_the_input_is_that_part_of_its_length():
    result = sk.measure(sk.GainByDtype(epsilons=(0.25,), unit="rel", at=0.25), planted(), progress=False)
    length = math.sqrt(1 + 0.25 + 0.0625)
    assert [row["eps_abs"] for row in rows(result, "gain")] == [pytest.approx(0.25 * length)] * 4
