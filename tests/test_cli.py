"""The command line: exit codes, one sentence for what cannot be meant, and a run that ignores the user's setup."""

import json
import subprocess
import sys

import pytest

from stabilitykit import cli
from stabilitykit.report.journal import NAME, Journal


def command(*words, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "stabilitykit", *words], cwd=cwd, capture_output=True, text=True, timeout=300, env=env
    )


class Ended:
    """A process that has ended, after so many Ctrl-C to whoever waits for it."""

    def __init__(self, status, interrupts=0):
        self.status, self.interrupts = status, interrupts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        return self.status


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "stabilitykit: the following arguments are required: COMMAND"),
        (["measure"], "invalid choice: 'measure'"),
        (["run", "--modle=x"], "unrecognized arguments: --modle=x"),
        (["run", "--mod=x"], "unrecognized arguments: --mod=x"),
        (["run", "--dtype=int8"], "stabilitykit run: dtype 'int8' is none of float32"),
        (["run", "--seed"], "argument --seed: expected one argument"),
        (["run", "somewhere"], "unrecognized arguments: somewhere"),
        (["run", "--update=new"], "stabilitykit run: update works on a baseline; name it with baseline"),
    ],
)
def test_what_cannot_be_meant_exits_2_with_one_sentence(capsys, words, sentence):
    try:
        status = cli.main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (None, 2, "holds no run.json"),
        ("{", 3, "cannot be read as a report"),
        ('{"run": 1, "records": []}', 3, "schema"),
    ],
)
def test_a_report_that_cannot_be_replayed_ends_before_pytest_starts(tmp_path, capsys, content, status, sentence):
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert cli.main(["run", f"--replay={tmp_path}"]) == status
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("header", "status", "sentence"),
    [
        ('{"identity": {"seed": 7}}', 2, "is of a run with seed 7, this one has 0; ask as that run did"),
        (None, 3, "its first line is damaged; measure anew"),
    ],
)
def test_another_runs_journal_ends_before_pytest_starts(tmp_path, capsys, header, status, sentence):
    Journal(tmp_path, header or "{}").append('{"nodeid": "a"}')
    if header is None:
        (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[9:])
    assert cli.main(["run", "--resume", f"--report={tmp_path}"]) == status
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_hostile_name_in_an_error_is_shown_harmless(capsys, tmp_path):
    assert cli.main(["report", str(tmp_path / "\x1b[31m\u202e")]) == 3
    assert r"\x1b[31m\u202e" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("theirs", "ours"), [(0, 0), (1, 1), (2, 130), (3, 3), (4, 2), (5, 2), (-2, 130), (-9, 3), (77, 3)]
)
def test_exit_codes_are_mapped(monkeypatch, theirs, ours):
    monkeypatch.setattr(cli.run.subprocess, "Popen", lambda *_, **__: Ended(theirs))
    assert cli.main(["run"]) == ours


def test_an_interrupt_waits_for_pytest_to_end(monkeypatch):
    ended = Ended(2, interrupts=2)
    monkeypatch.setattr(cli.run.subprocess, "Popen", lambda *_, **__: ended)
    assert cli.main(["run"]) == 130
    assert ended.interrupts == 0


def test_options_become_pytests_and_the_rest_is_handed_on(monkeypatch):
    seen = {}

    def run(words, **how):
        seen.update(words=words, told=how["env"]["STABILITYKIT_COMMAND"])
        return Ended(0)

    monkeypatch.setattr(cli.run.subprocess, "Popen", run)
    cli.main(["run", "--model", "a b", "--model=tiny", "--strict", "--limit=x.y<=1", "--", "-n", "2", "--strict"])
    for word in ("--stability-model=a b", "--stability-model=tiny", "--stability-report=reports", "--stability-suite"):
        assert word in seen["words"]
    assert seen["words"][-3:] == ["-n", "2", "--strict"]
    assert seen["told"] == "stabilitykit run '--model=a b' --model=tiny '--limit=x.y<=1' --strict -- -n 2 --strict"


def test_help_needs_neither_torch_nor_pytest():
    program = (
        "import sys\nfrom stabilitykit import cli\n"
        "try:\n    cli.main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'pytest', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "--stability" not in done.stdout
    assert "--dtype LIST" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_models_lists_what_can_be_opened(tmp_path):
    done = command("models", cwd=tmp_path)
    assert done.returncode == 0
    assert any(line.startswith("smollm2 ") for line in done.stdout.splitlines())


def test_a_run_ignores_the_users_configuration_and_writes_the_report(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\npython_files = check_*.py\n")
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    assert False\n")
    done = command("run", "--model=tiny", "--", "-k", "run_to_run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((tmp_path / "reports" / "run.json").read_text(encoding="utf-8"))
    assert [record["check_id"] for record in stored["records"]] == ["run_to_run[tiny-float32]"]
    assert stored["run"]["command"] == "stabilitykit run --model=tiny -- -k run_to_run"
    assert not (tmp_path / "tests").exists()


def test_a_run_that_measures_nothing_is_no_pass(tmp_path):
    assert command("run", "--model=tiny", "--", "-k", "no_such_test", cwd=tmp_path).returncode == 2
