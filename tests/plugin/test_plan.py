"""Cost is stated before work starts: by the dry run, before each check, and held against what it took."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit import cli
from stabilitykit.plugin import plan
from stabilitykit.plugin.plan import Planned, estimate, table

COSTLY = """
import os

from hypothesis import given
from stabilitykit import strategies


@dataclass(frozen=True, eq=False)
class Costly(ToyDrift):
    "Takes as many forwards as `rows`, and says so."

    rows: int = 3
    said: int | None = None

    def cost(self, subject):
        return Cost(forwards=self.rows if self.said is None else self.said, backwards=2, screened=1000)

    def find(self, subject):
        with open("found.txt", "a") as file:
            file.write("x")
        for _ in range(self.rows):
            subject.evaluate(subject.copies(1))
        return super().find(subject)


@dataclass(frozen=True, eq=False)
class Kernelly(ToyDrift):
    def cost(self, subject):
        return Cost(calls=7)


class Refused(Costly):
    def cost(self, subject):
        raise UnsupportedError("toy cannot say")
"""
TESTS = (
    COSTLY
    + """
def test_one(stability):
    stability.measure(Costly(rows=3), TOY)

def test_several_subjects(stability):
    stability.measure(Costly(rows=3), [TOY, TOY.with_batch(2)])

def test_two(stability):
    stability.measure(Costly(rows=4), TOY)
    stability.measure(Kernelly(), TOY)

def test_twice(stability):
    for rows in (10, 20):
        stability.measure(Costly(rows=rows), TOY)

def test_uses_it(stability):
    stability.measure(Costly(rows=5), TOY).check(max_ulp=0)
    stability.measure(Costly(rows=10**6), TOY, name="never_asked")

def test_searched(stability):
    @strategies.settings_for(stability.profile)
    @given(direction=strategies.directions(3))
    def search(direction):
        found = stability.measure(Costly(rows=1), TOY)
        assert found.readings["max_ulp"].value == 0

    search()

def test_refused(stability):
    stability.measure(Refused(), TOY)

def test_unrelated():
    open("found.txt", "a").close()
"""
)
ROWS = {
    "costly[test_one]": [3, 2, 1000, 0],
    "costly[test_several_subjects]": [6, 4, 2000, 0],
    "costly[test_two]": [4, 2, 1000, 0],
    "kernelly[test_two]": [0, 0, 0, 7],
    "costly[test_twice]": [30, 4, 2000, 0],
    "costly[test_uses_it]": [5, 2, 1000, 0],
    "costly[test_searched]": [10, 20, 10000, 0],
    "7 checks, profile quick": [58, 34, 17000, 7],
}


def shown(run):
    """Return the rows of the printed table, by their first column."""
    found = {}
    for line in run.text.splitlines():
        name, _, numbers = line.partition("  ")
        cells = numbers.split()
        if len(cells) >= 5 and cells[0].replace(",", "").isdecimal():
            found[name] = [int(cell.replace(",", "")) for cell in cells[:4]]
    return found


def test_a_dry_run_lists_every_cost_and_measures_nothing(either, pytester):
    run = either(TESTS, "--stability-dry-run")
    run.result.assert_outcomes(skipped=8)
    assert run.result.ret == 0
    assert shown(run) == ROWS
    assert "1 tests use what they measure: what they may ask after that is not counted." in run.text
    assert not (pytester.path / "found.txt").exists()
    assert not run.folder.exists()


@pytest.mark.long
def test_what_was_measured_already_is_not_planned(inner, pytester):
    inner(TESTS)
    (pytester.path / "found.txt").unlink()
    run = inner(TESTS, "--stability-dry-run", "--stability-resume")
    run.result.assert_outcomes(skipped=8)
    assert shown(run) == {}
    assert not (pytester.path / "found.txt").exists()


def test_the_suite_states_its_cost(pytester, monkeypatch):
    monkeypatch.delenv("STABILITYKIT_COMMAND", raising=False)
    options = ("--stability-suite", "--stability-model=tiny", "--stability-dry-run", "-p", "no:benchmark", "-rN")
    run = pytester.runpytest_inprocess(
        *options, "-k", "run_to_run or batch or searched_directions", "-p", "no:cacheprovider"
    )
    run.assert_outcomes(skipped=3)
    run.stdout.fnmatch_lines(
        [
            "check *forwards *first blocks *about",
            "batch_invariance[[]tiny-float32[]] * 192 * 0 *s",
            "run_to_run[[]tiny-float32[]] * 60 * 0 *s",
            "searched_direction[[]tiny-float32[]] *",
            "3 checks, profile quick *",
            "Times are rough: one forward of each subject was timed, and a backward counted as three.",
        ],
        consecutive=False,
    )
    assert not (pytester.path / "reports").exists()


def test_the_command_offers_it(monkeypatch):
    words = []
    monkeypatch.setattr(cli.run, "_wait", lambda process: 0)
    monkeypatch.setattr(cli.run.subprocess, "Popen", lambda command, env: words.extend(command) or _Nothing())
    assert cli.main(["run", "--dry-run"]) == 0
    assert "--stability-dry-run" in words


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(("cost", "rows"), [(sk.Cost(8), 8), (sk.Cost(2, 2), 8), (sk.Cost(0, 0, 8), 8)])
def test_an_estimate_is_the_rows_at_the_pace_of_one_forward(monkeypatch, cost, rows):
    """The clock is planted: two forwards are run, and the second took half a second."""
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(clock))
    subject = sk.FunctionSubject(lambda X: X, torch.zeros(3), batch=4, first=lambda X: X)
    for _ in range(2):
        assert estimate(cost, subject) == rows * 0.5 / 4
    assert subject.counter.forwards == 8


def test_what_has_no_forward_has_no_estimate():
    assert estimate(sk.Cost(calls=3), sk.FunctionSubject(lambda X: X, torch.zeros(3))) is None
    assert estimate(sk.Cost(3), object()) is None


def test_a_table_says_what_it_leaves_out():
    known, unknown = Planned("a", {"forwards": 1200}, seconds=200.0), Planned("b", {"forwards": 1}, goes_on=True)
    lines = table([known, unknown], "quick")
    assert [line.split() for line in lines[:4]] == [
        ["check", "forwards", "about"],
        ["a", "1,200", "3", "min"],
        ["b", "1", "-"],
        ["2", "checks,", "profile", "quick", "1,201", "3", "min"],
    ]
    assert "Of 1 checks the time is not known; the total is without it." in lines
    assert table([], "quick")[1].split() == ["0", "checks,", "profile", "quick", "0", "-"]


@pytest.mark.long
def test_the_cost_is_told_before_each_check_where_somebody_watches(inner):
    run = inner(TESTS, "--stability-progress", apart=True)
    told = run.result.stderr.str()
    assert "Costly: about 3 forwards, 2 backwards, 1,000 first blocks\n" in told
    assert "Costly: about 6 forwards, 4 backwards, 2,000 first blocks\n" in told
    assert "Costly: about 1 forward, 2 backwards, 1,000 first blocks, up to 10 times" in told
    assert told.count("up to 10 times") == 1
    assert "Kernelly: about 7 calls\n" in told
    assert "Costly: about" not in inner(TESTS, apart=True).text


def test_a_cost_that_was_a_lie_is_told_afterwards(inner):
    """The planted defect states 10 rows and takes 1,000; its twin takes what it states."""
    source = (
        COSTLY
        + """
def test_lies(stability):
    stability.measure(Costly(rows=1000, said=10), TOY)

def test_honest(stability):
    for _ in range(3):
        stability.measure(Costly(rows=1000), TOY)
"""
    )
    run = inner(source)
    sentence = "costly[test_lies] stated 12 rows through the model and took 1,000; correct its cost"
    assert [note for note in run.run["run"]["notes"] if "stated" in note] == [sentence]
    assert sentence in run.text
    assert run.records["costly[test_honest]"]["stated"]["forwards"] == 3000


def test_what_confirming_a_search_takes_is_stated_too(inner, listed):
    source = listed.replace("return Cost()", "return Cost(forwards=100)").replace(
        "d = self.direction.expand()",
        "d = self.direction.expand()\n        [subject.evaluate(subject.copies(1)) for _ in range(100)]",
    )
    run = inner(source)
    assert run.records["along[test_search]"]["stated"]["forwards"] == 600
    assert run.run["run"]["notes"] == []


def test_costs_add_and_multiply_and_say_themselves():
    assert sk.Cost(1, 2, 3, 4) + sk.Cost(10) * 2 == sk.Cost(21, 2, 3, 4)
    assert str(sk.Cost(1216, 1, 4608)) == "about 1,216 forwards, 1 backward, 4,608 first blocks"
    assert str(sk.Cost()) == "no rows through the model"
