"""T5: every parser, given what nobody would write: it reads it, or says in one line what is wrong; never more.

One trial is one input. A parser may refuse with an error of the kit, whose message is one printable line; any other
exception, and more than a second of processor time, is a fault.
"""

from __future__ import annotations

import functools
import json
import shutil
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from numpy.random import Generator
from oracles import kept, made_run
from oracles.crafted import manifest, seal, summed, swap
from safetensors.torch import save
from torture import mutation
from torture.campaign import Campaign, Trial, draw, scratch
from torture.limits import Slow, unlike, within
from torture.mutation import pick

import stabilitykit as sk
from stabilitykit import load_args, prompts, settings, typed
from stabilitykit.baselines import store, strict, text
from stabilitykit.baselines.tolerance import Tolerance
from stabilitykit.errors import StabilityError
from stabilitykit.measurements import resumable, signature_file
from stabilitykit.report import journal
from stabilitykit.report import write as write_report
from stabilitykit.report.read import read as read_report
from stabilitykit.results.known import read_known
from stabilitykit.results.limit import Bound, Limit
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Result
from stabilitykit.strategies.recipe import Direction
from stabilitykit.subjects.checked_lines import append_lines
from stabilitykit.traces import tensor_files
from stabilitykit.traces.operation_log import OperationLog

SECONDS = 1.0
Target = Callable[[Generator], object]
READING = Reading(Metric("max_ulp", "ULP", "lower", "drift"), 4.0)


@functools.cache
def folder() -> Path:
    return scratch("fuzz")


def written(name: str, content: bytes | str) -> Path:
    """Return a file of the scratch folder with this content."""
    path = folder() / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    return path


@functools.cache
def baseline() -> str:
    searched = kept.made("searched[b]", courses=(kept.course(),), bits={"d" * 8: bytes(range(24))})
    return text.render([searched, kept.made(), kept.made(setting=kept.ELSEWHERE)])


def baseline_bytes(random: Generator) -> None:
    store.read(written("baseline.jsonl", mutation.raw(random, baseline().encode())))


def baseline_fields(random: Generator) -> None:
    """Change the fields of one line and put its checksum right."""
    lines = baseline().splitlines()
    at = int(random.integers(len(lines)))
    data = json.loads(lines[at])
    del data["sum"]
    lines[at] = summed(mutation.spelled(random, data)[:-1])
    store.read(written("baseline.jsonl", "\n".join(lines) + "\n"))


def tolerance(random: Generator) -> None:
    Tolerance.parse(_expression(random, "first_change.radius: 5%", "*.max_ulp: 4ulp", "gain*.*: x1.5", "a[b].c: any"))


def limit(random: Generator) -> None:
    Limit.parse(_expression(random, "batch_invariance.max_ulp<=4", "*.radius >= 1e-12", "a[b-c].d == 0"))


def bound(random: Generator) -> None:
    Bound.parse(pick(random, [mutation.value(random), _expression(random, "<=4", ">= 1e-12")]), READING)


def _expression(random: Generator, *valid: str) -> str:
    one = str(pick(random, valid))
    at = int(random.integers(len(one) + 1))
    return one[:at] + mutation.text(random) + one[at + int(random.integers(4)) :]


def known(random: Generator) -> None:
    path = written("known.txt", mutation.raw(random, b"# differences\nfirst_change[tiny] a reason\n* another\n"))
    for one in read_known(path):
        one.covers("first_change[tiny]")


def prompt_file(random: Generator) -> None:
    prompts.read_prompts(written("prompts.txt", mutation.raw(random, "One\n# no\nZwei ü\n".encode())))


def load_arg(random: Generator) -> None:
    load_args.parsed(
        [_expression(random, "a=1", 'b={"c": [1, 2]}', "d=true"), "deep=" + "[" * 100_000][: pick(random, (1, 2))]
    )


def values(random: Generator) -> None:
    """Give options values from the command line and the ini file."""
    options = {option.name: option for option in settings.OPTIONS}
    good = {
        "profile": "quick",
        "dtype": "float32,bfloat16",
        "device": "cpu,cuda:1",
        "budget": "60",
        "seed": "3",
        "tokens": "9",
    }

    def some(count: int) -> dict[str, object]:
        chosen = [str(name) for name in random.choice(list(options), count)]
        return {name: _option(random, options[name], good.get(name, "x")) for name in chosen}

    given, configured = some(3), some(2)
    settings.resolve(
        lambda option: given.get(option.name), lambda option: configured.get(option.name), folder()
    ).identity()


def _option(random: Generator, option: settings.Option, good: str) -> object:
    if option.kind == "flag":
        return bool(random.integers(2))
    one = _expression(random, good) if random.integers(2) else mutation.text(random)
    return [one] if option.kind == "list" else one


def typed_values(random: Generator) -> None:
    read = pick(
        random, [lambda v: typed.whole("n", v, 1), lambda v: typed.seconds("s", v), typed.dtypes, typed.devices]
    )
    read(_expression(random, "1", "60.5", "float32", "cuda:0"))


@functools.cache
def journal_lines() -> tuple[bytes, list[tuple[str, dict]]]:
    entries = [
        ("record", {"check_id": "check0", "nodeid": "a"}),
        ("done", {"nodeid": "a", "records": 1, "source": "5", "outcome": "passed", "message": "", "code": None}),
    ]
    header = {"started": "2026-01-02", "identity": {"seed": 0, "models": ["tiny"]}}
    made = journal.Journal(folder() / "journal", json.dumps(header))
    for kind, data in entries:
        made.append(json.dumps(data), kind)
    return made.path.read_bytes(), [("header", header), *entries]


def journal_bytes(random: Generator) -> None:
    whole, _ = journal_lines()
    written("journal.jsonl", mutation.raw(random, whole))
    journal.resumable(folder(), {"seed": 0, "models": ["tiny"]})


def journal_fields(random: Generator) -> None:
    _, entries = journal_lines()
    at, lines = int(random.integers(len(entries))), []
    for number, (kind, data) in enumerate(entries):
        plain = mutation.spelled(random, data) if number == at else json.dumps(data)
        crc = zlib.crc32(f"{kind}:{plain}".encode(errors="surrogatepass"))
        lines.append(f'{{"crc":"{crc:08x}","{kind}":{plain}}}\n')
    written("journal.jsonl", "".join(lines))
    journal.resumable(folder(), {"seed": 0, "models": ["tiny"]})


def steps(random: Generator) -> None:
    """Change the lines that a measurement goes on from."""
    path = folder() / "steps.jsonl"
    path.unlink(missing_ok=True)
    lines = [mutation.spelled(random, {"model": "a", "n": 1}), mutation.spelled(random, {"rank": 3})]
    append_lines(path, [line.encode(errors="replace").decode() for line in lines])
    if random.integers(2):
        path.write_bytes(mutation.raw(random, path.read_bytes()))
    with resumable.resumable(path):
        found = resumable.Steps({"model": "a", "n": 1})
    found.once(dict)


@functools.cache
def report() -> Path:
    """Return the folder of a small report: a search's result, one without, and arrays."""
    chosen = [record for record in made_run.made_records() if record.check_id.startswith(("stability_fan", "margins"))]
    place = scratch("fuzz") / "report"
    write_report(made_run.made_run(), chosen, place)
    data = json.loads((place / "run.json").read_text())
    del data["digests"]  # or nothing else of an array would be looked at
    (place / "run.json").write_text(json.dumps(data))
    return place


@functools.cache
def report_json() -> tuple[bytes, dict]:
    content = (report() / "run.json").read_bytes()
    data = json.loads(content)
    for record in data["records"]:
        if record["result"]:
            del record["result"]["rows"][2:]
    return content, data


def run_json(random: Generator) -> None:
    content, data = report_json()
    path = report() / "run.json"
    path.write_bytes(mutation.raw(random, content) if random.integers(2) else _spelled_bytes(random, data))
    try:
        read = read_report(report())
        read.readings(), read.checks()
    finally:
        path.write_bytes(content)


def _spelled_bytes(random: Generator, data: object) -> bytes:
    return mutation.spelled(random, data).encode(errors="surrogatepass")


def run_arrays(random: Generator) -> None:
    path = next((report() / "arrays").iterdir())
    content = path.read_bytes()
    path.write_bytes(mutation.raw(random, content))
    try:
        read_report(report())
    finally:
        path.write_bytes(content)


def result_json(random: Generator) -> None:
    data = json.loads(json.dumps(made_run.fan(3).to_dict()))
    Result.from_dict(mutation.tree(random, data))


@functools.cache
def recording() -> Path:
    made = sk.record(sk.load("tiny"), ["one"], 2, level="op", states="norm")
    return sk.write_recording(made, scratch("fuzz") / "recording")


def recording_copy() -> Path:
    shutil.copytree(recording(), folder() / "recording", dirs_exist_ok=True)
    return folder() / "recording"


def recording_manifest(random: Generator) -> None:
    place = recording_copy()
    mutated = mutation.tree(random, manifest(place))
    if random.integers(2) and isinstance(mutated, dict):
        seal(place, json.loads(json.dumps(mutated).replace("NaN", "1e9").replace("Infinity", "1e9")))
    else:
        (place / "manifest.json").write_bytes(_spelled_bytes(random, manifest(place)))
    sk.read_recording(place)


def recording_files(random: Generator) -> None:
    """Change a file of tensors and make the manifest promise it."""
    place = recording_copy()
    path = place / str(pick(random, ["digests.safetensors", "states-p000.safetensors"]))
    swap(place, path.name, mutation.raw(random, path.read_bytes()))
    sk.read_recording(place)


def operations(random: Generator) -> None:
    data = json.loads((recording() / "operations-p000-s0.json").read_text())
    data["entries"] = data["entries"][:3]
    OperationLog.from_plain(mutation.tree(random, data), "operations.json")


@functools.cache
def tensors() -> tuple[bytes, bytes]:
    path = folder() / "array.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    return save({"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}), path.read_bytes()


def tensor_file(random: Generator) -> None:
    content, _ = tensors()
    whole, changed = written("a.safetensors", content), written("b.safetensors", mutation.raw(random, content))
    tensor_files.compare(whole, changed)


def numpy_file(random: Generator) -> None:
    _, content = tensors()
    tensor_files.compare(written("a.npy", content), written("b.npy", mutation.raw(random, content)))


def recipe(random: Generator) -> None:
    kinds = [("axis", [0, 1]), ("sparse", [[0, 1], [2, -3]]), ("sign", [3]), ("gaussian", [7]), ("subspace", [1, 2])]
    kind, data = pick(random, kinds)
    mutated = mutation.tree(random, {"kind": kind, "data": data, "dim": 6}, 2)
    made = Direction.from_dict(mutated if isinstance(mutated, dict) else {"kind": mutated})
    if made.dim <= 10_000:
        made.expand(torch.eye(6, dtype=torch.float64))


def signature(random: Generator) -> None:
    data = {
        "format": signature_file.FORMAT, "version": signature_file.VERSION, "model": "m", "weights": "w", "corpus": "c",
        "hidden_size": 1, "layers": 2, "long_vectors": 3, "tau": 0.5, "coherence": None, "direction": "AAAAAAAA8D8=",
    }  # fmt: skip
    signature_file.read_signature(written("signature.json", _spelled_bytes(random, data)))


TYPED = ("tolerance", "limit", "bound", "load_arg", "values", "typed_values", "known", "prompt_file")
"""What a person types is told back as it was typed; the command shows it harmless."""

TARGETS: dict[str, Target] = {
    one.__name__: one
    for one in (
        baseline_bytes, baseline_fields, tolerance, limit, bound, known, prompt_file, load_arg, values, typed_values,
        journal_bytes, journal_fields, steps, run_json, run_arrays, result_json, recording_manifest, recording_files,
        operations, tensor_file, numpy_file, recipe, signature,
    )
}  # fmt: skip


@functools.cache
def warm() -> SimpleNamespace:
    """Make what targets need and load what they import, so that no trial pays for it."""
    journal_lines(), report_json(), recording(), tensors(), baseline()
    read_report(report()).readings()
    sk.read_recording(recording())
    return SimpleNamespace(names=list(TARGETS))


def fuzz(number: int) -> str | None:
    """Give one parser one input."""
    names = warm().names
    name = names[number % len(names)]
    try:
        with within(SECONDS):
            TARGETS[name](draw("T5", number))
    except StabilityError as error:
        wrong = None if name in TYPED and str(error) else unlike(error)
        return wrong and f"{name}: {wrong}"
    except Slow:
        return f"{name}: more than {SECONDS:g} s"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{name}: {type(error).__name__}: {str(error)[:200]!a} at {Path(last.filename).name}:{last.lineno}"
    return None


def _planted(owner: object, name: str, wrong: Callable) -> Trial:
    def trial(number: int) -> str | None:
        warm()
        with patch.object(owner, name, wrong):
            return fuzz(number)

    return trial


def _unchecked(fields: strict.Fields, name: str) -> object:
    return fields._data[name]


def _hangs(_expression: str) -> None:
    while True:
        pass


CAMPAIGNS = [
    Campaign(
        "T5", "each parser is given mutated files and values: it reads them, or says in a line what is wrong", "inputs",
        full=100_000, ci=2_000, trial=fuzz,
        planted={
            "a missing field of a baseline is a KeyError": _planted(strict.Fields, "_get", _unchecked),
            "an expression is parsed forever": _planted(Tolerance, "parse", _hangs),
        },
    ),
]  # fmt: skip
