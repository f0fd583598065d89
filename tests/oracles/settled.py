"""Answers of tiny models and toys that no kernel changes: what they were is written down, and has to stay.

    python tests/oracles/settled.py

asks the questions of the suite, and others with other arguments, in processes with other instruction sets, libraries'
code paths and numbers of threads, and writes down the readings and columns in which all of them agree: words, counts,
and numbers to a millionth. What is only rounding differs there, and is left out with its whole column. So a change of a
formula, of a row, of a stated cost or of a sentence is seen on every machine, and has to be meant.
"""

import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).parent / "settled.json"
DEVICES = (
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
)
AGREE, STAYS = 1e-6, 1e-5
"""Relative distances: of numbers that are written down, over these devices; of what is found later from them."""
ROWS = 24
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

Cells = dict[str, list[Any]]


def named(asked: list[tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Name each question by its kind, and by a number from the second of its kind on."""
    found: dict[str, tuple[Any, Any]] = {}
    for one in asked:
        kind = type(one[0]).__name__
        count = sum(name.split()[0] == kind for name in found)
        found[f"{kind} {count + 1}" if count else kind] = one
    return found


def observed(measurement: Any, subject: Any) -> tuple[Any, Any, Cells]:
    """Return what was stated as the cost, the result, and what both and the bars of the work say."""
    from stabilitykit.measurements.measure import ask

    stated = measurement.cost(subject)
    with drawn() as bars:
        result = ask(measurement, subject)
    told = {f"bar {name}": [done, total, unit] for name, (done, total, unit) in bars.items()}
    metrics = {f"metric {one.name}": [one.unit, one.better] for one in measurement.schema()}
    return stated, result, {**cells(result), **told, **metrics, "stated": [str(stated)]}


@contextmanager
def drawn() -> Iterator[dict[str, tuple[int, int, str]]]:
    """Note how far each bar came, of how much, and of what: bars of one name together."""
    from stabilitykit.measurements import progress

    plain, bars = progress.tqdm, list[Any]()

    class Noted(plain):  # type: ignore[misc, valid-type]
        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            bars.append(self)

    found: dict[str, tuple[int, int, str]] = {}
    progress.tqdm = Noted  # type: ignore[misc]
    try:
        with progress.progress_to(io.StringIO()):
            yield found
    finally:
        progress.tqdm = plain  # type: ignore[misc]
    for bar in bars:
        done, total, _ = found.get(bar.desc, (0, 0, ""))
        found[bar.desc] = (done + bar.n, total + bar.total, bar.unit)


def cells(result: Any) -> Cells:
    """Return what a result says: readings, words, some of its rows by column, summaries of whole columns and arrays."""
    count = len(result.rows)
    rows = [result.rows[int(i)] for i in np.unique(np.linspace(0, count - 1, min(ROWS, count)).round())]
    columns = dict.fromkeys(name for row in result.rows for name in row)
    readings = {f"reading {name}": [reading.value] for name, reading in result.readings.items()}
    places = {f"place {name}": [json.dumps(one.place, default=str)] for name, one in result.readings.items()}
    words = {"verdict": [result.verdict], "sentence": [result.sentence], "words": [_NUMBER.sub("#", result.sentence)]}
    table = {f"row {name}": [_plain(row.get(name, "absent")) for row in rows] for name in columns}
    cut = columns if count > ROWS else ()
    whole = {f"column {name}": _column([row.get(name, "absent") for row in result.rows]) for name in cut}
    arrays = {f"array {name}": _summary(np.asarray(one)) for name, one in result.arrays.items()}
    about = {f"subject {name}": [_plain(value)] for name, value in result.subject.items()}
    said = {"noise": [result.noise], "worst": [json.dumps(result.worst, default=str)]}
    return {**readings, **places, **words, "rows": [count], **table, **whole, **arrays, **about, **said}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, int | float | str | None) else json.dumps(value, default=str)


def _column(values: list[Any]) -> list[Any]:
    plain = [_plain(value) for value in values]
    numbers = [value for value in plain if isinstance(value, float)]
    others = json.dumps([None if isinstance(value, float) else value for value in plain])
    return [hashlib.sha256(others.encode()).hexdigest()[:16], *_summary(np.array(numbers))]


def _summary(array: np.ndarray) -> list[Any]:
    head = [array.dtype.name, json.dumps(array.shape)]
    if array.dtype.kind not in "biuf" or not array.size:
        return head
    wide = array.astype(np.float64).reshape(-1)
    kept = wide[np.isfinite(wide)]
    uneven = np.where(np.isfinite(wide), wide, 0.0) * (1 + np.arange(wide.size) % 7)
    figures = (float(f(kept)) for f in (np.mean, np.std, np.min, np.max) if kept.size)
    return [*head, int(kept.size), *figures, float(uneven.mean())]


def agreed(devices: list[Cells]) -> Cells:
    """Return what the first device says and no other denies; of bits that differ not even that they do."""
    first, *others = devices
    found = {name: column for name, column in first.items() if all(alike(column, one.get(name)) for one in others)}
    for name in ("verdict", "sentence", "words") if first["verdict"] == ["differs"] else ():
        found.pop(name, None)
    return found


def alike(column: list[Any], other: list[Any] | None, share: float = AGREE) -> bool:
    """Whether two columns are as long and all their cells near."""
    if other is None or len(column) != len(other):
        return False
    return all(near(a, b, share) for a, b in zip(column, other, strict=True))


def near(a: Any, b: Any, share: float) -> bool:
    """Whether two cells are the same: numbers within this share of the larger, everything else exactly."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= share * max(abs(a), abs(b))
    return type(a) is type(b) and a == b


def apart(table: Cells, found: Cells) -> dict[str, tuple[list[Any], list[Any] | None]]:
    """Return the columns that are not what was written down, as they were and as they are."""
    names = [name for name, column in table.items() if not alike(column, found.get(name), STAYS)]
    return {name: (table[name], found.get(name)) for name in names}


def questions() -> dict[str, tuple[Any, Any]]:
    """Return everything that is asked, by name."""
    from oracles.asked import suite
    from oracles.varied import varied

    import stabilitykit as sk
    from stabilitykit.profile import PROFILES

    return named([*suite(PROFILES["quick"], sk.load("tiny")), *varied()])


def written(table: Mapping[str, Cells]) -> str:
    """Return the table, a line a column."""
    lines = {
        name: ",\n".join(f"  {json.dumps(column)}: {json.dumps(values)}" for column, values in own.items())
        for name, own in table.items()
    }
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {{\n{own}\n }}" for name, own in lines.items()) + "\n}\n"


def main() -> None:
    """Write the table from processes that are other devices; asked by one of them, answer it."""
    if sys.argv[1:] == ["here"]:
        print(json.dumps({name: observed(*asked)[2] for name, asked in questions().items()}))
        return
    command = [sys.executable, __file__, "here"]
    answers = []
    for device in DEVICES:
        done = subprocess.run(command, env={**os.environ, **device}, check=True, capture_output=True, text=True)
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    TABLE.write_text(written({name: agreed([one[name] for one in answers]) for name in answers[0]}), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
