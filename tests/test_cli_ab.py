"""`stabilitykit ab`: the planted ULP between a commit and the working tree is found, and nothing is left behind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stabilitykit.cli import main

KERNEL = "def kernel(X):\n    return X * {scale}\n"
TEST = """
import torch
import stabilitykit as sk
from kernel import kernel

def test_kernel(stability):
    stability.measure(sk.SingularSpectrum(k=1), sk.FunctionSubject(kernel, torch.ones(4), name="kernel"))
"""


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kernel.py").write_text(KERNEL.format(scale="1.5"))
    (folder / "test_kernel.py").write_text(TEST)
    git(folder, "init", "--quiet", "-b", "main")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "one")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


PYTEST = ["--", "test_kernel.py", "-q", "-p", "no:cacheprovider"]


def test_one_ulp_between_commit_and_tree_is_found(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ab", "--base", "main", *PYTEST]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "1 check: 1 same"
    (repository / "kernel.py").write_text(KERNEL.format(scale="1.5000001192092896"))
    assert main(["ab", "--base", "main", "--page", "kept", *PYTEST]) == 1
    told = capfd.readouterr().out
    assert f"base: main ({git(repository, 'rev-parse', 'HEAD')[:12]}); head: the working tree" in told
    (sides,) = re.findall(r"worse +singular_spectrum\[test_kernel\]  sigma_1 ([\d.]+) -> ([\d.]+);", told)
    assert [float(side) for side in sides] == pytest.approx([1.5, 1.5000001192092896], abs=1e-7)
    assert (repository / "kept" / "index.html").exists()
    assert {path.name for path in (repository / "kept").iterdir()} == {"base", "head", "index.html"}
    assert "1.5000001192092896" in (repository / "kernel.py").read_text(), "the working tree is not touched"
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_side_that_measures_nothing_is_said_and_cleaned_up(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository / "test_new.py").write_text(TEST)
    assert main(["ab", "--base", "main", "--", "test_new.py", "-q"]) == 3
    assert "nothing was measured on the base side: pytest ended with status 4" in capfd.readouterr().err
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_former_comparison_is_not_taken_for_this_one(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tests that measure nothing leave no report, and pass; a folder of the working tree alone has no base."""
    for side in ("base", "head"):
        (repository / "kept" / side).mkdir(parents=True)
        (repository / "kept" / side / "run.json").write_text("{}")
    assert main(["ab", "--base", "main", "--page", "kept", "--", "test_kernel.py", "-q", "-k", "no_such"]) == 3
    (repository / "test_idle.py").write_text("def test_idle(): pass\n")
    git(repository, "add", "test_idle.py")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "two")
    assert main(["ab", "--base", "main", "--page", "kept", "--", "test_idle.py", "-q"]) == 3
    assert "nothing was measured on the base side: pytest ended with status 0" in capfd.readouterr().err


def test_a_folder_that_the_base_has_not_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository / "new").mkdir()
    monkeypatch.chdir(repository / "new")
    assert main(["ab", "--base", "main"]) == 3
    assert "nothing was measured on the base side: it has no folder new" in capfd.readouterr().err


def test_what_cannot_be_meant_is_one_sentence(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["ab", "--base", "nowhere"]) == 2
    assert "base 'nowhere' is no commit, branch or tag" in capfd.readouterr().err
    assert main(["ab", "--base", "main", "--page", "kernel.py"]) == 2
    assert "is a file; name a folder" in capfd.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["ab", "--base", "main"]) == 2
    assert "not a git repository" in capfd.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["ab", "--base", "main"]) == 2
    assert "git is not installed" in capfd.readouterr().err
