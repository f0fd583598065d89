"""The one verb: ask one question of one subject, or of many with that axis in the result's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.measurements.base import Asked, Measurement
from stabilitykit.measurements.progress import progress_to, terminal
from stabilitykit.numerics import memory
from stabilitykit.results.metric import Reading
from stabilitykit.results.result import Execution, Result, Row
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.subject import Subject


def measure(
    measurement: Measurement[Asked], subject: Asked | Iterable[Asked], *, progress: bool | None = None
) -> Result:
    """Return the result of `measurement` on a subject, or on several as one result.

    For several, each row gains a `subject` column (the prompt's name where there is one), and each reading is the
    worst over the subjects, with the subject in its place. `progress`: True draws bars on stderr, False never, None
    where a person is watching. UsageError for an empty list, and for what the measurement is not asked of.
    """
    import sys

    stream = terminal() if progress is None else (sys.stderr if progress else None)
    with progress_to(stream):
        return ask(measurement, subject)


def ask(measurement: Measurement[Asked], subject: Asked | Iterable[Asked]) -> Result:
    """As `measure`, with the bars where they are."""
    if isinstance(subject, Measurable) or not isinstance(subject, Iterable):
        return _in_memory(measurement, subject)
    results = [_in_memory(measurement, one) for one in subject]
    return combine(results, measurement.across(results) if len(results) > 1 else ())


def _in_memory(measurement: Measurement[Asked], subject: Asked) -> Result:
    """Ask; where memory runs out, ask everything again in half the batch, which is proved anew, and say so.

    A batch shape has bits of its own, so nothing of the larger one is kept. InvalidError where one row is too many.
    """
    tried: list[str] = []
    asked: Any = subject
    while True:
        try:
            result = measurement.measure(asked)
            break
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            if not isinstance(asked, Subject) or asked.batch == 1:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise InvalidError(
                    f"{type(measurement).__name__} ran out of the device's memory ({reason}); ask for less at once, or "
                    "on a larger device"
                ) from None
        tried.append(str(asked.batch))
        memory.release()
        asked = asked.with_batch(asked.batch // 2)
    if not tried:
        return result
    note = f"Memory ran out at batch {', '.join(tried)}; measured at {asked.batch}."
    return replace(result, sentence=f"{result.sentence} {note}", subject={**result.subject, "memory": note})


def combine(results: Sequence[Result], together: Sequence[Row] = ()) -> Result:
    """Return one result over several subjects of one measurement: worst readings, all rows, summed costs.

    `together` are rows about all of them, after the rest.
    """
    if not results:
        raise UsageError("no subject was given; measure needs at least one")
    if len(results) == 1:
        return results[0]
    worst_verdict = max(results, key=lambda result: _SEVERITY[result.verdict])
    names = [str(result.subject.get("prompt", result.subject.get("name", ""))) for result in results]
    return replace(
        worst_verdict,
        sentence=f"Over {len(results)} subjects; the worst: {worst_verdict.sentence}",
        readings=_worst_readings(results, names),
        rows=(
            *({"subject": name, **row} for name, result in zip(names, results, strict=True) for row in result.rows),
            *together,
        ),
        arrays={
            f"{index:03d}/{key}": array for index, result in enumerate(results) for key, array in result.arrays.items()
        },
        execution=sum((result.execution for result in results), Execution()),
    )


_WORSE = (
    *("new", "skipped", "not-distinct", "unsupported", "incomparable"),
    *("differs", "fail", "timeout", "invalid", "crash"),
)
_SEVERITY = {"pass": 0, "measured": 0} | {verdict: place for place, verdict in enumerate(_WORSE, 1)}
"""How bad each verdict is: what was not shown stands above what was, and below what was found wrong."""


def _worst_readings(results: Sequence[Result], names: Sequence[str]) -> Mapping[str, Reading]:
    chosen: dict[str, Reading] = {}
    for key in dict.fromkeys(key for result in results for key in result.readings):
        placed = [
            replace(result.readings[key], place={**result.readings[key].place, "subject": name})
            for name, result in zip(names, results, strict=True)
            if key in result.readings
        ]
        chosen[key] = max(placed, key=lambda reading: reading.badness)
    return chosen
