"""What rounding leaves of a step, against exact fractions and Python's decimals."""

import math
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.representability import BINS, DTYPES
from stabilitykit.numerics.bits import from_total_order, ordered, spacing
from stabilitykit.numerics.decimals import DECIMALS
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.resolution import thresholds


def subject(dtype=torch.float32, size=40, seed=0, gain=3.0):
    random = np.random.Generator(np.random.PCG64(seed))
    x0 = torch.from_numpy(random.standard_normal(size) * 0.01).to(torch.bfloat16).to(dtype)
    return sk.FunctionSubject(lambda X: gain * X, x0, name="scaled")


def unit(size=40, seed=1):
    d = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(size))
    return d / d.norm()


def ask(one, **how):
    return sk.measure(sk.Representability(**how), one, progress=False)


def rows(result, part, **where):
    return [r for r in result.rows if r["part"] == part and all(r[name] == value for name, value in where.items())]


def rounded(value, dtype):
    """The float of `dtype` nearest to an exact fraction, ties to even, searched among its neighbours."""
    guess = torch.tensor(float(value), dtype=torch.float64).to(dtype)
    best = None
    key = int(ordered(guess))
    for near in range(key - 2, key + 3):
        order = near if near >= 0 else near - 1
        candidate = from_total_order(torch.tensor(order), dtype)
        distance = abs(Fraction(float(candidate)) - value)
        if best is None or (distance, near % 2) < best[:2]:
            best = (distance, near % 2, float(candidate))
    return best[2]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_column_of_a_step_against_exact_fractions(name):
    dtype, d = getattr(torch, name), unit()
    result = ask(subject(), direction=d, epsilons=(1e-1, 1e-3), unit="abs", dtypes=[name])
    x0 = subject().x0.to(dtype)
    for row in rows(result, "step", dtype=name):
        s = row["epsilon"]
        # The product is a float64; its sum with x0 and the rounding to the dtype are exact here.
        exact = [Fraction(float(x)) + Fraction(s * float(e)) for x, e in zip(x0, d, strict=True)]
        moved = [Fraction(rounded(v, dtype)) - Fraction(float(x)) for v, x in zip(exact, x0, strict=True)]
        wanted = [Fraction(s * float(e)) for e in d]
        norm = math.sqrt(sum(m * m for m in moved))
        assert row["coords_moved"] == sum(m != 0 for m in moved)
        assert row["realised_norm"] == pytest.approx(norm, rel=1e-12)
        assert row["realised_ratio"] == pytest.approx(norm / s, rel=1e-12)
        dot = float(sum(m * Fraction(float(e)) for m, e in zip(moved, d, strict=True)))
        assert (
            row["alignment"] == pytest.approx(dot / norm, rel=1e-9, nan_ok=True)
            if norm
            else math.isnan(row["alignment"])
        )
        errors = [abs(m - w) / abs(w) for m, w in zip(moved, wanted, strict=True)]
        assert row["max_relative_error"] == pytest.approx(float(max(errors)), rel=1e-9)
        assert row["mean_relative_error"] == pytest.approx(float(sum(errors) / len(errors)), rel=1e-9)
        steps = [round(abs(m) / Fraction(float(spacing(x)))) for m, x in zip(moved, x0, strict=True)]
        assert row["ulp_0"] == sum(step == 0 for step in steps)
        assert sum(value for column, value in row.items() if column.startswith("ulp_")) == 40


def test_moves_are_counted_in_ulp():
    x0 = torch.ones(6)
    d = torch.tensor([0.0, 1.0, 3.0, 8.0, 20.0, 70000.0], dtype=torch.float64)
    one = sk.FunctionSubject(lambda X: X, x0)
    (row,) = rows(ask(one, direction=d, epsilons=(2.0**-23,), unit="abs", dtypes=["float32"]), "step")
    counted = {column: row[column] for column in row if column.startswith("ulp_")}
    assert counted == {
        "ulp_0": 1,
        "ulp_1": 1,
        "ulp_2_3": 1,
        "ulp_4_15": 1,
        "ulp_16_255": 1,
        "ulp_256_65535": 0,
        "ulp_65536_up": 1,
    }
    assert len(BINS) == 7


def test_decimal_places_are_those_of_exact_decimals_without_an_early_stop():
    """0.0449 and 0.0451 agree at one and three decimals and differ at two and four."""
    one = sk.FunctionSubject(lambda X: X, torch.tensor([0.0449, 1.0], dtype=torch.float64))
    d = torch.tensor([1.0, 0.0], dtype=torch.float64)
    (row,) = rows(ask(one, direction=d, epsilons=(0.0002,), unit="abs", dtypes=["float64"]), "step")
    assert [row[f"decimal_{q}"] for q in (1, 2, 3, 4)] == [0, 1, 0, 1]
    result = ask(subject(), direction=unit(), epsilons=(1e-4, 1e-6), unit="abs", dtypes=["float32", "bfloat16"])
    for row in rows(result, "step"):
        x0 = subject().x0.to(getattr(torch, row["dtype"]))
        x = Lattice(x0, unit()).at(row["epsilon"])
        for q in DECIMALS:
            place = Decimal(1).scaleb(-q)
            pairs = [(Decimal(float(a)), Decimal(float(b))) for a, b in zip(x0, x, strict=True)]
            differ = sum(len({v.quantize(place, ROUND_HALF_EVEN) for v in pair}) == 2 for pair in pairs)
            assert row[f"decimal_{q}"] == differ, (row["dtype"], q)


def test_thresholds_are_those_of_the_lattice_and_readings_those_of_the_own_dtype():
    d = unit()
    result = ask(subject(), direction=d)
    assert [row["dtype"] for row in rows(result, "threshold")] == ["float32", "float64", *DTYPES[2:]]
    for row in rows(result, "threshold"):
        found = thresholds(Lattice(subject().x0.to(getattr(torch, row["dtype"])), d))
        assert {name: row[name] for name in found} == found
    (own,) = rows(result, "threshold", dtype="float32")
    for name in ("eps_first_move", "eps_half_moved", "eps_aligned"):
        assert result.readings[name].value == own[name]
    (step,) = rows(result, "step", dtype="float32", epsilon=1e-5)
    for name in ("alignment", "realised_ratio", "coords_moved"):
        assert result.readings[name].value == step[name]
        assert result.readings[name].place == {"direction": "0", "epsilon": "1e-05"}


def test_a_wider_dtype_resolves_more():
    result = ask(subject(), direction=unit())
    limits = {row["dtype"]: row["eps_aligned"] for row in rows(result, "threshold")}
    assert limits["float64"] < limits["float32"] < limits["float16"] < limits["bfloat16"]
    assert result.sentence.startswith(
        f"In float32 a step keeps its direction (cosine 0.99) down to a length of {limits['float32']:.3g}"
    )
    assert f"{limits['bfloat16']:.3g} in bfloat16" in result.sentence


def test_the_planted_case_of_the_study():
    """bfloat16 values of size 0.01 in bfloat16: steps of 1e-2 keep their direction, of 1e-4 lose it, of 1e-7 vanish."""
    one = subject(torch.bfloat16, size=4096)
    result = ask(one, direction=unit(4096), epsilons=(1e-2, 1e-3, 1e-4, 1e-7), unit="abs", dtypes=["bfloat16"])
    steps = rows(result, "step")
    assert [row["coords_moved"] for row in steps][:2] == pytest.approx([3636, 1347], rel=0.1)
    assert [row["alignment"] for row in steps][:2] == pytest.approx([0.99, 0.75], abs=0.03)
    assert steps[2]["alignment"] < 0.4
    assert steps[3]["coords_moved"] == 0
    with pytest.raises(sk.StabilityFailure):
        result.check(eps_aligned=1e-4)
    ask(subject(), direction=unit(), unit="abs").check(eps_aligned=1e-4, alignment=0.99)


def test_the_step_may_be_sigma_times_as_long_as_the_study_had_it():
    plain, scaled = (ask(subject(gain=5.0), direction=unit(), scale=scale) for scale in ("eps", "eps*sigma"))
    for one, other in zip(rows(plain, "step"), rows(scaled, "step"), strict=True):
        assert other["eps_abs"] == pytest.approx(5 * one["eps_abs"], rel=1e-6)

    class Bare(sk.FunctionSubject):
        def jvp(self, V):
            raise sk.UnsupportedError("none")

    with pytest.raises(sk.UnsupportedError, match="has no forward derivative for scale='eps\\*sigma'"):
        ask(Bare(lambda X: X, torch.ones(2)), direction=torch.ones(2), scale="eps*sigma")


def test_one_direction_without_a_derivative_is_enough_to_refuse():
    """The root at 0 is infinitely steep along its own axis, and along another its derivative is no number."""
    root = sk.FunctionSubject(lambda X: X.sqrt(), torch.tensor([0.0, 1.0]))
    with pytest.raises(sk.UnsupportedError, match="has no forward derivative"):
        ask(root, direction=torch.eye(2), scale="eps*sigma")


def test_what_naming_a_singular_vector_takes_is_stated():
    """The planted direction is known and free; the named one takes the baseline and products, scaled one more each."""
    one = sk.CausalLMSubject(sk.load("tiny"), "vectors that nobody has asked for", path="decode", batch=4)
    assert sk.Representability(direction=torch.eye(64)[:2]).cost(one) == sk.Cost()
    assert sk.Representability(direction=torch.eye(64)[:2], scale="eps*sigma").cost(one) == sk.Cost(backwards=2)
    asked = sk.Representability(direction=["v1", "-v2"], scale="eps*sigma")
    stated, spent = asked.cost(one), sk.measure(asked, one, progress=False).execution
    assert 0 < spent.backwards <= stated.backwards
    assert spent.forwards <= stated.forwards == 4
    assert sk.Representability(direction="v1").cost(one).backwards == stated.backwards - 2


def test_no_row_runs_through_the_model_once_the_vectors_are_known():
    one = sk.CausalLMSubject(sk.load("tiny"), "abc", path="decode", batch=4)
    sk.singular_vectors(one, 2)
    result = ask(one, direction=["v1", "-v2"])
    spent = result.execution
    assert (spent.forwards, spent.backwards, spent.tangents) == (0, 0, 0)
    assert {row["direction"] for row in result.rows} == {"v1", "-v2"}
    worst = max(rows(result, "threshold", dtype="float32"), key=lambda row: row["eps_aligned"])
    assert result.readings["eps_aligned"].value == worst["eps_aligned"]
    assert result.readings["eps_aligned"].place == {"direction": worst["direction"]}


def test_what_a_dtype_cannot_hold_is_said_and_stops_nothing():
    one = sk.FunctionSubject(lambda X: X, torch.tensor([1e6, 1.0]))
    result = ask(one, direction=torch.tensor([0.6, 0.8]), epsilons=(1e-3,), dtypes=["float16", "bfloat16"])
    (refused,) = rows(result, "threshold", dtype="float16")
    assert refused["verdict"] == "unsupported"
    assert "inf" in refused["reason"]
    assert rows(result, "threshold", dtype="bfloat16")[0]["verdict"] == "measured"
    far = ask(
        sk.FunctionSubject(lambda X: X, torch.ones(2)),
        direction=torch.ones(2),
        epsilons=(1e38, 1e-1),
        dtypes=["float16"],
    )
    (beyond, near) = rows(far, "step", dtype="float16")
    assert (beyond["verdict"], near["verdict"]) == ("unsupported", "measured")
    assert beyond["reason"] == "the step leaves float16"


def test_steps_that_all_leave_the_dtype_are_said_to_and_have_no_readings():
    one = sk.FunctionSubject(lambda X: X, torch.ones(2))
    result = ask(one, direction=torch.ones(2), epsilons=(1e39,), unit="abs")
    (row,) = rows(result, "step", dtype="float32")
    assert (row["verdict"], row["reason"]) == ("unsupported", "the step leaves float32")
    assert "alignment" not in result.readings
    assert result.readings["eps_aligned"].value == rows(result, "threshold", dtype="float32")[0]["eps_aligned"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilons": ()}, "give at least one length"),
        ({"epsilons": "1e-3"}, "give at least one length"),
        ({"epsilons": (-1.0,)}, "all positive and finite"),
        ({"unit": "ulps"}, "unit 'ulps' is not one of"),
        ({"dtypes": "float32"}, "give a list of names"),
        ({"dtypes": ()}, "give a list of names"),
        ({"dtypes": ["int8"]}, "int8 has no floating-point lattice"),
        ({"dtypes": ["fp8"]}, "'fp8' is no dtype"),
        ({"scale": "sigma"}, "scale 'sigma' is not one of eps, eps\\*sigma"),
        ({"at": -1}, "at=-1 is not a positive number"),
    ],
)
def test_what_means_nothing_is_refused(how, message):
    with pytest.raises(sk.UsageError, match=message):
        sk.Representability(**how)
