"""`stabilitykit ab --base REF -- TESTS`: run the same tests on a commit and on the working tree, and compare."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stabilitykit.cli import files
from stabilitykit.errors import UnreadableError, UsageError

HELP = "measure a commit and the working tree on this machine, one after the other; exit 1 where a check moved"
_MEASURED = (0, 1)  # pytest: all passed, or some failed, which is a finding


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--base", metavar="REF", required=True, help="the commit, branch or tag to compare with")
    parser.add_argument("--page", metavar="DIR", help="keep the comparison's page and both reports in this folder")
    parser.epilog = "What follows -- goes to pytest on both sides; without it the installed suite is run."


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Run both sides; return 1 where a check moved, and the lines to print.

    The base is checked out in a folder of its own, which is removed; the working tree is not touched. Code of the
    repository is found by its path: what is installed from elsewhere is the same on both sides.
    """
    from stabilitykit.baselines.runs import beside, lines
    from stabilitykit.report.beside import page
    from stabilitykit.report.read import read
    from stabilitykit.results.atomic import atomic_write

    rest = list(words[words.index("--") + 1 :]) if "--" in words else ["--stability-suite"]
    root = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    commit = _commit(root, given.base)
    within = Path.cwd().resolve().relative_to(root.resolve())
    with files.made_or_temporary("page", given.page) as kept:
        with _checked_out(root, commit) as base:
            _measure("base", base, within, rest, kept)
        _measure("head", root, within, rest, kept)
        found = beside(read(kept / "base"), read(kept / "head"))
        if given.page:
            atomic_write(kept / "index.html", page(found))
    told = [f"base: {given.base} ({commit[:12]}); head: the working tree", *lines(found)]
    return int(bool(found.moved)), [*told, *([f"written: {Path(given.page) / 'index.html'}"] if given.page else [])]


def _measure(side: str, tree: Path, within: Path, rest: Sequence[str], kept: Path) -> None:
    """Run the tests in a tree, and leave its report in `kept/side`; UnreadableError where it leaves no new one."""
    written = kept / side / "run.json"
    former = _stamp(written)
    if not (tree / within).is_dir():
        raise UnreadableError(f"nothing was measured on the {side} side: it has no folder {within}")
    here = [str(tree), str(tree / "src"), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    command = [sys.executable, "-m", "pytest", *rest, f"--stability-report={kept / side}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(here)}
    status = subprocess.run(command, cwd=tree / within, env=env, check=False).returncode  # noqa: S603 - a list of words
    if status not in _MEASURED or _stamp(written) == former:
        raise UnreadableError(f"nothing was measured on the {side} side: pytest ended with status {status}; see above")


def _stamp(path: Path) -> int | None:
    """Return when a file was written: a folder that is kept may hold the report of a former comparison."""
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _checked_out(root: Path, commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stabilitykit-ab-") as folder:
        place = Path(folder) / "base"
        _git(root, "worktree", "add", "--detach", "--quiet", str(place), commit)
        try:
            yield place
        finally:
            _git(root, "worktree", "remove", "--force", str(place))


def _commit(root: Path, ref: str) -> str:
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except UsageError:
        raise UsageError(f"base {ref!r} is no commit, branch or tag of {root}") from None


def _git(folder: Path, *words: str) -> str:
    """Return what git prints; UsageError with its first line where it refuses."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        raise UsageError("git is not installed, and ab compares two states of a git repository") from None
    if done.returncode:
        first = (done.stderr.strip() or "no message").split("\n")[0]
        raise UsageError(f"git {words[0]} in {folder}: {first}")
    return done.stdout.strip()
