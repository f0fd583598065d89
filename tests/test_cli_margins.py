"""`stabilitykit margins`: exit codes, one sentence for what cannot be meant, escaped text, and files that read back."""

import csv
import json
import subprocess
import sys

import pytest

from stabilitykit import cli
from stabilitykit.cli.margins import lines
from stabilitykit.measurements.margins import Margins
from stabilitykit.report.read import read
from stabilitykit.results.result import Result
from stabilitykit.subjects.models import load


def command(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "stabilitykit", "margins", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("abc\n# a comment\nonce upon a time\n", encoding="utf-8")
    return tmp_path / "prompts.txt"


def test_a_firm_model_exits_0_and_a_coarse_one_1(tmp_path, prompts):
    """Tiny in float32 decides by margins far above its noise; in bfloat16 some of its logits nearly tie."""
    status, said, _ = command(prompts, "--model=tiny", "--tokens=8", cwd=tmp_path)
    assert status == 0, said
    assert "0 of 2 prompts" in said
    status, said, _ = command(prompts, "--model=tiny", "--dtype=bfloat16", "--tokens=40", "--wide", cwd=tmp_path)
    assert status == 1, said
    assert [line.split()[-1] for line in said.splitlines()[1:3] if line.endswith(("abc", "time"))]
    assert "A float32 copy takes another token in" in said


def test_the_threshold_decides(tmp_path, prompts):
    words = ("--model=tiny", "--dtype=bfloat16", "--tokens=40", f"--json={tmp_path / 'all.json'}")
    assert command(prompts, *words, "--at-risk=1e-9", cwd=tmp_path)[0] == 1
    stored = Result.from_dict(json.loads((tmp_path / "all.json").read_text(encoding="utf-8")))
    assert stored.parameters["at_risk"] == 1e-9
    assert stored.readings["prompts_at_risk"].value == 2


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["none.txt"], 2, "prompts file"),
        (["--tokens=0"], 2, "tokens '0' is not a whole number from 1 up"),
        (["--tokens=ten"], 2, "tokens 'ten' is not a whole number"),
        (["--at-risk=2"], 2, "at-risk '2' is not a number between 0 and 1"),
        (["--at-risk=nan"], 2, "at-risk 'nan' is not a number between 0 and 1"),
        (["--dtype=int8"], 2, "dtype 'int8' is none of"),
        (["--dtype=float32,bfloat16"], 2, "margins asks one dtype at a time"),
        (["--device=cpu,cpu"], 2, "margins asks one device at a time"),
        (["--json=no/such/folder.json"], 2, "is no file in a folder that exists"),
        (["--nothing"], 2, "unrecognized arguments: --nothing"),
        (["--model=nosuchmodel"], 3, "no model 'nosuchmodel'"),
        (["--model=tiny", "--tokens=600"], 2, "the model's context is 512"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(capsys, monkeypatch, tmp_path, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    try:
        found = cli.main(["margins", *words])
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err
    assert (found, error.count("\n")) == (status, 1)
    assert sentence in error


def test_report_json_and_csv_hold_the_same(tmp_path, prompts):
    files = ("--report=out", "--json=all.json", "--csv=rows.csv")
    status, said, _ = command(prompts, "--model=tiny", "--tokens=4", *files, cwd=tmp_path)
    assert status == 0
    assert said.count("written: ") == 3
    stored = Result.from_dict(json.loads((tmp_path / "all.json").read_text(encoding="utf-8")))
    report = read(tmp_path / "out")
    assert report.run.command == f"stabilitykit margins {prompts} --model=tiny --tokens=4 {' '.join(files)}"
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == [row["part"] for row in stored.rows]
    assert sum(row["part"] == "token" for row in rows) == 8
    assert "margins[tiny-float32]" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_hostile_prompts_and_tokens_are_escaped():
    """A bidi override and an escape sequence come out as text a reader can see."""
    result = Margins(["a\x1b[31m\u202eb"], 3).measure(load("tiny"))
    said = "\n".join(lines(result))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert r"a\x1b[31m\u202eb" in said


def test_help_needs_no_torch():
    program = (
        "import sys\nfrom stabilitykit import cli\n"
        "try:\n    cli.main(['margins', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'pytest', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "--at-risk P" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
