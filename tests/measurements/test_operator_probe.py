"""Operations on stored inputs: equal digests again, other ones for another machine, and the distance to the truth."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements import operator_probe
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.operator_probe import OperatorProbe, identity, probe
from stabilitykit.report.figures import figures
from stabilitykit.subjects import operators
from stabilitykit.subjects.operators import OPERATORS, Machine, Operator, chain

QUICK = OperatorProbe(repeats=2, chain=(3, 16))


def only(monkeypatch, *chosen):
    monkeypatch.setattr(operator_probe, "OPERATORS", chosen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_this_machine_gives_its_bits_again_also_as_a_gate(dtype):
    first, again = (measure(QUICK, Machine(dtype)) for _ in range(2))
    assert first.verdict == "pass"
    first.check(**OperatorProbe.requires)
    assert first.subject["probe"] == again.subject["probe"]
    assert first.rows == again.rows
    assert first.readings["operators"].value + first.readings["unsupported"].value == len(OPERATORS) + 1
    assert first.execution.calls <= QUICK.cost(Machine(dtype)).calls == 3 * (len(OPERATORS) + 1)


def test_one_bit_of_one_operation_is_another_device(monkeypatch):
    plain = measure(QUICK, Machine())
    nudged = list(OPERATORS)
    place = next(i for i, one in enumerate(nudged) if one.name == "tanh")

    def nudge(x):
        y = torch.tanh(x)
        y[7] = torch.nextafter(y[7], y.new_tensor(2.0))
        return y

    nudged[place] = Operator("tanh", "elementwise", ((4096,),), nudge)
    only(monkeypatch, *nudged)
    other = measure(QUICK, Machine())
    assert other.subject["probe"] != plain.subject["probe"]
    assert [a["operator"] for a, b in zip(plain.rows, other.rows, strict=True) if a["digest"] != b["digest"]] == [
        "tanh"
    ]
    assert [a["input_digest"] for a in plain.rows] == [b["input_digest"] for b in other.rows]


def test_a_repetition_that_differs_is_caught_by_name_and_counted(monkeypatch):
    calls = []

    def race(x):
        calls.append(1)
        return x + (1e-3 if len(calls) in (3, 4) else 0)

    only(monkeypatch, Operator("race", "reduction", ((8,),), race), OPERATORS[0])
    result = measure(OperatorProbe(repeats=5, chain=(1, 4)), Machine())
    assert result.verdict == "differs"
    assert {row["operator"]: row["differing_runs"] for row in result.rows}["race"] == 2
    assert result.readings["differing_operators"].value == 1
    assert result.readings["rate_bound"].value > 2 / 15
    assert "race gave other bits" in result.sentence
    with pytest.raises(sk.StabilityFailure, match="differing_operators 1 breaks <= 0"):
        result.check(**OperatorProbe.requires)


def test_accuracy_is_that_of_exact_sums(monkeypatch):
    """The oracle: the same stored numbers, added as fractions, rounded once."""
    total = Operator("sum", "reduction", ((200,),), lambda x: x.sum()[None])
    wrong = Operator("nudged sum", "reduction", ((200,),), lambda x: x.sum()[None] * (1 + 2.0**-20))
    only(monkeypatch, total, wrong)
    found = {row["operator"]: row for row in measure(OperatorProbe(chain=(1, 4)), Machine()).rows}
    for operator in (total, wrong):
        (x,) = operator.inputs(torch.float32, 0)
        exact = sum((Fraction(value) for value in x.tolist()), Fraction(0))
        right, ours = np.float32(float(exact)), operator.run(x).numpy()[0]
        if operator is wrong:
            right = np.float32(float(exact * (1 + Fraction(1, 2**20))))
        ulp = abs(int(right.view(np.int32)) - int(ours.view(np.int32)))
        assert found[operator.name]["max_ulp"] == ulp
        assert found[operator.name]["correct"] == float(ulp == 0)


def test_the_worst_operation_is_read_and_named(monkeypatch):
    """Whatever its place in the list; one without a number is worse than any."""
    exp, coarse = (
        Operator(name, "elementwise", ((64,),), fn)
        for name, fn in (("exp", torch.exp), ("coarse", lambda x: x.to(torch.bfloat16).to(x.dtype).exp()))
    )
    for chosen in ((exp, coarse), (coarse, exp)):
        only(monkeypatch, *chosen)
        result = measure(OperatorProbe(chain=(1, 4)), Machine())
        for name in ("max_ulp", "max_scaled_ulp"):
            assert result.readings[name].value == max(row[name] for row in result.rows) > 1000
            assert result.readings[name].place == {"op": "coarse"}
    rows = [{"operator": "a", "max_ulp": 3.0, "max_scaled_ulp": 3.0, "differing_runs": 0}]
    rows.append({"operator": "b", "max_ulp": np.nan, "max_scaled_ulp": 4.0, "differing_runs": 0})
    values = QUICK._values(rows, rows, [])
    assert [values[name].place["op"] for name in ("max_ulp", "max_scaled_ulp")] == ["b", "b"]


def test_a_coarse_operation_is_far_from_the_truth(monkeypatch):
    coarse = Operator("coarse", "elementwise", ((64,),), lambda x: x.to(torch.bfloat16).to(x.dtype).exp())
    only(monkeypatch, coarse, Operator("exp", "elementwise", ((64,),), torch.exp))
    rows = {row["operator"]: row for row in measure(OperatorProbe(chain=(1, 4)), Machine()).rows}
    # In true float64 the cast to bfloat16 does not round: that is the truth it is held to.
    assert rows["coarse"]["max_scaled_ulp"] > 1000
    assert rows["exp"]["max_scaled_ulp"] <= 1


def test_what_a_dtype_lacks_has_a_row_that_says_so(monkeypatch):
    def picky(x):
        if x.dtype != torch.float64:
            raise NotImplementedError("not for this dtype")
        return x

    only(monkeypatch, Operator("picky", "elementwise", ((4,),), picky), OPERATORS[0])
    result = measure(QUICK, Machine())
    assert (result.readings["unsupported"].value, result.readings["operators"].value) == (1, 2)
    row = result.rows[0]
    assert (row["verdict"], row["reason"]) == ("unsupported", "picky does not run in float32: not for this dtype")
    with pytest.raises(UnsupportedError, match="picky does not run in bfloat16"):
        Machine("bfloat16").run(Operator("picky", "elementwise", ((4,),), picky), [torch.ones(4)])


def test_the_chain_is_the_products_in_order():
    one = chain(3, 4)
    X, A, B, C = one.inputs(torch.float64, 0)
    assert torch.allclose(one.run(X, A, B, C), X @ A @ B @ C / 4**1.5, rtol=1e-13)
    assert OperatorProbe(chain=(3, 4)).operators[-1].name == "3 chained matmuls"


def test_inputs_are_integers_over_a_power_of_two_and_each_operation_has_its_own():
    digests = {
        hashlib.sha256(t.numpy().tobytes()).hexdigest() for one in OPERATORS for t in one.inputs(torch.float64, 0)
    }
    assert len(digests) == sum(len(one.shapes) for one in OPERATORS)
    (x,) = OPERATORS[-1].inputs(torch.float64, 0)
    assert bool((x * 2**32 == (x * 2**32).round()).all())
    assert not torch.equal(x, OPERATORS[-1].inputs(torch.float64, 1)[0])


def test_what_compares_nothing_is_refused():
    with pytest.raises(UsageError, match="repeats=0 compares nothing"):
        OperatorProbe(repeats=0)
    with pytest.raises(UsageError, match="give how many products"):
        OperatorProbe(chain=(0, 4))
    with pytest.raises(UsageError, match="asked of a Machine"):
        measure(OperatorProbe(), sk.FunctionSubject(lambda X: X, torch.ones(2)))


def test_the_figure_has_a_mark_an_operation_and_says_which_are_right():
    result = measure(QUICK, Machine())
    (figure,) = figures(result)
    (trace,) = figure.traces
    assert trace["y"] == [row["operator"] for row in result.rows]
    assert trace["x"] == [row["max_scaled_ulp"] for row in result.rows]
    assert f"{len(OPERATORS) + 1} operations" in figure.caption


def test_every_name_is_used_once():
    names = [one.name for one in operators.OPERATORS]
    assert len(set(names)) == len(names)


def test_the_probe_alone_is_that_of_the_measurement():
    machine = Machine(torch.bfloat16, "cpu")
    measured = OperatorProbe(repeats=1).measure(machine).subject["probe"]
    assert probe(torch.bfloat16, "cpu", torch.get_num_threads()) == measured


def test_the_identity_is_12_digits_over_names_and_digests_in_order():
    rows = [{"operator": "exp", "digest": "ab"}, {"operator": "sin", "digest": "cd"}]
    assert identity(rows) == hashlib.sha256(b"exp ab\nsin cd").hexdigest()[:12]
    assert len({identity(rows), identity(rows[::-1]), identity(rows[:1]), identity([])}) == 4


def test_the_sentence_bounds_the_rate_of_all_repetitions_and_of_each_operations():
    ran = [{"operator": name, "max_scaled_ulp": size} for name, size in (("exp", 0.5), ("tanh", 1.5))]
    said = operator_probe._sentence(ran, [], "0123abc", 3)
    assert said.startswith("2 operations, each repeated 3 times, gave the same bits: of all repetitions 0 of 6 ")
    assert ", of each operation's 0 of 3 differed: " in said
    assert "The farthest from true float64 is tanh, 1.5 scaled ULP. Their digest is 0123abc." in said
