"""Two runs side by side: what moved, check by check, and what else is different."""

from __future__ import annotations

from stabilitykit.baselines.compare import asked_otherwise, changed, moved
from stabilitykit.baselines.measured import entry_of, weights_and_setting
from stabilitykit.report.beside import Pair, Runs
from stabilitykit.report.read import Report
from stabilitykit.results.record import Record, Run

_ASIDE = {"report", "save", "record", "baseline", "update"}


def beside(then: Report, now: Report) -> Runs:
    """Return every check of two runs, with the readings that moved; unlike a baseline, also between two devices.

    Readings are compared exactly, sampled ones by their intervals; of a search the worst along whatever each drew.
    """
    before, after = ({record.check_id: record for record in report.records} for report in (then, now))
    settings = [{k: v for k, v in report.run.settings.items() if k not in _ASIDE} for report in (then, now)]
    return Runs(
        then.run,
        now.run,
        changed(_setting(then.run), _setting(now.run)),
        changed(*settings),
        tuple(_pair(check, before.get(check), after.get(check)) for check in sorted({*before, *after})),
    )


def _pair(check: str, then: Record | None, now: Record | None) -> Pair:
    kept = [entry_of(record, check) if record else None for record in (then, now)]
    if kept[0] is None or kept[1] is None:
        return Pair(check, then, now)
    return Pair(check, then, now, tuple(moved(kept[1], kept[0])), asked_otherwise(kept[0], kept[1]))


def _setting(run: Run) -> dict[str, object]:
    """Return what decides bits and what explains a drift; of what is only noise, such as a host's name, nothing."""
    _, setting = weights_and_setting(run.environment, {})
    return {**setting.identity, **setting.context}


def lines(found: Runs) -> list[str]:
    """Return what a terminal shows: the fields that differ, each check that moved, the counts."""
    from stabilitykit.baselines.words import listed
    from stabilitykit.report.text import shown

    told = [f"{name} differs: {listed(fields)}" for name, fields in found.fields if fields]
    for pair in found.pairs:
        if pair.status != "same":
            told.append(f"{pair.status:<9}  {shown(pair.check)}{_short(pair)}")
    return [*told, found.sentence]


def _short(pair: Pair) -> str:
    said = [f"{drift.label} {drift.then:.9g} -> {_now(drift.now)}" for drift in pair.moved]
    verdicts = [f"{pair.verdicts[0]} -> {pair.verdicts[1]}"] if len(set(pair.verdicts)) > 1 else []
    text = "; ".join([*verdicts, *said[:3], *([f"and {len(said) - 3} more"] if len(said) > 3 else [])])
    return f"  {text}" if text else ""


def _now(value: float | None) -> str:
    return "gone" if value is None else f"{value:.9g}"
