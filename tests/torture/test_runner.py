"""The frame itself: a run that was stopped goes on, trials of other sources are not counted, faults are told."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torture.campaign
from torture import page, progress, runner
from torture.campaign import Campaign, draw, fault, unnoticed
from torture.progress import Progress
from torture.record import record, write

from stabilitykit.report.journal import NAME

ROOT = Path(__file__).parents[2]
HERE = Path(__file__)


def made(trial=lambda number: None, full=7, **more):
    about = {"planted": {"always": lambda number: "planted"}, "ci": 2, "source": HERE, **more}
    return Campaign("T3", "toys", "toys", full=full, trial=trial, **about)


def broken(number):
    if number == 2:
        raise ValueError("two\nlines")
    return "it is four" if number == 4 else None


def test_a_fault_is_a_sentence_or_an_exception():
    assert [fault(broken, number) for number in range(5)] == [None, None, "ValueError: two lines", None, "it is four"]


def test_a_trial_draws_the_same_numbers_whatever_was_run_before():
    assert draw("T3", 5).integers(1 << 62) == draw("T3", 5).integers(1 << 62)
    drawn = {int(draw(id, number).integers(1 << 62)) for id in ("T3", "T3a", "T4") for number in range(50)}
    assert len(drawn) == 150


@pytest.mark.parametrize("wrong", [{"planted": {}}, {"ci": 0}, {"ci": 8}])
def test_a_campaign_that_cannot_fail_is_none(wrong):
    with pytest.raises(ValueError, match="a defect is planted"):
        made(**wrong)


def test_a_planted_defect_that_no_trial_notices_is_told():
    late = made(
        planted={"early": lambda number: "x" if number == 1 else None, "late": lambda number: broken(number + 3)}
    )
    assert unnoticed(replace(late, ci=1)) == ["early", "late"]
    assert unnoticed(late) == []
    assert unnoticed(made(planted={"raises": lambda number: broken(2)})) == ["raises"]


def test_a_warning_is_a_fault():
    assert fault(lambda number: warnings.warn("old", DeprecationWarning, stacklevel=1), 0) == "DeprecationWarning: old"


def test_a_stopped_campaign_goes_on_where_it_was(tmp_path):
    seen = []

    def stopped(number):
        if number == 3 and "stopped" not in seen:
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(number)
        return broken(number)

    one = made(stopped)
    with pytest.raises(KeyboardInterrupt):
        Progress(one, tmp_path).run(60)
    again = Progress(one, tmp_path)
    assert (again.done, again.faults) == ({0, 1, 2}, {2: "ValueError: two lines"})
    assert again.run(60) == 4
    assert seen == [0, 1, 2, "stopped", 3, 4, 5, 6]
    assert Progress(one, tmp_path).faults == {2: "ValueError: two lines", 4: "it is four"}


def test_shards_share_the_trials_and_any_division_goes_on(tmp_path):
    one = made()
    assert Progress(one, tmp_path, (1, 2)).run(60) == 4
    assert Progress(one, tmp_path).done == {0, 2, 4, 6}
    assert Progress(one, tmp_path, (1, 3)).run(60) == 1
    assert Progress(one, tmp_path).run(60) == 2
    assert Progress(one, tmp_path).done == set(range(7))


def test_what_a_torn_or_damaged_line_held_is_run_again(tmp_path):
    one = made()
    for _ in range(3):
        Progress(one, tmp_path).run(0)
    path = next(tmp_path.rglob(NAME))
    path.write_bytes(path.read_bytes().replace(b"[[1, 2, 1]]", b"[[1, 7, 1]]")[:-5])
    assert Progress(one, tmp_path).done == {0}


def test_trials_of_other_sources_are_not_counted_unless_kept(tmp_path, monkeypatch):
    one = made()
    Progress(one, tmp_path).run(60)
    monkeypatch.setattr(progress, "sources", lambda campaign: "others")
    assert Progress(one, tmp_path).done == set()
    kept = Progress(one, tmp_path, keep=True)
    assert (kept.done, kept.unnoticed) == (set(range(7)), None)
    kept.run(60)
    assert kept.unnoticed == []


def test_what_found_a_fault_in_other_sources_is_run_again(tmp_path, monkeypatch):
    Progress(made(broken), tmp_path).run(60)
    monkeypatch.setattr(progress, "sources", lambda campaign: "others")
    mended = Progress(made(), tmp_path, keep=True)
    assert (mended.done, mended.faults) == ({0, 1, 3, 5, 6}, {})
    assert mended.run(60) == 2


def test_the_digest_of_the_sources_is_that_of_the_kit_and_the_campaign(tmp_path):
    other = tmp_path / "other.py"
    other.write_text("changed")
    made_of = [{}, {}, {"source": other}, {"rooms": ("numerics",)}, {"rooms": ("numerics", "results")}]
    digests = [progress.sources(made(**about)) for about in made_of]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_a_record_says_what_was_run_and_what_is_open(tmp_path):
    one = made(broken, each=10, planted={"none": lambda number: None})
    running = Progress(one, tmp_path / "journals")
    running.run(60)
    told = json.loads(write(running, tmp_path).read_text())
    assert told == record(running)
    assert (told["asked"], told["run"], told["in_ci"], told["open"]) == (70, 70, 20, 3)
    assert told["faults"] == {"2": "ValueError: two lines", "4": "it is four"}
    assert told["unnoticed"] == ["none"]
    assert sum(told["commits"].values()) == 7


def test_a_record_of_more_trials_of_the_same_sources_stays(tmp_path, monkeypatch):
    whole, part = (Progress(made(), tmp_path / name) for name in ("a", "b"))
    whole.run(60), part.run(0)
    write(whole, tmp_path)
    assert json.loads(write(part, tmp_path).read_text())["run"] == 7
    part.sources = "others"
    assert json.loads(write(part, tmp_path).read_text())["run"] == 1


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """The runner over two toys, one of which has faults; returns what it printed and its status."""
    mine = [made(broken), replace(made(), id="T15")]
    monkeypatch.setattr(runner, "campaigns", lambda: mine)
    return lambda *words: runner.main([*words, "--journals", str(tmp_path / "j"), "--records", str(tmp_path / "r")])


def test_faults_decide_the_status_and_are_printed(toys, tmp_path, capsys):
    assert toys("T15") == 0
    assert toys() == 1
    out = capsys.readouterr().out
    assert "T3   7 of 7 toys, 2 faults\n    trial 2: ValueError: two lines\n    trial 4: it is four" in out
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["T03.json", "T15.json"]


def test_no_time_runs_nothing_and_little_time_a_trial_of_each_in_turn(toys, tmp_path):
    assert toys("--time", "0") == 0
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("words", "says"), [(["T4"], "no campaign 'T4'"), (["--shard", "3/2"], "is not like 1/2")])
def test_a_wrong_request_is_refused(toys, capsys, words, says):
    assert toys(*words) == 2
    assert says in capsys.readouterr().out


@pytest.mark.long
def test_the_command_is_stopped_and_goes_on(tmp_path):
    """Of the shipped campaigns, in a process of its own, killed in its middle."""
    command = [sys.executable, "tests/torture", "T3a", "--journals", str(tmp_path), "--records", str(tmp_path / "r")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--time", "600"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(tmp_path.rglob(NAME)):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    one = next(one for one in torture.campaign.campaigns() if one.id == "T3a")
    before = len(Progress(one, tmp_path).done)
    assert before > 0
    done = subprocess.run([*command, "--time", "0.1"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(Progress(one, tmp_path).done) > before


def test_the_page_is_what_the_records_make():
    assert page.PAGE.read_text(encoding="utf-8") == page.render(page.RECORDS)


def test_a_record_cannot_break_out_of_its_cell():
    assert page.table(["a|b"], [["x\n<y> | z"]]) == "| a\\|b |\n| --- |\n| x &lt;y> \\| z |\n"
