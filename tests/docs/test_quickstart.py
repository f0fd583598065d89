"""The quick start runs as printed, with a tiny model as `./my-model`.

A command that measures takes seconds to start, so three of them are run, which need what the others do; of the
rest the options are read, and their effects are tested where they are defined.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stability_tests
from stabilitykit.cli import _parser, main
from stabilitykit.settings import resolve
from stabilitykit.subjects.models import load

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
PAGE_OF_REPORT = Path(__file__).parents[2] / "docs" / "reading-the-report.md"
SUITE = Path(stability_tests.__file__).parent
COMMANDS = [shlex.split(line) for line in re.findall(r"^\$ (.*)$", PAGE, flags=re.MULTILINE)]
RUN = ("--stability-save", "report-a", "compare")


def words_of(sign):
    (words,) = [words for words in COMMANDS if sign in words]
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: the model, and the page's test."""
    folder = tmp_path_factory.mktemp("quickstart")
    tiny = load("tiny")
    tiny.model.save_pretrained(folder / "my-model")
    tiny.tokenizer.save_pretrained(folder / "my-model")
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "test_my_model.py").write_text(source, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return folder


def run(folder, sign):
    """Run the one command of the page with this word in it; return what it printed."""
    told = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *words_of(sign)]
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_test_file_passes_and_is_kept(folder):
    assert "2 passed" in run(folder, "--stability-save")
    assert (folder / ".stability" / "main.jsonl").is_file()


@pytest.fixture(scope="module")
def recorded(folder):
    """The same folder, with what the first machine recorded and its report."""
    run(folder, "report-a")
    return folder


def test_the_page_about_the_report_reads_one(recorded, monkeypatch, capsys):
    monkeypatch.chdir(recorded)
    page = PAGE_OF_REPORT.read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(source.replace('"reports"', '"report-a"').replace("radius", "tokens"), {})
    said = capsys.readouterr().out
    assert said.count("trace[my-model-float32]") == 2
    assert re.search(r" 40(\.0)? +tokens", said)


def test_what_one_machine_recorded_is_compared(recorded, monkeypatch, capsys):
    folder = recorded
    shutil.copytree(folder / "A", folder / "B")  # the same machine would write the same bytes
    monkeypatch.chdir(folder)
    assert main(words_of("compare")[1:]) == 0
    assert "All 40 tokens of 10 prompts are equal" in capsys.readouterr().out


@pytest.mark.parametrize("words", [words for words in COMMANDS if not set(RUN) & set(words)], ids=" ".join)
def test_the_options_of_the_others_are_those_there_are(folder, words, monkeypatch):
    monkeypatch.chdir(folder)
    own = words[1:] if words[0] == "stabilitykit" else ["run", *words[2:]]
    own = [word.replace("--stability-", "--") for word in own]
    given = _parser().parse_args(own[: own.index("--")] if "--" in own else own)
    settings = resolve(lambda option: getattr(given, option.key, None), lambda _: None, folder)
    assert settings.models[0] in ("tiny", "./my-model")


def test_checks_that_are_chosen_exist():
    suite = "\n".join(path.read_text(encoding="utf-8") for path in SUITE.glob("test_*.py"))
    chosen = {name for words in COMMANDS if "-k" in words for name in words[words.index("-k") + 1].split(" or ")}
    assert chosen
    assert all(f"def test_{name}" in suite for name in chosen)
