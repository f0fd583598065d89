"""`stabilitykit endpoint`: exit codes, one sentence for what cannot be meant, escaped text, no key, and files."""

import csv
import json

import pytest
from oracles.planted_server import Planted, serving

from stabilitykit import cli
from stabilitykit.report.read import read
from stabilitykit.results.result import Result

SHORT = ("--tokens=8", "--repeats=2", "--concurrency=2")
KEY = "sk-planted-0123456789"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n# a comment\n<b>two</b>\n", encoding="utf-8")
    return f"--prompts={tmp_path / 'prompts.txt'}"


def command(capsys, *words):
    try:
        status = cli.main(["endpoint", *words])
    except SystemExit as end:
        status = end.code
    said, error = capsys.readouterr()
    return status, said, error


def test_sameness_exits_0_and_difference_1(capsys, prompts):
    with serving(Planted()) as url:
        status, said, _ = command(capsys, url, prompts, *SHORT)
    assert status == 0
    rows = [line.split() for line in said.splitlines()[1:3]]
    assert [row[:5] for row in rows] == [["1", "4", "0", "0", "0.777"], ["2", "4", "0", "0", "0.528"]]
    assert "0 of 4 differed" in said
    with serving(Planted(flips_from=2, text="\x1b]0;x\u202e")) as url:
        status, said, _ = command(capsys, url, prompts, *SHORT, "--chat")
    assert status == 1
    assert "They differ from 2 requests at once on" in said
    assert "<b>two</b>: token 5, alone '" in said


def test_an_end_in_the_middle_exits_3(capsys, prompts):
    with serving(Planted(dies_after=5)) as url:
        status, said, _ = command(capsys, url, prompts, *SHORT)
    assert status == 3
    assert "Broken off after" in said


def test_what_a_server_writes_reaches_terminal_page_and_table_escaped(capsys, tmp_path, prompts):
    hostile = "=cmd|'x'!A1<script>alert(1)</script>\x1b[31m\u202e\ud800"
    files = [f"--json={tmp_path / 'a.json'}", f"--csv={tmp_path / 'a.csv'}", f"--report={tmp_path / 'report'}"]
    planted = Planted(flips_alone_every=3, text=hostile, names=(f"m{hostile}",))
    with serving(planted) as url:
        status, said, _ = command(capsys, url, prompts, *SHORT, *files)
    assert status == 1
    assert not {"\x1b", "\u202e", "\ud800"} & set(said)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert(1)</script>" not in page
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"level", "prompt", "request", "text"}
    assert not [cell for row in rows for cell in row.values() if cell.startswith("=") or "\x1b" in cell]
    stored = Result.from_dict(json.loads((tmp_path / "a.json").read_text(encoding="utf-8")))
    assert next(row["completion"] for row in stored.rows if row["part"] == "text").startswith(hostile)
    (record,) = read(tmp_path / "report").records
    assert record.check_id == "served_determinism[planted-completions]"
    assert "Does a server say the same again" in page


def test_the_key_is_in_no_file_and_on_no_screen(capsys, monkeypatch, tmp_path, prompts):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    files = [f"--json={tmp_path / 'a.json'}", f"--csv={tmp_path / 'a.csv'}", f"--report={tmp_path / 'report'}"]
    planted = Planted(echoes_key=True, status={4: 500}, flips_alone_every=3)
    with serving(planted) as url:
        status, said, error = command(capsys, url, prompts, *SHORT, *files, "--api-key-env=PLANTED_KEY")
    assert (status, error) == (1, "")
    assert planted.headers[-1]["authorization"] == f"Bearer {KEY}"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 6
    assert KEY not in said
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["ftp://host"], 2, "not of the form http://HOST:PORT/v1"),
        (["http://host", "--prompts=none.txt"], 2, "prompts file"),
        (["http://host", "--tokens=ten"], 2, "tokens 'ten' is not a whole number"),
        (["http://host", "--tokens=0"], 2, "give at least 1 token"),
        (["http://host", "--concurrency=2,x"], 2, "concurrency 'x' is not a whole number"),
        (["http://host", "--concurrency=4,2"], 2, "no ascending list"),
        (["http://host", "--timeout=never"], 2, "timeout 'never' is not a number of seconds"),
        (["http://host", "--timeout=nan"], 2, "timeout 'nan' is not a number of seconds"),
        (["http://host", "--chat", "--completions"], 2, "not allowed with"),
        (["http://host", "--json=no/such/folder.json"], 2, "is no file in a folder that exists"),
        (["http://host", f"--api-key-env={KEY}"], 2, "give its name, not the key"),
        (["http://127.0.0.1:9/v1", *SHORT], 3, "cannot be reached"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(capsys, monkeypatch, tmp_path, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    found, _, error = command(capsys, *words)
    assert (found, error.count("\n")) == (status, 1)
    assert sentence in error
    assert KEY not in error
