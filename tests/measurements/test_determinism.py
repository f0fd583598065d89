"""Run to run and batch invariance: subjects that break in one known place, and clean twins that pass."""

import re

import pytest
import torch

from stabilitykit import StabilityFailure
from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.measurements.determinism import BatchInvariance, RunToRun
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.sequential import first_event
from stabilitykit.numerics.statistics import rate_bound
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
UP = 1 + 2.0**-23  # one ULP up for a float32 just below a power of two, two at most elsewhere


def clean(X):
    return X * 3 + 1


class Changing:
    """Row-wise and repeatable but in chosen calls, counted from 1, where one element is another."""

    def __init__(self, calls, element=2, by=1e-3):
        self.calls, self.element, self.by, self.seen = set(calls), element, by, 0

    def __call__(self, X):
        self.seen += 1
        Y = clean(X)
        if self.seen in self.calls:
            Y[-1, self.element] += self.by
        return Y


# --- run to run


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_runs_pass_with_the_rate_they_prove_and_never_a_bigger_word(batch):
    subject = FunctionSubject(clean, X0, batch=batch)
    result = measure(RunToRun(), subject)
    assert result.verdict == "pass"
    assert "0 of 59 differed: rate < 5% at 95%" in result.sentence
    said = [result.sentence, result.title, result.noise, *result.causes, *(m.description for m in RunToRun.metrics)]
    assert not any("deterministic" in text.lower() for text in said)
    assert result.execution.forwards == subject.counter.forwards == 60 * batch
    assert result.execution.calls == 60
    assert RunToRun().cost(subject).forwards == 60 * batch
    assert {name: reading.value for name, reading in result.readings.items()} == pytest.approx(
        {
            "differing_runs": 0,
            "runs": 59,
            "rate_bound": 1 - 0.05 ** (1 / 59),
            "distinct_outputs": 1,
            "differing_bits": 0,
            "max_ulp": 0,
        },
        rel=1e-12,
    )
    assert result.worst is None
    assert len(result.rows) == 59
    result.check(**RunToRun.requires)


def test_every_measurement_has_a_first_run_of_its_own():
    """The cached baseline may be hours old: it is not a run of this series."""
    subject = FunctionSubject(clean, X0)
    forwards = [measure(RunToRun(runs=4), subject).execution.forwards for _ in range(2)]
    assert torch.equal(subject.baseline[0], clean(X0))
    assert [*forwards, measure(RunToRun(runs=4), subject).execution.forwards] == [5, 5, 5]


@pytest.mark.parametrize("run", [1, 30, 59])
def test_one_run_of_59_is_caught(run):
    subject = FunctionSubject(Changing([run + 1]), X0, batch=2)
    result = measure(RunToRun(), subject)
    assert result.verdict == "differs"
    assert [row["run"] for row in result.rows if row["differs"]] == [run]
    assert result.readings["differing_runs"].value == 1
    assert result.readings["distinct_outputs"].value == 2
    assert result.readings["rate_bound"].value == rate_bound(1, 59) > 0.05
    assert result.readings["differing_bits"].value == 1
    assert result.worst.where == "y[1, 2]"
    assert (result.worst.left_name, result.worst.right_name) == ("first", "again")
    assert float(result.worst.right.split()[0]) - float(result.worst.left.split()[0]) == pytest.approx(1e-3, rel=1e-3)
    assert "1 of 59 differed" in result.sentence
    with pytest.raises(StabilityFailure, match="differing_runs 1 breaks <= 0"):
        result.check(**RunToRun.requires)


@pytest.mark.parametrize("run", [1, 7, 59])
def test_stopped_early_the_first_run_that_differs_is_the_last(run):
    """The claim is about a first event: of a fixed number of runs it would be another one."""
    asked, subject = RunToRun(stop_early=True), FunctionSubject(Changing([run + 1, run + 2]), X0, batch=2)
    result = measure(asked, subject)
    assert (result.verdict, result.execution.calls, len(result.rows)) == ("differs", run + 1, run)
    assert (result.readings["runs"].value, result.readings["differing_runs"].value) == (run, 1)
    assert result.readings["rate_bound"].value == first_event(run)[1] <= rate_bound(1, run)
    assert result.sentence.startswith(f"Run {run} of at most 59 differed first: rate > ")
    assert result.execution.forwards <= asked.cost(subject).forwards == 120


def test_stopped_early_without_a_difference_is_not_stopped_and_says_what_is_said_else():
    early, all_of_them = (measure(RunToRun(stop_early=e), FunctionSubject(clean, X0)) for e in (True, False))
    assert (early.sentence, early.readings) == (all_of_them.sentence, all_of_them.readings)


def test_a_first_run_that_differs_from_all_others_differs_from_all_others():
    result = measure(RunToRun(runs=5), FunctionSubject(Changing([1]), X0))
    assert result.readings["differing_runs"].value == 5
    assert result.readings["distinct_outputs"].value == 2


def test_the_worst_run_is_the_one_shown():
    class Growing:
        seen = 0

        def __call__(self, X):
            self.seen += 1
            Y = clean(X)
            Y[0, : {3: 1, 5: 3}.get(self.seen, 0)] *= UP
            return Y

    result = measure(RunToRun(runs=6), FunctionSubject(Growing(), X0))
    assert [row["differing_bits"] for row in result.rows] == [0, 1, 0, 3, 0, 0]
    assert result.readings["differing_bits"].value == 3
    assert 1 <= result.readings["max_ulp"].value <= 2
    assert result.readings["distinct_outputs"].value == 3


def test_a_zero_of_the_other_sign_is_another_output():
    class Signs:
        seen = 0

        def __call__(self, X):
            self.seen += 1
            return X * 0.0 * (-1) ** self.seen

    result = measure(RunToRun(runs=3), FunctionSubject(Signs(), X0))
    assert result.readings["differing_runs"].value == 2
    assert result.readings["max_ulp"].value == 0


def test_a_nan_in_a_later_run_differs_and_in_the_first_is_refused():
    def nan_at(call):
        return FunctionSubject(Changing([call], by=float("nan")), X0)

    assert measure(RunToRun(runs=3), nan_at(3)).readings["differing_runs"].value == 1
    with pytest.raises(InvalidError, match="nothing is measured"):
        measure(RunToRun(runs=3), nan_at(1))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_function_that_writes_into_its_input_does_not_move_x0(batch):
    def careless(X):
        X += 1
        return X * 2

    subject = FunctionSubject(careless, X0.clone(), batch=batch)
    assert measure(RunToRun(runs=3), subject).verdict == "pass"
    assert torch.equal(subject.x0, X0)


def test_nothing_to_compare_is_refused():
    with pytest.raises(UsageError, match="runs=0 compares nothing"):
        RunToRun(runs=0)


def test_another_confidence_gives_another_bound():
    result = measure(RunToRun(runs=10, confidence=0.5), FunctionSubject(clean, X0))
    assert result.readings["rate_bound"].value == pytest.approx(1 - 0.5**0.1)
    assert "at 50%" in result.sentence


# --- batch invariance


def in_batches(X):
    return clean(X) * (UP if len(X) > 1 else 1)


def only_when_wide(X):
    return clean(X) * (UP if len(X) >= 8 else 1)


def only_in_the_last_slot(X):
    Y = clean(X)
    if len(X) > 1:
        Y[-1, 3] *= UP
    return Y


def only_among_others(X):
    Y = clean(X)
    return Y * (UP if bool((X[0] != X).any()) else 1)


def cases(result, **chosen):
    return [row for row in result.rows if all(row[name] == value for name, value in chosen.items())]


def test_a_row_wise_function_passes_also_as_a_gate():
    subject = FunctionSubject(clean, X0)
    result = measure(BatchInvariance(), subject)
    assert result.verdict == "pass"
    result.check(**BatchInvariance.requires)
    assert result.worst is None
    # copies in every slot and others in the first and last, for sizes 2, 3 and 8
    assert result.readings["cases"].value == len(result.rows) == (2 + 3 + 8) + 3 * 2
    assert all(row["bits_equal"] for row in result.rows)
    assert result.sentence == (
        "A row has the same bits alone and in company in all 19 cases. "
        "0 of 19 differed: rate < 15% at 95%, if cases are independent draws."
    )
    assert result.readings["rate_bound"].value == rate_bound(0, 19)
    assert BatchInvariance().cost(subject).forwards == result.execution.forwards == 2 + 3 * 13


@pytest.mark.parametrize(
    ("function", "differing", "sizes", "bits"),
    [
        (in_batches, 19, {2, 3, 8}, 8),
        (only_when_wide, 10, {8}, 8),
        (only_in_the_last_slot, 6, {2, 3, 8}, 1),
        (only_among_others, 6, {2, 3, 8}, 8),
    ],
)
def test_every_way_to_depend_on_the_batch_is_caught(function, differing, sizes, bits):
    x0 = torch.cat([X0, X0 * 3])  # of four entries, a permutation may be x0 itself
    result = measure(BatchInvariance(), FunctionSubject(function, x0))
    assert result.verdict == "differs"
    found = [row for row in result.rows if not row["bits_equal"]]
    assert len(found) == result.readings["differing_cases"].value == differing
    assert {row["size"] for row in found} == sizes
    assert {row["differing_bits"] for row in found} == {bits}
    assert {row["share"] for row in found} == {bits / 8}
    assert result.readings["differing_bits"].value == bits
    assert result.readings["max_ulp"].value == max(row["max_ulp"] for row in found) in (1, 2)
    assert result.readings["rate_bound"].value == rate_bound(differing, 19)
    assert result.readings["output_change"].value == max(row["l2"] for row in found) > 0
    assert f"in {differing} of 19 cases ({len(sizes)} combinations" in result.sentence
    if function is only_in_the_last_slot:
        assert all(row["slot"] == row["size"] - 1 for row in found)
        assert result.worst.where.endswith("[3]")
    if function is only_among_others:
        assert {row["neighbours"] for row in found} == {"others"}
        assert "among others" in result.worst.where


def test_each_reading_names_the_place_where_it_is_worst():
    """Size 2 changes most elements, size 3 one element by more: two metrics, two places."""

    def two_ways(X):
        Y = clean(X)
        if len(X) == 2:
            Y *= UP
        if len(X) == 3:
            Y[1, 3] += 1
        return Y

    result = measure(BatchInvariance(), FunctionSubject(two_ways, X0))
    bits, ulp, scaled = (result.readings[name] for name in ("differing_bits", "max_ulp", "max_scaled_ulp"))
    assert (bits.value, bits.place["size"]) == (4, "2")
    assert (ulp.place["size"], ulp.place["slot"], ulp.place["neighbours"]) == ("3", "1", "copies")
    assert ulp.value == 2**19  # one, in units of 2**-19, 17.5 being below 32
    assert scaled.value == ulp.value
    assert scaled.place == ulp.place
    assert result.worst.where == "y (batch 3, slot 1, among copies)[3]"
    assert result.worst.left == "17.5 (0x418c0000)"
    assert result.worst.right == "18.5 (0x41940000)"


def test_the_message_of_a_broken_gate_stands_alone_and_explains():
    result = measure(BatchInvariance(sizes=(2, 8)), FunctionSubject(in_batches, X0, name="toy"))
    with pytest.raises(StabilityFailure) as failure:
        result.check(**BatchInvariance.requires)
    lines = str(failure.value).splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith("BatchInvariance(sizes=(2, 8)): differing_bits 4 breaks <= 0")
    assert lines[0].endswith("on toy [float32, cpu]")
    assert lines[1] == ""
    assert lines[2].split() == ["metric", "observed", "limit", "unit"]
    table = [line.split() for line in lines[3 : lines.index("", 2)]]
    assert ["differing_bits", "4", "<=", "0", "elements"] in table
    assert [row[0] for row in table] == list(result.readings)
    (worst,) = [line for line in lines if line.startswith("worst at ")]
    assert re.search(r"alone \S+ \(0x[0-9a-f]{8}\)   in batch \S+ \(0x[0-9a-f]{8}\)", worst)
    assert any(line.startswith("noise floor: ") and "not run-to-run noise" in line for line in lines)
    assert any(line.startswith("This usually means (a) ") and " or (c) " in line for line in lines)
    assert failure.value.result is result


def test_noise_is_not_called_a_batch_effect():
    with pytest.raises(UsageError, match="differs from itself without any batch; ask RunToRun first"):
        measure(BatchInvariance(), FunctionSubject(Changing([2]), X0))


def test_a_nan_in_company_is_a_difference():
    result = measure(BatchInvariance(sizes=(2,)), FunctionSubject(lambda X: X / (len(X) - 2), X0))
    assert result.verdict == "differs"
    with pytest.raises(InvalidError, match="nothing is measured"):
        measure(BatchInvariance(sizes=(2,)), FunctionSubject(lambda X: X / 0, X0))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"sizes": ()}, "a batch that compares anything has at least 2 rows"),
        ({"sizes": (1, 2)}, "has at least 2 rows"),
        ({"lengths": ()}, "a prompt has at least 1 token"),
        ({"lengths": (0, 3)}, "a prompt has at least 1 token"),
    ],
)
def test_cases_that_compare_nothing_are_refused(arguments, fragment):
    with pytest.raises(UsageError, match=fragment):
        BatchInvariance(**arguments)


# --- batch invariance of a model


def test_a_model_is_asked_at_every_length_on_both_paths():
    subject = CausalLMSubject(load("tiny:llama"), "The capital", path="decode", batch=4)
    measurement = BatchInvariance(sizes=(2, 3), lengths=(1, 2, 5))
    result = measure(measurement, subject)
    assert {(row["path"], row["length"]) for row in result.rows} == {
        (path, length) for path in ("prefill", "decode") for length in (1, 2, 5)
    }
    assert result.readings["cases"].value == 6 * (2 + 3 + 2 * 2)
    assert measurement.cost(subject).forwards == result.execution.forwards == 6 * (2 + 3 * 5)


def test_a_model_made_batch_dependent_is_caught_on_the_path_where_it_is():
    """Planted: decode steps of a batch add one part in 2**20; prefill of more than a token is left alone."""
    loaded = load("tiny:llama")

    def plant(_module, _args, state):
        return state * (1 + 2.0**-20) if len(state) > 1 and state.shape[1] == 1 else state

    measurement = BatchInvariance(sizes=(4,), lengths=(4, 8))
    natural = measure(measurement, CausalLMSubject(loaded, "The capital"))
    handle = loaded.model.model.norm.register_forward_hook(plant)
    planted = measure(measurement, CausalLMSubject(loaded, "The capital"))
    handle.remove()
    before, after = ([row["differing_bits"] for row in cases(one, path="prefill")] for one in (natural, planted))
    assert before == after
    assert all(row["share"] > 0.9 for row in cases(planted, path="decode"))
    assert planted.verdict == "differs"
    assert planted.readings["differing_bits"].place["path"] == "decode"
    assert "y (decode of " in planted.worst.where
