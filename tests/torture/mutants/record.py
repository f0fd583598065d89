"""What is committed of a run over mutants: counts by file with their bound, and every survivor with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torture.mutants.campaign import SEED, Ground, Journal
from torture.mutants.operators import Mutant
from torture.mutants.trial import Outcome

REASONS = Path(__file__).parent / "survivors.json"
"""Why each survivor that is known survives: {place: reason}. `equivalent: ...` where no test could notice it."""
KILLED = ("killed", "timeout", "crashed")


def reasons() -> dict[str, str]:
    """Return the reasons that were written down."""
    return dict(json.loads(REASONS.read_text(encoding="utf-8")))


def counted(ground: Ground, journal: Journal) -> dict[str, Any]:
    """Return what one room's run found, all sources of the room as they are now."""
    order, known, outcomes = ground.order(), reasons(), journal.outcomes
    settled = next(
        (place for place, mutant in enumerate(order) if not _is_settled(mutant, outcomes, known)), len(order)
    )
    run = {mutant: outcomes[mutant.name] for mutant in order[:settled]}
    beyond = [outcomes[mutant.name].verdict for mutant in order[settled:] if mutant.name in outcomes]
    slain = sum(verdict in KILLED for verdict in beyond)
    survivors = [mutant for mutant, outcome in run.items() if outcome.verdict not in KILLED]
    verdicts = Counter(outcome.verdict for outcome in run.values())
    inside = [outcome.verdict in KILLED for mutant, outcome in run.items() if mutant.inside]
    return {
        "room": ground.room,
        "mutants": len(order),
        "run": len(run),
        **{verdict: verdicts[verdict] for verdict in (*KILLED, "survived", "open")},
        "equivalent": sum(known.get(mutant.place, "").startswith("equivalent") for mutant in survivors),
        "inside": {"mutants": sum(one.inside for one in order), "run": len(inside), "killed": sum(inside)},
        "least": _least(sum(inside), len(inside)),
        "beyond": {
            "run": len(beyond),
            "killed": slain,
            "open": beyond.count("open"),
            "least": _least(slain, len(beyond)),
        },
        "files": _by_file(order, run),
        "survivors": [
            {"name": mutant.name, "place": mutant.place, "reason": known.get(mutant.place, "")}
            for mutant in sorted(survivors, key=lambda mutant: (mutant.file, mutant.number))
        ],
    }


def _is_settled(mutant: Mutant, outcomes: Mapping[str, Outcome], known: Mapping[str, str]) -> bool:
    """Whether it was run, and killed or is known to survive: the sample ends at the first of which neither is so."""
    found = outcomes.get(mutant.name)
    return found is not None and (found.verdict in KILLED or mutant.place in known)


def unsettled(ground: Ground, journal: Journal) -> list[str]:
    """Return the places of those that were run and neither killed nor given a reason."""
    known, outcomes = reasons(), journal.outcomes
    run = [mutant for mutant in ground.order() if mutant.name in outcomes]
    return [mutant.place for mutant in run if not _is_settled(mutant, outcomes, known)]


def _by_file(order: Sequence[Mutant], run: Mapping[Mutant, Outcome]) -> list[list[object]]:
    rows = []
    for file in sorted({mutant.file for mutant in order}):
        mine = [outcome for mutant, outcome in run.items() if mutant.file == file]
        killed = sum(outcome.verdict in KILLED for outcome in mine)
        if mine:
            rows.append([file, sum(mutant.file == file for mutant in order), len(mine), killed, len(mine) - killed])
    return rows


def _least(killed: int, run: int) -> float:
    """Return the lower end of the 95 % Clopper-Pearson interval of a share."""
    from scipy.stats import binomtest

    return float(binomtest(killed, run).proportion_ci(0.95, "exact").low) if run else 0.0


def sections(rooms: Sequence[Mapping[str, Any]], commit: str) -> dict[str, dict[str, Any]]:
    """Return the two sections of docs/reliability.md, by the names of their records."""
    text = [
        "A mutant is one small error in the source: another comparison, operator or number, a `not`, a sign or an "
        "`abs` that is missing, `min` for `max`, `any` for `all`, a statement left out. Each was run in a process of "
        "its own against the tests of its room that run its line. Tests that need SmolLM2 and those of pages are left "
        "out; texts, annotations and decorators are not changed.",
        *(_sentence(room) for room in rooms),
        f"`make torture ARGS=mutants` goes on where it was. The order is drawn from a seed ({SEED}). Before a test "
        "counts as having killed, it has been seen to pass without the mutant. A survivor that a reason excuses was "
        f"shown the quickest second of its tests at least, every other one all of them. Run at commit {commit}.",
    ]
    columns = ["file", "mutants", "run", "killed", "survived"]
    rows = [row for room in rooms for row in room["files"]]
    survivors = [[one["place"], one["reason"]] for room in rooms for one in room["survivors"]]
    return {
        "mutants": {
            "title": "Mutants",
            "text": text,
            "columns": columns,
            "rows": rows,
            "rooms": list(rooms),
            "commit": commit,
        },
        "mutants_survivors": {  # sorted behind "mutants"
            "title": "Mutants that survived",
            "text": ["Each with the reason why no test notices it."],
            "columns": ["mutant", "reason"],
            "rows": survivors,
        },
    }


def _sentence(room: Mapping[str, Any]) -> str:
    if not room["run"]:
        return f"`{room['room']}`: none of its {room['mutants']:,} mutants has been run."
    killed = sum(room[verdict] for verdict in KILLED)
    rest, same = room["run"] - killed, room["equivalent"]
    bodies, whole = room["inside"], room["run"] == room["mutants"]
    how_many = "all" if whole else f"the first {room['run']:,} of"
    bound = (
        f" {bodies['killed']:,} of {bodies['run']:,} in bodies of functions were killed: of all {bodies['mutants']:,} "
        f"there at least {room['least']:.1%} would be (95 %, Clopper-Pearson), had no test been written for a survivor "
        f"of this sample.{_beyond(room['beyond'])}"
    )
    return (
        f"`{room['room']}`: {how_many} {room['mutants']:,} mutants were run. {killed:,} were killed "
        f"({killed / room['run']:.1%}): {room['timeout']} by the time they took, {room['crashed']} by the end of the "
        f"process, the others by a test.{'' if whole else bound} {rest} survived, {same} of which change nothing that "
        f"a caller could see; {killed / (room['run'] - same):.1%} of the others were killed."
    )


def _beyond(later: Mapping[str, Any]) -> str:
    if not later["run"]:
        return ""
    rest = later["run"] - later["killed"]
    quick = f", {later['open']} of them shown only the quickest of their tests" if later["open"] else ""
    return (
        f" Of {later['run']:,} that were drawn after them, for none of whose survivors a test was written or a reason "
        f"sought yet, {later['killed']:,} were killed ({later['killed'] / later['run']:.1%}; at least "
        f"{later['least']:.1%} of all), and {rest} survived{quick}."
    )


def write(folder: Path, rooms: Sequence[tuple[Ground, Journal]]) -> list[str]:
    """Write both records; return the survivors that no reason is written down for."""
    from torture.tree import commit

    from stabilitykit.results.atomic import atomic_write

    counts = [counted(ground, journal) for ground, journal in rooms]
    for name, one in sections(counts, commit()).items():
        atomic_write(folder / f"{name}.json", json.dumps(one, indent=1, ensure_ascii=False) + "\n")
    return [place for ground, journal in rooms for place in unsettled(ground, journal)]
