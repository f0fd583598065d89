"""`--stability-resume`: what a stopped run finished is taken over, with its outcome, and only where it still holds."""

import json

import pytest

from stabilitykit import cli
from stabilitykit.errors import UnwritableError
from stabilitykit.report.journal import NAME, Journal, lines
from stabilitykit.settings import COMMAND

ENDINGS = """
from pathlib import Path

def ran(name):
    with open("ran.txt", "a") as file:
        file.write(name + " ")

def test_differs(stability):
    ran("differs")
    stability.measure(ToyDrift(3.0), TOY)

@pytest.mark.stability(limits={"max_ulp": 4})
def test_fails(stability):
    ran("fails")
    stability.measure(ToyDrift(17.0), TOY)

def test_two(stability):
    ran("two")
    stability.measure(ToyDrift(1.0), TOY)
    stability.measure(ToyGate(0.0), TOY)

def test_skips_late(stability):
    ran("skips_late")
    stability.measure(ToyDrift(5.0), TOY)
    pytest.skip("half of it")

def test_unsupported(stability):
    ran("unsupported")
    stability.measure(ToyUnsupported(), TOY)

@pytest.mark.xfail(strict=True)
@pytest.mark.stability(limits={"max_ulp": 4})
def test_expected(stability):
    ran("expected")
    stability.measure(ToyDrift(8.0), TOY)

def test_unrelated():
    ran("unrelated")
"""
OUTCOMES = {"passed": 3, "failed": 1, "skipped": 2, "xfailed": 1}


@pytest.fixture
def ran(pytester):
    """Return the names of the tests whose bodies ran since it was asked last."""
    path = pytester.path / "ran.txt"

    def since():
        names = sorted(path.read_text().split()) if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    return since


@pytest.fixture
def stopped(inner, ran):
    """A run of every kind of ending."""
    run = inner(ENDINGS)
    run.result.assert_outcomes(**OUTCOMES)
    assert len(ran()) == 7
    return run


def values(run):
    """What a report says of its checks, without what may differ between two runs."""
    found = json.loads(json.dumps(run.run["records"]))
    for record in found:
        record.pop("resumed")
        for name in ("seconds",):
            if record["result"]:
                record["result"]["execution"].pop(name)
                record["result"]["environment"] = None
    return found


def resumed(run):
    return sorted(record["check_id"] for record in run.run["records"] if record["resumed"])


def test_what_was_measured_is_not_measured_again(inner, stopped, ran):
    before, journal = values(stopped), (stopped.folder / NAME).read_bytes()
    again = inner(ENDINGS, "--stability-resume")
    again.result.assert_outcomes(**OUTCOMES)
    assert again.result.ret == stopped.result.ret == 1
    assert ran() == ["unrelated", "unsupported"], "nothing was measured in these"
    assert values(again) == before
    assert len(resumed(again)) == 6
    assert "6 of 7 checks were taken over from the run begun at 20" in again.text
    assert "resumed: max_ulp 3 ULP" in again.text
    assert "max_ulp 17 breaks <= 4" in again.text, "a failure is shown as it was"
    assert (stopped.folder / NAME).read_bytes().startswith(journal), "nothing was lost"


@pytest.mark.long
def test_workers_take_over_too(inner, stopped, ran):
    before = values(stopped)
    again = inner(ENDINGS, "--stability-resume", "-n", "2", apart=True)
    again.result.assert_outcomes(**OUTCOMES)
    assert ran() == ["unrelated", "unsupported"]
    assert sorted(record["check_id"] for record in values(again)) == [record["check_id"] for record in before]
    assert len(resumed(again)) == 6


def test_a_resumed_run_can_be_resumed(inner, stopped, ran):
    """A test is forgotten by damaging its record; the second run measures it, the third nothing."""
    path = stopped.folder / NAME
    path.write_bytes(
        path.read_bytes().replace(b'"check_id": "toy_drift[test_differs]"', b'"check_id": "toy_drifT[test_differs]"')
    )
    again = inner(ENDINGS, "--stability-resume")
    assert ran() == ["differs", "unrelated", "unsupported"]
    assert f"torn or damaged lines of {path} that were passed over: 1" in again.text
    assert len(resumed(again)) == 5
    inner(ENDINGS, "--stability-resume")
    assert ran() == ["unrelated", "unsupported"]


def test_a_torn_last_line_is_passed_over_and_what_follows_is_whole(inner, stopped, ran):
    path = stopped.folder / NAME
    last = path.read_bytes().rindex(b'{"crc"')
    path.write_bytes(path.read_bytes()[: last + 40])
    inner(ENDINGS, "--stability-resume")
    ran()
    whole, damaged = lines(path)
    assert damaged == 1
    assert [kind for kind, _ in whole].count("header") == 2


def test_an_edited_test_file_is_measured_again(inner, stopped, ran):
    again = inner(ENDINGS + "\n# another file now\n", "--stability-resume")
    assert len(ran()) == 7
    assert resumed(again) == []
    assert "0 of 7 checks were taken over" in again.text


def test_without_the_option_all_is_measured(inner, stopped, ran):
    inner(ENDINGS)
    assert len(ran()) == 7


def test_without_a_journal_all_is_measured_and_that_is_said(inner, ran):
    run = inner(ENDINGS, "--stability-resume")
    run.result.assert_outcomes(**OUTCOMES)
    assert "held no journal to resume; all was measured now" in run.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--stability-seed=1",), "is of a run with seed 0, this one has 1; ask as that run did"),
        (("--stability-model=other",), 'is of a run with models ["smollm2"], this one has ["other"]'),
        (("--stability-limit=*.max_ulp<=9",), 'is of a run with limits [], this one has ["*.max_ulp<=9"]'),
        (("--stability-profile=paper",), 'is of a run with profile "quick", this one has "paper"'),
        (("--dist=each",), "--dist each runs a test more than once"),
    ],
)
def test_another_run_is_refused_before_anything_is_measured(inner, stopped, ran, options, sentence):
    before = {path: path.read_bytes() for path in stopped.folder.rglob("*") if path.is_file()}
    again = inner(ENDINGS, "--stability-resume", *options)
    assert again.result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in again.text
    assert ran() == []
    assert {path: path.read_bytes() for path in stopped.folder.rglob("*") if path.is_file()} == before


def test_a_damaged_header_is_refused(inner, stopped, ran):
    path = stopped.folder / NAME
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1', 1))
    again = inner(ENDINGS, "--stability-resume")
    assert again.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "its first line is damaged; measure anew" in again.text
    assert ran() == []


def test_a_journal_that_cannot_be_written_stops_no_test_and_is_no_pass(inner, monkeypatch):
    written = Journal._write

    def full(self, kind, data):
        if kind != "header":
            raise UnwritableError("journal.jsonl was not written (9 bytes): No space left on device")
        written(self, kind, data)

    monkeypatch.setattr(Journal, "_write", full)
    run = inner(ENDINGS)
    run.result.assert_outcomes(**OUTCOMES)
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert run.text.count("No space left on device; the rest of this run cannot be resumed") == 1
    assert len(run.run["records"]) == 7


def test_resuming_needs_a_report_folder(inner):
    run = inner("", "--stability-resume", "--stability-report=")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--stability-resume goes on with the run of a report folder; name it with report" in run.text


def test_another_machine_is_refused_and_nothing_is_changed(inner, stopped, ran, monkeypatch):
    before = {path: path.read_bytes() for path in stopped.folder.rglob("*") if path.is_file()}
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    more = "def test_a_first(stability):\n    stability.measure(ToyDrift(2.0), TOY)\n" + ENDINGS
    for source in (ENDINGS, more):
        again = inner(source, "--stability-resume")
        assert again.result.ret == pytest.ExitCode.USAGE_ERROR
        assert "was measured with env.CUBLAS_WORKSPACE_CONFIG None, and this process has :16:8" in again.text
        assert "not resumed: " in again.text
        assert ran() == []
        assert {path: path.read_bytes() for path in stopped.folder.rglob("*") if path.is_file()} == before
    monkeypatch.setenv(COMMAND, "stabilitykit run --resume")
    assert cli.run._STATUS[int(inner(ENDINGS, "--stability-resume").result.ret)] == 3
