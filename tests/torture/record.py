"""What is committed of a campaign: one small file that says what was run, on what, and what it found."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torture.progress import Progress
from torture.tree import machine

from stabilitykit.results.atomic import atomic_write

SHOWN = 20


def record(progress: Progress) -> dict[str, Any]:
    """Return the record: counts are of units, `open` counts faults of the sources that were run."""
    one = progress.campaign
    return {
        "id": one.id,
        "title": one.title,
        "unit": one.unit,
        "note": one.note,
        "asked": one.full * one.each,
        "run": len(progress.done) * one.each,
        "open": len(progress.faults) + len(progress.unnoticed or ()),
        "faults": {str(trial): progress.faults[trial] for trial in sorted(progress.faults)[:SHOWN]},
        "planted": sorted(one.planted),
        "unnoticed": progress.unnoticed,
        "in_ci": 0 if one.long else one.ci * one.each,
        "command": f"python tests/torture {one.id}",
        "seconds": round(progress.seconds, 1),
        "date": datetime.fromtimestamp(progress.last, UTC).date().isoformat(),
        "commits": {name: count for name, count in progress.commits.items() if count},
        "sources": progress.sources,
        "machine": machine(),
    }


def write(progress: Progress, folder: Path) -> Path:
    """Write the record, unless the one that is there is of the same sources and counts more."""
    path, now = folder / f"{progress.campaign.key}.json", record(progress)
    former = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sources": None}
    if former["sources"] != now["sources"] or former["run"] <= now["run"]:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    return path
