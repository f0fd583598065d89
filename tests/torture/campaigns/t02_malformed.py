"""T2: files that were made by hand to be wrong are refused, with file, field and reason, at once, in little memory."""

from __future__ import annotations

import functools
import io
import resource
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from oracles import recordings
from oracles.crafted import swap
from oracles.malformed import DIGESTS, FILES, MANIFESTS, TENSORS
from safetensors.torch import load, save
from torture.campaign import Campaign, Trial, scratch
from torture.limits import Slow, unlike, within

import stabilitykit as sk
from stabilitykit.errors import StabilityError
from stabilitykit.report.csv import archive
from stabilitykit.results.archive import read_array, read_arrays
from stabilitykit.traces import manifest, store
from stabilitykit.traces.compare import TraceComparison

MEBIBYTE = 1 << 20
LARGEST = 200 * MEBIBYTE


@functools.cache
def recorded() -> Path:
    made = sk.record(sk.load("tiny"), [sk.Prompt("one", "answerable"), "two!"], 3, level="block", states="blocks")
    return sk.write_recording(made, scratch("malformed") / "whole")


def _copy() -> Path:
    return Path(shutil.copytree(recorded(), scratch("malformed") / "recording"))


def _manifest(case: str) -> None:
    folder = _copy()
    MANIFESTS[case][0](folder)
    sk.read_recording(folder)


def _file(case: str) -> None:
    folder = _copy()
    swap(folder, DIGESTS, FILES[case])
    sk.read_recording(folder)


def _tensor(case: str) -> None:
    folder = _copy()
    tensors = load((folder / DIGESTS).read_bytes())
    TENSORS[case][0](tensors)
    swap(folder, DIGESTS, save(tensors))
    sk.read_recording(folder)


def _zip(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", kind) as file:
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            file.writestr(name, content)
    return data.getvalue()


def _npy(shape: object = "(2,)", descr: str = "'<f8'", data: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _at(content: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    place = content.index(mark) + offset
    return content[:place] + new + content[place + len(new) :]


WHOLE = archive({"x": np.arange(64.0), "y": np.zeros(3)})
ENTRY, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
ARCHIVES: dict[str, bytes] = {
    "a way out": _zip(("../x.txt", b"")),
    "an absolute name": _zip(("/etc/passwd", b"")),
    "a drive": _zip(("C:\\x", b"")),
    "a name twice": _zip(("x.npy", _npy()), ("x.npy", _npy())),
    "no array": _zip(("x", b"")),
    "a pickle": _zip(("x.npy", b"\x80\x04\x95")),
    "an object array": _zip(("x.npy", _npy(descr="'|O'"))),
    "a bomb": _zip(("x.npy", _npy(f"({1 << 27},)", "'<f8'", bytes(MEBIBYTE)))),
    "a bomb of zeros": _zip(("x.npy", bytes(16 * MEBIBYTE))),
    "terabytes announced": _zip(("x.npy", _npy(f"({10**12},)"))),
    "a negative shape": _zip(("x.npy", _npy("(-2,)"))),
    "an overflowing shape": _zip(("x.npy", _npy(f"({2**62}, {2**62})"))),
    "code for a shape": _zip(("x.npy", _npy("__import__('os')"))),
    "bzip2": _zip(("x.npy", _npy()), kind=zipfile.ZIP_BZIP2),
    "lzma": _zip(("x.npy", _npy()), kind=zipfile.ZIP_LZMA),
    "another size in the directory": _at(WHOLE, ENTRY, 24, struct.pack("<I", 1 << 31)),
    "another checksum": _at(WHOLE, ENTRY, 16, bytes(4)),
    "encrypted": _at(_at(WHOLE, ENTRY, 8, b"\x01"), LOCAL, 6, b"\x01"),
    "another name within": _at(WHOLE, LOCAL, 30, b"z"),
    "overlapping entries": _at(WHOLE, WHOLE[WHOLE.rindex(ENTRY) :], 42, bytes(4)),
    "cut in the data": WHOLE[:100],
    "cut in the directory": WHOLE[:-30],
    "torn data": _at(WHOLE, LOCAL, 60, b"\xff" * 8),
    "empty": b"",
    "not a zip": b"PK\x03\x04 torn",
    "a folder among them": _zip(("x/", b"")),
}


def _archive(case: str) -> None:
    path = scratch("malformed") / "arrays.npz"
    path.write_bytes(ARCHIVES[case])
    read_arrays(path)


def _other(**fields: object) -> Callable[[], object]:
    """Compare with a recording that is of something else in one way."""

    def compared() -> object:
        one, another = (recordings.recording(recordings.generation()) for _ in range(2))
        model = {**one.model, **{name: value for name, value in fields.items() if name in one.model}}
        more = {name: value for name, value in fields.items() if name not in one.model}
        return TraceComparison(one).measure(replace(another, model=model, **more))

    return compared


def _npy_file(content: bytes) -> Callable[[], object]:
    def read() -> object:
        path = scratch("malformed") / "a.npy"
        path.write_bytes(content)
        return read_array(path)

    return read


OTHERS: dict[str, Callable[[], object]] = {
    "weights": _other(digests={"float32": "1" * 64}),
    "config": _other(config="d" * 64),
    "tokenizer": _other(tokenizer="e" * 64),
    "architecture": _other(architecture="Other", config="d" * 64),
    "no prompt": _other(generations=()),
    "a prompt more": _other(generations=(recordings.generation(), recordings.generation())),
    "another prompt": _other(generations=(recordings.generation(ids=(5, 7)),)),
    "a longer prompt": _other(generations=(recordings.generation(ids=(5, 6, 7)),)),
    "prompts in another order": lambda: TraceComparison(
        recordings.recording(recordings.generation(ids=(5,)), recordings.generation(ids=(6,)))
    ).measure(recordings.recording(recordings.generation(ids=(6,)), recordings.generation(ids=(5,)))),
    "dtype with other weights": _other(dtype="bfloat16", digests={"bfloat16": "1" * 64}),
    "no recording": lambda: sk.read_recording(scratch("malformed") / "none"),
    "a file for a folder": lambda: sk.read_recording(Path(__file__)),
    "an empty folder": lambda: sk.read_recording(scratch("malformed")),
    "nothing to compare with": lambda: TraceComparison().measure(recordings.recording(recordings.generation())),
    "an array of version 9": _npy_file(b"\x93NUMPY\x09\x00" + bytes(60)),
    "an array that is a pickle": _npy_file(b"\x80\x04\x95" + bytes(60)),
    "an array of objects": _npy_file(_npy(descr="'|O'")),
    "an array of terabytes": _npy_file(_npy(f"({10**12},)")),
    "an array cut short": _npy_file(_npy()[:-1]),
    "an array with more behind it": _npy_file(_npy() + b"x"),
}

CASES: dict[str, Callable[[], object]] = {
    **{f"manifest: {case}": functools.partial(_manifest, case) for case in MANIFESTS},
    **{f"file: {case}": functools.partial(_file, case) for case in FILES},
    **{f"tensor: {case}": functools.partial(_tensor, case) for case in TENSORS},
    **{f"archive: {case}": functools.partial(_archive, case) for case in ARCHIVES},
    **{f"other: {case}": case_of for case, case_of in OTHERS.items()},
}


def refused(number: int) -> str | None:
    """Do one wrong thing: an error of the kit must say what in a line, within a second and 200 MiB."""
    recorded()
    name, do = list(CASES.items())[number]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        with within(4.0 if "10,001" in name or "nested" in name else 1.0):
            do()
    except StabilityError as error:
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        wrong = unlike(error) if not str(error).count("\n") else None  # what differs is a table
        return f"{name}: {wrong or f'{more >> 20} MiB were taken'}" if wrong or more > LARGEST else None
    except Slow:
        return f"{name}: it took too long"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    return f"{name}: it was not refused"


def _planted(owner: object, name: str, wrong: Callable) -> Trial:
    def trial(number: int) -> str | None:
        recorded()
        with patch.object(owner, name, wrong):
            return refused(number)

    return trial


CAMPAIGNS = [
    Campaign(
        "T2",
        "a recording, array or comparison that is wrong in one way is refused in a sentence, within 1 s and 200 MiB",
        "cases",
        full=len(CASES),
        ci=len(CASES),
        trial=refused,
        planted={
            "fields of the manifest are not looked at": _planted(manifest, "_check_fields", lambda *_: None),
            "shapes of tensors are not looked at": _planted(store, "_check_shapes", lambda *_: None),
        },
    )
]
