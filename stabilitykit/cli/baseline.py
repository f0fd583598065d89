"""`stabilitykit baseline list|show|diff|prune`: what baselines hold, how two differ, and removing what is stale."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UnreadableError, UsageError

if TYPE_CHECKING:
    from stabilitykit.baselines.compare import Comparison
    from stabilitykit.baselines.entry import Entry, Facts
    from stabilitykit.baselines.store import Baseline

HELP = "list, show and compare baselines, and remove entries; exit 1 where two differ"
_WHERE = "a name (.stability/NAME.jsonl) or a path"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    found = actions.add_parser("list", help="the baselines of a folder, and what each is of", allow_abbrev=False)
    found.add_argument("folder", metavar="DIR", nargs="?", default=".stability", help="default: .stability")
    shown = actions.add_parser("show", help="the readings of a baseline", allow_abbrev=False)
    shown.add_argument("baseline", metavar="BASELINE", help=_WHERE)
    shown.add_argument("checks", metavar="CHECK", nargs="*", help="globs on check ids; default: all")
    differ = actions.add_parser("diff", help="compare two; exit 1 where the second has drifted", allow_abbrev=False)
    differ.add_argument("then", metavar="THEN", help=_WHERE)
    differ.add_argument("now", metavar="NOW", help="another one")
    differ.add_argument(
        "--compare-fail", metavar="EXPR", action="append", default=[], help="how much worse is no drift"
    )
    pruned = actions.add_parser("prune", help="remove entries", allow_abbrev=False)
    pruned.add_argument("baseline", metavar="BASELINE", help=_WHERE)
    pruned.add_argument("checks", metavar="CHECK", nargs="+", help="globs on the check ids to remove")
    pruned.add_argument("--environment", metavar="KEY", help="only those of this numeric environment, as show names it")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Return the exit status and the lines to print."""
    if given.action == "list":
        return 0, _list(Path(given.folder))
    if given.action == "show":
        return 0, _show(_opened(given.baseline), given.checks)
    if given.action == "prune":
        return 0, _prune(_opened(given.baseline), given.checks, given.environment)
    return _diff(_opened(given.then), _opened(given.now), given.compare_fail)


def _list(folder: Path) -> list[str]:
    from stabilitykit.baselines.store import SUFFIX, read

    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        return [f"{folder} holds no baseline; stabilitykit run --save NAME writes one"]
    rows: list[tuple[str, ...]] = [("baseline", "checks", "environments", "models")]
    for path in paths:
        entries = list(read(path).entries.values())
        models = sorted({str(entry.model.get("name")) for entry in entries})
        counts = [len({one.check for one in entries}), len({one.setting.numeric for one in entries})]
        rows.append((path.stem, *map(str, counts), ", ".join(models)))
    return _aligned(rows)


def _show(baseline: Baseline, checks: Sequence[str]) -> list[str]:
    entries = _chosen(baseline, checks or ["*"])
    settings = {entry.setting.numeric: entry.setting for entry in entries}
    lines = [f"environment {key}: {_setting(setting.identity)}" for key, setting in sorted(settings.items())]
    rows = [("check", "environment", "reading", "value", "hex", "unit")]
    for entry in entries:
        for name, kept in entry.readings.items():
            value = (f"{kept.value:.6g}", kept.value.hex(), kept.unit)
            rows.append((entry.check, entry.setting.numeric, name, *value))
    return [*lines, "", *_aligned(rows)]


def _setting(identity: Facts) -> str:
    named = ("gpu", "cpu", "device", "dtype", "threads", "torch", "attention")
    return ", ".join(f"{name} {identity[name]}" for name in named if name in identity)


def _diff(then: Baseline, now: Baseline, expressions: Sequence[str]) -> tuple[int, list[str]]:
    """Return 1 where a check has drifted, else 0; what cannot be compared is said and counted."""
    from stabilitykit.baselines.compare import compare
    from stabilitykit.baselines.tolerance import Tolerance

    rules = [Tolerance.parse(expression) for expression in expressions]
    lines, counts = list[str](), Counter[str]()
    for entry in sorted(now.entries.values(), key=lambda entry: entry.key):
        found = compare(entry, then.of(entry.check), rules, {one.digest: one.readings for one in entry.courses})
        counts[found.status] += 1
        lines += _told(entry, found, then.name)
    gone = sorted(set(then.entries) - set(now.entries))
    lines += [f"only in {then.name}: {key.check} ({key.numeric})" for key in gone]
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    return int(counts["drifted"] > 0), [*lines, f"{len(now.entries)} entries of {now.name}: {told or 'none'}"]


def _told(entry: Entry, found: Comparison, name: str) -> Iterator[str]:
    from stabilitykit.baselines.words import explanation, sentence

    if found.status == "same":
        return
    if not found.broken:
        yield f"{entry.check}: {sentence(found, name)}"
        return
    yield f"{entry.check}: drifted. {explanation(found.changes)}"
    rows = [
        (drift.kind, drift.label, _number(drift.now), _number(drift.then), drift.allowed, drift.change, drift.unit)
        for drift in found.drifts
        if drift.kind != "same"
    ]
    yield from (f"  {line}" for line in _aligned([("", "reading", "now", "then", "allowed", "change", "unit"), *rows]))


def _prune(baseline: Baseline, checks: Sequence[str], environment: str | None) -> list[str]:
    from stabilitykit.baselines.store import write

    removed = [one for one in _chosen(baseline, checks) if environment in (None, one.setting.numeric)]
    if not removed:
        raise UsageError(f"{baseline.name} has no such entry in the environment {environment}; see baseline show")
    keys = {entry.key for entry in removed}
    write(baseline, [entry for key, entry in baseline.entries.items() if key not in keys])
    lines = [f"removed: {key.check} ({key.numeric})" for key in sorted(keys)]
    return [*lines, f"{len(keys)} of {len(baseline.entries)} entries removed from {baseline.name}"]


def _chosen(baseline: Baseline, checks: Sequence[str]) -> list[Entry]:
    """Return the entries that one of the globs names, in order; UsageError for a glob that names none."""
    from stabilitykit.results.limit import names

    for glob in checks:
        if not any(names(glob, entry.check) for entry in baseline.entries.values()):
            raise UsageError(f"{baseline.name} has no check {glob!r}; see baseline show")
    entries = sorted(baseline.entries.values(), key=lambda entry: entry.key)
    return [entry for entry in entries if any(names(glob, entry.check) for glob in checks)]


def _opened(named: str) -> Baseline:
    from stabilitykit.baselines.store import place, read

    found = read(place(named, Path.cwd()))
    if not found.exists:
        raise UnreadableError(f"there is no baseline {found.name}; stabilitykit run --save {named} writes it")
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value!r}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    from stabilitykit.report.text import aligned, shown

    return aligned([[shown(cell) for cell in row] for row in rows])
