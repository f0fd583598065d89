"""What every measurement shares: identity, title, parameters, the account of its cost, and the one verb."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.measure import combine, measure
from stabilitykit.measurements.progress import bar, progress_to, terminal
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Result, Row, Worst
from stabilitykit.subjects.environment import KINDS
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.subject import Subject

LOW = Metric("error", "u", "lower", "planted")
HIGH = Metric("radius", "u", "higher", "planted")
PLAIN = Metric("size", "u", "neither", "planted")


@dataclass(frozen=True, eq=False)
class ToyQuestion(Measurement):
    """Report what the subject's output says."""

    runs: int = 2
    scale: float = 1.0
    sizes: tuple[int, ...] = (2, 8)
    direction: object = "v1"

    metrics: ClassVar[tuple[Metric, ...]] = (LOW, HIGH, PLAIN)
    causes: ClassVar[tuple[str, ...]] = ("a planted cause",)

    def cost(self, subject: Subject) -> Cost:
        return Cost(forwards=self.runs * subject.batch)

    def find(self, subject: Subject) -> Finding:
        with bar(self.runs, "toy", "run") as progress:
            for _ in range(self.runs):
                error, radius, size = subject(subject.x0[None])[0].tolist()
                progress.update()
        return Finding(
            {"size": size, "error": Reading(LOW, error, place={"slot": "0"}), "radius": radius},
            f"The error is {error:g}.",
            verdict="differs" if error > 2 else "pass",
            rows=({"run": 1, "error": error},),
            arrays={"found": np.array([error, radius])},
            worst=Worst("y", "a", "1", "b", "2"),
            noise="none",
        )


class Scale(Measurable):
    """Another kind of thing to ask: it only shows a number."""

    made_by = "Scale(shown)"

    def __init__(self, shown: float) -> None:
        self.shown = shown

    def describe(self) -> dict[str, Any]:
        return {"name": "scale"}


def said(error: float, radius: float, size: float, name: str = "toy", batch: int = 1) -> FunctionSubject:
    """A subject whose output is given."""
    y = torch.tensor([error, radius, size], dtype=torch.float64)
    return FunctionSubject(lambda X: y.expand(len(X), 3), torch.ones(2), name=name, batch=batch)


# ---- one question of one subject ----


def test_a_result_says_what_was_asked_of_what_and_what_was_found() -> None:
    subject = said(1.0, 2.0, 3.0)
    result = ToyQuestion(runs=3).measure(subject)
    assert (result.measurement, result.check_id, result.verdict) == ("ToyQuestion", "toy_question", "pass")
    assert (result.title, result.sentence, result.noise) == ("ToyQuestion(runs=3)", "The error is 1.", "none")
    assert {name: reading.value for name, reading in result.readings.items()} == {"error": 1, "radius": 2, "size": 3}
    assert list(result.readings) == ["error", "radius", "size"]
    assert result.readings["error"].place == {"slot": "0"}
    assert result.parameters == {"runs": 3, "scale": 1.0, "sizes": [2, 8], "direction": "v1"}
    assert result.subject == subject.describe()
    assert set(result.environment) == set(KINDS)
    assert result.rows == ({"run": 1, "error": 1.0},)
    assert result.arrays["found"].tolist() == [1.0, 2.0]
    assert result.worst == Worst("y", "a", "1", "b", "2")
    assert result.causes == ("a planted cause",)
    json.dumps(result.to_dict(), allow_nan=False)


def test_only_what_this_question_cost_is_counted() -> None:
    subject = said(1.0, 2.0, 3.0, batch=4)
    subject(torch.ones(9, 2))
    spent = ToyQuestion(runs=3).measure(subject).execution
    assert (spent.forwards, spent.calls, spent.backwards, spent.tangents, spent.screened) == (12, 3, 0, 0, 0)
    assert ToyQuestion(runs=3).cost(subject).forwards == 12


def test_every_kind_of_row_is_counted() -> None:
    @dataclass(frozen=True, eq=False)
    class Everything(ToyQuestion):
        def find(self, subject: Subject) -> Finding:
            subject.first_blocks(torch.ones(3, 2))
            subject.jvp(torch.ones(2, 2))
            subject.vjp(torch.ones(5, 2))
            return Finding({}, "")

    spent = Everything().measure(FunctionSubject(torch.sin, torch.ones(2), first=torch.sin)).execution
    assert (spent.forwards, spent.screened, spent.tangents, spent.backwards, spent.calls) == (0, 3, 2, 5, 1)


def test_seconds_are_those_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr("stabilitykit.measurements.base.time.perf_counter", lambda: next(ticks))
    assert ToyQuestion().measure(said(1.0, 2.0, 3.0)).execution.seconds == 2.5


def test_a_reading_that_the_schema_does_not_declare_is_refused() -> None:
    @dataclass(frozen=True, eq=False)
    class Careless(ToyQuestion):
        metrics: ClassVar[tuple[Metric, ...]] = (LOW, PLAIN)

    with pytest.raises(UsageError, match=r"no metric declares \['radius'\]; declared: \['error', 'size'\]"):
        Careless().measure(said(1.0, 2.0, 3.0))


def test_a_parameter_may_decide_the_schema() -> None:
    @dataclass(frozen=True, eq=False)
    class Growing(ToyQuestion):
        metrics: ClassVar[tuple[Metric, ...]] = ()

        def schema(self) -> tuple[Metric, ...]:
            return tuple(Metric(f"sigma_{n}", "", "neither", "planted") for n in range(self.runs))

        def find(self, subject: Subject) -> Finding:
            return Finding({f"sigma_{n}": float(n) for n in range(self.runs)}, "")

    assert list(Growing(runs=3).measure(said(1.0, 2.0, 3.0)).readings) == ["sigma_0", "sigma_1", "sigma_2"]


def test_what_the_subject_refuses_is_not_swallowed() -> None:
    with pytest.raises(InvalidError, match="output 0 of row 0 is nan"):
        ToyQuestion().measure(said(math.nan, 1.0, 1.0))


def test_a_measurement_must_find_and_state_its_cost() -> None:
    class Lazy(Measurement):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Lazy()  # type: ignore[abstract]


@dataclass(frozen=True, eq=False)
class Scales(Measurement[Scale]):
    """Report what a scale shows."""

    metrics: ClassVar[tuple[Metric, ...]] = (LOW,)
    needs: ClassVar[type[Measurable]] = Scale

    def cost(self, subject: Scale) -> Cost:
        return Cost(forwards=1)

    def find(self, subject: Scale) -> Finding:
        subject.counter.forwards += 1
        return Finding({"error": subject.shown}, "")


def test_a_measurement_may_be_asked_of_another_kind_of_thing() -> None:
    scale = Scale(2.5)
    result = measure(Scales(), scale, progress=False)
    assert (result.readings["error"].value, result.execution.forwards, scale.counter.forwards) == (2.5, 1, 1)
    assert result.subject == {"name": "scale"}
    assert measure(Scales(), [Scale(1.0), Scale(3.0)], progress=False).readings["error"].value == 3.0


@pytest.mark.parametrize("given", [said(1.0, 2.0, 3.0), [said(1.0, 2.0, 3.0)]])
def test_another_kind_of_thing_is_refused_with_the_call_that_makes_the_right_one(given: Any) -> None:
    with pytest.raises(UsageError, match="Scales is asked of a Scale, not of a FunctionSubject; make one with Scale"):
        measure(Scales(), given, progress=False)


@pytest.mark.parametrize("given", [Scale(1.0), 3, "smollm2", torch.zeros(2)])
def test_what_is_no_subject_is_refused(given: Any) -> None:
    message = "ToyQuestion is asked of a Subject, not of a .*; make one with CausalLMSubject.model, prompt. or"
    with pytest.raises(UsageError, match=message):
        measure(ToyQuestion(), given, progress=False)


def test_each_thing_counts_its_own_work() -> None:
    one, other = Scale(1.0), Scale(1.0)
    one.counter.calls += 1
    assert (one.counter.calls, other.counter.calls) == (1, 0)


def test_costs_add_by_kind() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)


# ---- identity, title, parameters ----


X = torch.tensor([1.0, -0.0])
OTHERS: dict[str, dict[str, Any]] = {
    "an integer": {"runs": 3},
    "a float": {"scale": math.nextafter(1.0, 2)},
    "minus zero": {"scale": -0.0},
    "plus zero": {"scale": 0.0},
    "nan": {"scale": math.nan},
    "infinity": {"scale": math.inf},
    "a shorter tuple": {"sizes": (2,)},
    "another order": {"sizes": (8, 2)},
    "a name": {"direction": "v2"},
    "a tensor": {"direction": X},
    "one bit of it": {"direction": torch.tensor([1.0, 0.0])},
    "its dtype": {"direction": X.double()},
    "its shape": {"direction": X[None]},
    "an array": {"direction": X.numpy()},
    "an array's bit": {"direction": np.array([1.0, 0.0], dtype=np.float32)},
    "an array's dtype": {"direction": np.array([1.0, -0.0])},
    "zeros": {"direction": np.zeros(2)},
    "integer zeros": {"direction": np.zeros(2, dtype=np.int64)},
    "a list of tensors": {"direction": [X, X]},
    "another list of tensors": {"direction": [X, -X]},
}


def test_every_parameter_is_part_of_the_identity() -> None:
    questions = {name: ToyQuestion(**given) for name, given in OTHERS.items()} | {"default": ToyQuestion()}
    identities = {name: question.identity for name, question in questions.items()}
    assert len(set(identities.values())) == len(identities)
    for name, given in OTHERS.items():
        copied = {k: v.clone() if isinstance(v, Tensor) else v for k, v in given.items()}
        assert ToyQuestion(**copied).identity == identities[name]


def test_the_class_is_part_of_the_identity() -> None:
    @dataclass(frozen=True, eq=False)
    class Other(ToyQuestion):
        pass

    assert Other().identity != ToyQuestion().identity


def test_a_numpy_scalar_asks_the_same_question_as_its_number() -> None:
    assert ToyQuestion(runs=np.int64(3), scale=np.float64(2)).identity == ToyQuestion(runs=3, scale=2.0).identity  # type: ignore[arg-type]


@pytest.mark.parametrize("given", OTHERS.values(), ids=OTHERS)
def test_parameters_are_plain(given: dict[str, Any]) -> None:
    parameters = ToyQuestion(**given).parameters()
    assert list(parameters) == ["runs", "scale", "sizes", "direction"]
    assert parameters["sizes"] == list(given.get("sizes", (2, 8)))
    json.dumps(parameters)


def test_tensors_and_arrays_are_named_by_shape_and_digest() -> None:
    said = (ToyQuestion(direction=one).parameters()["direction"] for one in (X[None], np.zeros((3, 1))))
    for kind, text in zip((r"tensor\(1, 2\)", r"array\(3, 1\)"), said, strict=True):
        assert re.fullmatch(rf"{kind}:[0-9a-f]{{12}}", text)


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({}, "ToyQuestion()"),
        ({"runs": 2, "sizes": (2, 8), "direction": "v1"}, "ToyQuestion()"),
        ({"runs": 3, "sizes": (2,)}, "ToyQuestion(runs=3, sizes=(2,))"),
        ({"scale": 1}, "ToyQuestion(scale=1)"),
        ({"direction": "v2"}, "ToyQuestion(direction='v2')"),
        ({"direction": list(range(100))}, "ToyQuestion(direction=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1 ...)"),
    ],
)
def test_the_title_is_what_one_would_type(given: dict[str, Any], title: str) -> None:
    assert ToyQuestion(**given).title == title


@pytest.mark.parametrize("holder", [lambda x: x, lambda x: [x, x], lambda x: (x, x), lambda x: x.numpy()])
def test_a_title_with_tensors_is_one_short_line(holder: Any) -> None:
    title = ToyQuestion(direction=holder(torch.zeros(20, 20))).title
    assert len(title) < 80
    assert "\n" not in title
    assert "(20, 20):" in title


def test_a_tuple_of_arrays_beside_a_tuple_by_default_is_no_riddle() -> None:
    assert ToyQuestion(sizes=(np.zeros(2), np.ones(2))).title.startswith("ToyQuestion(sizes=['array(2,)")  # type: ignore[arg-type]


def test_the_check_id_is_the_class_name_in_snake_case() -> None:
    names = {"RunToRun": "run_to_run", "KernelPair2X": "kernel_pair2_x", "Tie": "tie"}
    for name, check_id in names.items():
        assert type(name, (ToyQuestion,), {}).check_id() == check_id


def test_a_measurement_is_frozen_and_itself() -> None:
    question = ToyQuestion()
    with pytest.raises(FrozenInstanceError):
        question.runs = 3  # type: ignore[misc]
    assert question != ToyQuestion()
    assert {question: 1}[question] == 1


# ---- one question of many subjects ----


def test_one_subject_is_answered_as_it_is_alone_or_in_a_list() -> None:
    for asked in (said(1.0, 2.0, 3.0), [said(1.0, 2.0, 3.0)]):
        result = measure(ToyQuestion(), asked)
        assert result.rows == ({"run": 1, "error": 1.0},)
        assert result.sentence == "The error is 1."
        assert result.readings["error"].place == {"slot": "0"}


def test_what_several_subjects_have_together_is_not_asked_of_one() -> None:
    """A measurement that compares them has nothing to compare."""

    class Together(ToyQuestion):
        def across(self, results: Sequence[Result]) -> tuple[Row, ...]:
            first, second = (result.readings["error"].value for result in results)
            return ({"apart": second - first},)

    one, other = said(1.0, 2.0, 3.0, "one"), said(1.5, 2.0, 3.0, "other")
    assert measure(Together(), [one, other]).rows[2:] == ({"apart": 0.5},)
    assert measure(Together(), [one]).rows == measure(ToyQuestion(), one).rows


def test_no_subject_is_a_mistake() -> None:
    for nobody in ([], iter(())):
        with pytest.raises(UsageError, match="no subject was given; measure needs at least one"):
            measure(ToyQuestion(), nobody)


def test_where_memory_runs_out_all_is_asked_again_in_half_the_batch_down_to_one_row() -> None:
    """Of a batch of 5 the half is 2; what finds no memory for a single row is refused, as is what has no batch."""

    class Cramped(ToyQuestion):
        def find(self, subject: Subject) -> Finding:
            if subject.batch > self.runs:
                raise MemoryError("out of memory here")
            return super().find(subject)

    five = said(1.0, 2.0, 3.0, batch=5)
    assert "memory" not in measure(Cramped(runs=5), five).subject
    for runs, tried, batch in ((2, "5", 2), (1, "5, 2", 1)):
        result = measure(Cramped(runs=runs), five)
        assert result.subject["batch"] == batch
        assert result.sentence == f"The error is 1. Memory ran out at batch {tried}; measured at {batch}."
    with pytest.raises(InvalidError, match=r"Cramped ran out of the device's memory \(out of memory here\)"):
        measure(Cramped(runs=0), five)


@pytest.fixture
def many() -> Result:
    subjects = [said(1.0, 5.0, 3.0, "one"), said(4.0, 2.0, 9.0, "two", batch=2), said(3.0, 7.0, -9.0, "three")]
    return measure(ToyQuestion(), (subject for subject in subjects))


def test_each_reading_is_the_worst_of_its_own_direction_and_says_whose(many: Result) -> None:
    found = {name: (reading.value, dict(reading.place)) for name, reading in many.readings.items()}
    assert found == {
        "error": (4.0, {"slot": "0", "subject": "two"}),
        "radius": (2.0, {"subject": "two"}),
        "size": (9.0, {"subject": "two"}),
    }
    spread = measure(ToyQuestion(), [said(9.0, 5.0, 3.0, "a"), said(1.0, 2.0, 1.0, "b")])
    assert [reading.place["subject"] for reading in spread.readings.values()] == ["a", "b", "a"]


def test_rows_arrays_and_costs_of_all_subjects_are_kept(many: Result) -> None:
    assert many.rows == (
        {"subject": "one", "run": 1, "error": 1.0},
        {"subject": "two", "run": 1, "error": 4.0},
        {"subject": "three", "run": 1, "error": 3.0},
    )
    assert list(many.frame().columns) == ["subject", "run", "error"]
    assert {name: array.tolist() for name, array in many.arrays.items()} == {
        "000/found": [1.0, 5.0],
        "001/found": [4.0, 2.0],
        "002/found": [3.0, 7.0],
    }
    assert (many.execution.forwards, many.execution.calls) == (2 + 4 + 2, 6)
    assert many.execution.seconds > 0


def test_the_verdict_and_the_sentence_are_those_of_the_worst_subject(many: Result) -> None:
    assert many.verdict == "differs"
    assert many.sentence == "Over 3 subjects; the worst: The error is 4."
    assert many.subject["name"] == "two"
    fine = measure(ToyQuestion(), [said(1.0, 1.0, 1.0), said(2.0, 1.0, 1.0)])
    assert fine.verdict == "pass"


def planted(verdict: str = "pass", **values: float) -> Result:
    metrics = {metric.name: metric for metric in (LOW, HIGH, PLAIN)}
    readings: Mapping[str, Reading] = {name: Reading(metrics[name], value) for name, value in values.items()}
    return Result("Toy", "toy", verdict, "Toy()", verdict, readings, subject={"name": "n", "prompt": verdict})


@pytest.mark.parametrize("order", [1, -1])
def test_the_gravest_verdict_wins_in_any_order(order: int) -> None:
    grave = ["pass", "skipped", "unsupported", "differs", "fail", "invalid"]
    for mild, worse in itertools.pairwise(grave):
        assert combine([planted(mild), planted(worse)][::order]).verdict == worse
    assert combine([planted("measured"), planted("differs")][::order]).verdict == "differs"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", ["error", "radius", "size"])
def test_a_nan_is_worse_than_any_number_in_any_order(name: str, order: int) -> None:
    results = [planted(**{name: value}) for value in (1.0, math.nan, math.inf, -math.inf)]
    assert math.isnan(combine(results[::order]).readings[name].value)


@pytest.mark.parametrize("order", [1, -1])
def test_a_reading_that_only_one_subject_has_is_kept(order: int) -> None:
    found = combine([planted(error=1.0), planted(error=0.5, radius=3.0)][::order]).readings
    assert {name: reading.value for name, reading in found.items()} == {"error": 1.0, "radius": 3.0}


def test_a_prompt_names_its_rows_before_the_subject_does() -> None:
    found = combine([planted("pass", error=1.0), planted("differs", error=2.0)])
    assert found.readings["error"].place == {"subject": "differs"}


# ---- progress ----


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_where_they_are_asked_for() -> None:
    with redirect_stderr(io.StringIO()) as stderr:
        measure(ToyQuestion(runs=3), said(1.0, 2.0, 3.0), progress=True)
    assert "toy" in stderr.getvalue()
    assert "/3" in stderr.getvalue()


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_drawn_where_nobody_watches(progress: bool | None) -> None:
    with redirect_stderr(io.StringIO()) as stderr:
        measure(ToyQuestion(), said(1.0, 2.0, 3.0), progress=progress)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(("progress", "drawn"), [(None, True), (False, False)])
def test_a_person_who_watches_sees_bars_unless_told_not_to(progress: bool | None, drawn: bool) -> None:
    with redirect_stderr(Terminal()) as screen:
        assert terminal() is screen
        measure(ToyQuestion(), said(1.0, 2.0, 3.0), progress=progress)
    assert bool(screen.getvalue()) is drawn


def test_the_stream_ends_with_the_work_also_when_it_fails() -> None:
    with redirect_stderr(io.StringIO()) as stderr:
        with pytest.raises(InvalidError):
            measure(ToyQuestion(), said(math.nan, 1.0, 1.0), progress=True)
        with bar(2, "later", "run") as progress:
            progress.update(2)
    assert "toy" in stderr.getvalue()
    assert "later" not in stderr.getvalue()


def test_streams_nest() -> None:
    outer, inner = io.StringIO(), io.StringIO()
    with progress_to(outer):
        with progress_to(inner), bar(1, "within", "run") as progress:
            progress.update()
        with progress_to(None), bar(1, "silent", "run") as progress:
            progress.update()
        with bar(1, "without", "run") as progress:
            progress.update()
    assert "within" in inner.getvalue()
    assert "without" not in inner.getvalue()
    assert "without" in outer.getvalue()
    assert "within" not in outer.getvalue()
    assert "silent" not in outer.getvalue()
