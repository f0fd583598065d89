"""`stabilitykit power -- TESTS`: run the same tests under each planted fault: which of these bugs would they catch?"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stabilitykit.cli import files
from stabilitykit.cli.one_model import add_shared, option, settings_of, write_report
from stabilitykit.errors import UnreadableError
from stabilitykit.settings import COMMAND, arguments

HELP = "plant known bugs into a model, one at a time, and see which of them your tests catch; exit 1 if one is missed"
_MEASURED = (0, 1)  # pytest: all passed, or some failed, which is what a planted fault is for
_FINISHED, _BASELINE, _LOG = "finished.txt", "clean.jsonl", "pytest.log"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_shared(parser)
    profile = option("profile")
    parser.add_argument("--profile", dest=profile.key, metavar=profile.metavar, help=profile.explained)
    parser.add_argument("--faults", metavar="GLOB", default="*", help="which faults, such as 'split-k*' (default: *)")
    parser.add_argument(
        "--keep", metavar="DIR", help="keep every run's report in this folder, and take over what it has"
    )
    files.add(parser, "check and fault")
    parser.epilog = "What follows -- goes to pytest in every run; without it the installed suite is run."


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Run the tests as they are, with nothing planted, and with each fault; return 1 where one is missed."""
    settings = settings_of(given)
    files.writable(given, "json", "csv")
    files.folder("keep", given.keep)
    from stabilitykit.baselines.power import Runs, lines, power
    from stabilitykit.faults.catalogue import NOTHING, faults_like
    from stabilitykit.measurements.progress import bar, progress_to, terminal
    from stabilitykit.report.read import read

    faults = faults_like(given.faults)
    rest = list(words[words.index("--") + 1 :]) if "--" in words else ["--stability-suite"]
    base = [*_of_model(given), *rest]
    with files.made_or_temporary("keep", given.keep) as kept, progress_to(terminal()):
        held = [f"--stability-baseline={kept / _BASELINE}"]
        with bar(len(faults) + 2, "power", "run") as progress:
            _measure(kept / "clean", [*base, f"--stability-save={kept / _BASELINE}"])
            progress.update()
            for fault in (NOTHING, *faults):
                _measure(kept / fault.name, [*base, *held, f"--stability-plant={fault.name}"])
                progress.update()
        reports = {fault: read(kept / fault.name) for fault in faults}
        runs = Runs(read(kept / "clean"), read(kept / NOTHING.name), reports)
        result = power(runs, f"FaultPower(faults={given.faults!r})")
    written = files.write(given, result)
    if settings.report:
        written.append(write_report(settings, result, "power", words))
    missed = result.readings["missed"].value + result.readings["false_alarms"].value
    return int(missed > 0), [*lines(result), *(f"written: {path}" for path in written)]


def _of_model(given: argparse.Namespace) -> list[str]:
    """Return the options that say which model, and how much of it, as pytest has them."""
    names = ("model", "dtype", "device", "profile", "attention", "experts", "load-arg")
    return arguments({name: getattr(given, option(name).key) for name in names})


def _measure(folder: Path, words: Sequence[str]) -> None:
    """Run the tests into a report folder, unless it holds this very run; UnreadableError where nothing was measured."""
    command = shlex.join(words)
    finished = folder / _FINISHED
    if finished.is_file() and finished.read_text(encoding="utf-8") == command:
        return
    folder.mkdir(parents=True, exist_ok=True)
    finished.unlink(missing_ok=True)
    told = [sys.executable, "-m", "pytest", "-q", *words, f"--stability-report={folder}"]
    if (folder / "journal.jsonl").is_file() and not (folder / "run.json").is_file():
        told.append("--stability-resume")
    with (folder / _LOG).open("w", encoding="utf-8") as log:
        env = {name: value for name, value in os.environ.items() if name != COMMAND}
        status = subprocess.run(told, env=env, check=False, stdout=log, stderr=subprocess.STDOUT).returncode  # noqa: S603 - a list of words
    if status not in _MEASURED or not (folder / "run.json").is_file():
        raise UnreadableError(
            f"nothing was measured in {folder.name}: pytest ended with status {status}; see {folder / _LOG}"
        )
    finished.write_text(command, encoding="utf-8")
