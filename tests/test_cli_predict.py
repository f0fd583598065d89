"""`stabilitykit predict`: killed runs that go on to the same bytes, exit codes, hostile text, files that read back."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from reportlab.pdfgen.canvas import Canvas

from stabilitykit import cli
from stabilitykit.cli.predict import lines
from stabilitykit.measurements.prediction import WordByWord
from stabilitykit.report.read import read
from stabilitykit.report.text import unguarded
from stabilitykit.results.result import Result
from stabilitykit.subjects.document import read_document
from stabilitykit.subjects.models import load
from stabilitykit.subjects.noise import threads

PAGES, LINES = 12, 14
SIZES = ("--model=tiny", "--window=64", "--stride=32")
HOSTILE = "=cmd()|calc @sum -1+2 \x1b[31mred <script>alert(1)</script> \u202etxt ,;\"' and that is all"


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def book(path):
    """Write a PDF of 12 pages of sentences drawn from a list of words."""
    vocabulary = ("river", "stone", "sand", "clay", "water", "field", "flood", "year", "house", "garden", "hand", "map")
    random = np.random.Generator(np.random.PCG64(1))
    canvas = Canvas(str(path))
    for page in range(PAGES):
        canvas.drawString(72, 780, f"Page {page + 1}: naïve")
        for line in range(LINES):
            canvas.drawString(72, 750 - 40 * line, " ".join(random.choice(vocabulary, size=8)) + ".")
        canvas.showPage()
    canvas.save()
    return path


def begun(folder, *words):
    command = [sys.executable, "-m", "stabilitykit", "predict", *words]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def killed_after(folder, steps, *words):
    """Begin a run and kill it once its journal has so many lines; return how many it left."""
    journal = folder / "out.csv.journal"
    process = begun(folder, *words)
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < steps:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.stderr.close()
        process.wait(60)
    assert not (folder / "out.csv").exists()
    return journal.read_bytes().count(b"\n")


def test_a_pdf_killed_three_times_gives_the_same_bytes(tmp_path, monkeypatch):
    """Each process goes on where the one before was killed, and the csv is that of a run that nobody stopped."""
    document = book(tmp_path / "book.pdf")
    assert read_document(document).pages == PAGES
    words = ["book.pdf", *SIZES, "--output=out.csv", "--json=out.json", "--resume"]
    left = [1]
    for _ in range(3):
        left.append(killed_after(tmp_path, left[-1] + 30, *words))
    # A kill in the middle of a write, which no test can time, leaves part of a line.
    journal = tmp_path / "out.csv.journal"
    journal.write_bytes(journal.read_bytes()[:-7])
    before = (tmp_path / "out.csv.journal").read_bytes().count(b"\n")
    last = begun(tmp_path, *words)
    assert last.communicate(timeout=120)[1] == b""
    assert last.returncode == 0
    assert not journal.exists()
    found = table(tmp_path / "out.csv")
    monkeypatch.chdir(tmp_path)
    with threads(1):
        assert cli.main(["predict", "book.pdf", *SIZES, "--output=whole.csv", "--json=whole.json"]) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    once, again = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("whole.json", "out.json"))
    bits = [[row["bits"] for row in one["rows"] if row["part"] == "window"] for one in (once, again)]
    assert bits[0] == bits[1]
    assert left[3] < len(bits[0]) > before
    assert again["execution"]["forwards"] < once["execution"]["forwards"] * (1 - 90 / len(bits[0])) + 10
    assert [row["word"] for row in found] == read_document(document).text.split()[1:]


def test_a_stopped_run_is_neither_forgotten_nor_believed(tmp_path, monkeypatch, capsys):
    """A journal in the way is refused without a word; --fresh removes it, --resume refuses one of another run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("once upon a time there was")
    killed_after(tmp_path, 2, "a.txt", "--model=tiny", "--window=8", "--stride=1", "--output=out.csv")
    words = ["predict", "a.txt", "--model=tiny", "--window=8", "--stride=1", "--output=out.csv"]
    with threads(1):
        assert cli.main(words) == 2
        assert "go on with --resume, or begin anew with --fresh" in capsys.readouterr().err
        assert cli.main([*words, "--resume", "--dtype=bfloat16"]) == 3
        assert "is of a run with dtype 'float32', this one has 'bfloat16'" in capsys.readouterr().err
        assert cli.main([*words, "--fresh", "--dtype=bfloat16"]) == 0
        coarse = table(tmp_path / "out.csv")
        assert cli.main([*words, "--resume"]) == 0
    assert [row["top_1_logit"] for row in coarse] != [row["top_1_logit"] for row in table(tmp_path / "out.csv")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.csv"]


def test_hostile_text_is_escaped_and_comes_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("first " + HOSTILE, encoding="utf-8")
    assert cli.main(["predict", "a.txt", "--model=tiny", "--top=4", "--report=out", "--tokens=500"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    rows = table(tmp_path / "a.txt.words.csv")
    assert [unguarded(row["word"]) for row in rows] == HOSTILE.split()
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in "=@\t" and cell]
    assert not [cell for cell in cells if not cell.isprintable()]
    assert "top_4_probability" in rows[0]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page
    command = "stabilitykit predict a.txt --model=tiny --top=4 --report=out --tokens=500"
    assert read(tmp_path / "out").run.command == command


def test_the_csv_holds_what_the_result_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("once upon a time there was", encoding="utf-8")
    with threads(1):
        assert cli.main(["predict", "a.txt", "--model=tiny", "--json=a.json"]) == 0
    stored = Result.from_dict(json.loads((tmp_path / "a.json").read_text(encoding="utf-8")))
    words = [row for row in stored.rows if row["part"] == "word"]
    for written, row in zip(table(tmp_path / "a.txt.words.csv"), words, strict=True):
        assert written["word"] == row["word"]
        for name in ("nll", "probability", "margin", "top_1_logit", "cosine_target", "flip_probability"):
            assert float(written[name]) == row[name], name
        for name in ("rank", "target_id", "top_2_id", "start"):
            assert int(written[name]) == row[name], name
        assert written["match"] == str(row["match"]).lower()


def test_the_words_with_the_smallest_margins_are_shown():
    text = "once upon a time there was a child who asked for more words than there were"
    result = WordByWord(text).measure(load("tiny"))
    said = lines(result)
    weakest = sorted((row for row in result.rows if row["part"] == "word"), key=lambda row: row["weakest_margin"])
    assert [int(line.split()[0]) for line in said[1:13]] == [row["number"] for row in weakest[:12]]
    assert said[13] == "words 15, tokens 74"
    assert "perplexity" in said[15]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["none.txt"], 3, "document none.txt cannot be read: No such file"),
        (["."], 2, ". is a folder; name one document"),
        (["empty.txt"], 2, "empty.txt is empty"),
        (["latin.txt"], 3, "latin.txt is not UTF-8 (byte 3)"),
        (["one.txt"], 2, "one.txt has no word with another before it"),
        (["broken.pdf"], 3, "broken.pdf is no PDF that can be read"),
        (["a.txt", "--window=0"], 2, "window '0' is not a whole number from 1 up"),
        (["a.txt", "--stride=x"], 2, "stride 'x' is not a whole number"),
        (["a.txt", "--top=1"], 2, "top=1 is too few; give at least 2"),
        (["a.txt", "--window=600"], 2, "window=600 is more than the context of tiny, 512 tokens"),
        (["a.txt", "--window=8", "--stride=8"], 2, "stride=8 leaves no context in windows of 8 tokens"),
        (["a.txt", "--output=no/such/folder.csv"], 2, "is no file in a folder that exists"),
        (["a.txt", "--dtype=float32,bfloat16"], 2, "predict asks one dtype at a time"),
        (["a.txt", "--resume", "--fresh"], 2, "not allowed with argument"),
        (["taken.txt"], 2, "taken.txt.words.csv.journal is a folder"),
        (["mine.txt", "--resume"], 3, "mine.txt.words.csv.journal does not say what it is a part of"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(capsys, monkeypatch, tmp_path, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "a.txt": b"once upon a time",
        "one.txt": b"once",
        "empty.txt": b"",
        "latin.txt": b"caf\xe9 noir",
        "broken.pdf": b"%PDF-1.7 and no more",
        "taken.txt": b"once upon a time",
        "mine.txt": b"once upon a time",
        "mine.txt.words.csv.journal": b"my diary\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "taken.txt.words.csv.journal").mkdir()
    try:
        found = cli.main(["predict", *words, "--model=tiny"])
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err
    assert (found, error.count("\n")) == (status, 1), error
    assert sentence in error
    assert (tmp_path / "mine.txt.words.csv.journal").read_bytes() == b"my diary\n"


def test_a_missing_library_is_one_sentence(capsys, monkeypatch, tmp_path):
    book(tmp_path / "book.pdf")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert cli.main(["predict", str(tmp_path / "book.pdf"), "--model=tiny"]) == 3
    assert "pip install 'stabilitykit[pdf]'" in capsys.readouterr().err


def test_help_needs_no_torch():
    program = (
        "import sys\nfrom stabilitykit import cli\n"
        "try:\n    cli.main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'pytest', 'numpy', 'pypdf') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "--stride N" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
