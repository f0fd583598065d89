"""The controller's side of baselines: what a run writes to them, and what it says of them at its end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from stabilitykit.baselines.store import Baseline, read, write
from stabilitykit.errors import StabilityError
from stabilitykit.plugin.held import HELD, UPDATED

if TYPE_CHECKING:
    from stabilitykit.baselines.entry import Entry
    from stabilitykit.results.record import Record
    from stabilitykit.settings import Settings

_NAMED = 4
_ADDED = re.compile(r"(?<=\])@.*")


def opened(settings: Settings) -> Baseline | None:
    """Return the baseline that a run saves to, as it is now; pytest.UsageError for one that cannot be read."""
    try:
        return read(settings.save) if settings.save else None
    except StabilityError as error:
        raise pytest.UsageError(f"--stability-save: {error}") from None


def finish(config: pytest.Config, settings: Settings, records: Sequence[Record]) -> tuple[list[str], bool]:
    """Write what the options ask for; return the notes for the reader, and whether all could be written."""
    saved, held = config.stash.get(SAVED, None), config.stash.get(HELD, None)
    notes, whole = [], True
    if held:
        notes += _compared(held.baseline, settings, records)
    targets: list[tuple[Baseline, Iterable[Record]]] = [(saved, records)] if saved else []
    if held and settings.update:
        asked = UPDATED[settings.update]
        targets.append((held.baseline, [one for one in records if one.baseline.get("status") in asked]))
    for baseline, chosen in targets:
        try:
            notes.append(_written(baseline, chosen))
        except (StabilityError, OSError) as error:
            notes.append(f"baseline not written: {error}")
            whole = False
    return notes, whole


def _written(baseline: Baseline, records: Iterable[Record]) -> str:
    """Put the records' entries in the place of those that they follow, and say how many."""
    found = [entry for record in records if (entry := _entry(record)) is not None]
    entries = dict(baseline.entries)
    for entry in found:
        # Of another model under this check id nothing is kept: it would stay foreign in every environment.
        strangers = [key for key, one in entries.items() if one.check == entry.check and one.model != entry.model]
        for key in strangers:
            del entries[key]
    counts = Counter(
        "added" if entry.key not in entries else "as they were" if entries[entry.key] == entry else "changed"
        for entry in found
    )
    write(baseline, {**entries, **{entry.key: entry for entry in found}}.values())
    told = ", ".join(f"{counts[word]} {word}" for word in ("added", "changed", "as they were") if counts[word])
    return f"baseline written: {baseline.name} ({told or 'nothing to add'})"


def _entry(record: Record) -> Entry | None:
    from stabilitykit.baselines.measured import KEPT, entry_of

    return entry_of(record) if record.verdict in KEPT else None


def _compared(baseline: Baseline, settings: Settings, records: Sequence[Record]) -> list[str]:
    """Return a note for each status that a reader may want to act on."""
    from stabilitykit.baselines.words import listed

    reasons: dict[tuple[str, str], list[str]] = {}
    for record in records:
        status = record.baseline.get("status", "")
        changes = [(name, then, now) for name, then, now in record.baseline.get("changes", ())]
        reason = listed(changes) if status in ("elsewhere", "other question") else ""
        reasons.setdefault((status, reason), []).append(record.check_id)
    notes = []
    for (status, reason), checks in reasons.items():
        if form := _NOTES.get(status):
            mode = "new" if status in UPDATED["new"] else "all"
            act = "" if status in UPDATED[settings.update] else f"; --stability-update {mode} writes what was measured"
            notes.append(form.format(path=baseline.name, checks=_few(checks), reason=reason, act=act))
    return [*notes, *_idle(settings, records), *_stale(baseline, records)]


_NOTES = {
    "new": "new to {path}: {checks}{act}",
    "elsewhere": "not compared with {path}, which has other numeric environments only ({reason}): {checks}{act}",
    "other question": "not compared with {path}, which has the answer to another question ({reason}): {checks}{act}",
    "better": "better than {path}: {checks}{act}",
}


def _idle(settings: Settings, records: Sequence[Record]) -> list[str]:
    """Name the tolerances that met no reading: a typo there would hold a check more strictly than was meant."""
    met = [(one.check_id, name) for one in records if one.result is not None for name in one.result.readings]
    idle = [rule for rule in settings.compare_fail if not any(rule.applies(check, name) for check, name in met)]
    return [f"--stability-compare-fail {rule} met no reading of this run" for rule in idle]


def _stale(baseline: Baseline, records: Sequence[Record]) -> list[str]:
    """Name the entries of this run's environments that no check of it met: of a check that is gone, or not chosen."""
    from stabilitykit.baselines.measured import entry_of

    found = [entry for record in records if (entry := entry_of(record)) is not None]
    here, asked = {entry.setting.numeric for entry in found}, {_ADDED.sub("", record.check_id) for record in records}
    own = [entry.check for entry in baseline.entries.values() if entry.setting.numeric in here]
    stale = sorted(check for check in own if _ADDED.sub("", check) not in asked)
    if not stale:
        return []
    return [
        f"stale in {baseline.name}, unless left out on purpose: {_few(stale)} of {len(own)} met no check of this run; "
        f"stabilitykit baseline prune {baseline.name} CHECK removes them"
    ]


def _few(checks: Sequence[str]) -> str:
    return ", ".join(checks[:_NAMED]) + (f" and {len(checks) - _NAMED} more" if len(checks) > _NAMED else "")


SAVED = pytest.StashKey[Baseline | None]()
"""The baseline that the run saves to, as it was when the run began."""
