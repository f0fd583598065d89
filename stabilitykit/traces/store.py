"""Recordings as folders: written whole or not at all, read only where every byte is what the manifest promises."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stabilitykit.errors import UnreadableError, UsageError, first_line
from stabilitykit.numerics.bits import FORMATS, name_of
from stabilitykit.numerics.digest import SHORT, digest
from stabilitykit.results.atomic import TEMPORARY, atomic_write, remove_stale
from stabilitykit.subjects.headers import check_header
from stabilitykit.traces.manifest import NAME, SCHEMA, parsed, sealed, shortened
from stabilitykit.traces.recording import Generation, Recording, stage_rows
from stabilitykit.traces.stages import Stage

if TYPE_CHECKING:
    from stabilitykit.traces.operations import OperationLog

DIGESTS = "digests.safetensors"
_KEPT = ("model", "device", "environment", "probe", "mode", "level", "observer", "seconds")
_OF_PROMPT = ("tokens", "predicted", "top_ids", "top_logits", "normaliser", "digests")


def write_recording(recording: Recording, folder: Path | str) -> Path:
    """Write a recording into a folder and return the folder; a recording that was there is replaced.

    The manifest goes first and comes last: a folder is a recording only while every file of it is there. UsageError
    for a folder that holds other things.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).unlink(missing_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for name, content, named in _files(recording):
        atomic_write(folder / name, content)
        tensors = {tensor: digest(value) for tensor, value in named.items()}
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "tensors": tensors}
    for stale in _ours(folder) - set(files):
        (folder / stale).unlink()
    atomic_write(folder / NAME, sealed({**_manifest(recording), "files": files}))
    remove_stale(folder)
    return folder


def read_recording(folder: Path | str) -> Recording:
    """Return the recording of a folder.

    UnreadableError names the file, the field or tensor, and the reason; IncomparableError for a newer schema. No pickle
    is read, no name in a file is used as a path but those of a fixed form, and no byte is believed before its file's
    digest is that of the manifest. Memory: the digests and states of all prompts.
    """
    folder = Path(folder)
    manifest = parsed(folder / NAME)
    contents = {name: _bytes(folder / name, about) for name, about in manifest["files"].items()}
    stages = tuple(Stage(**one) for one in manifest["stages"])
    if len({stage.name for stage in stages}) < len(stages):
        raise UnreadableError(f"{folder / NAME}: field stages names a stage twice")
    tensors = _tensors(folder / DIGESTS, contents[DIGESTS])
    expected = {f"p{index:03d}.{part}" for index in range(len(manifest["prompts"])) for part in _OF_PROMPT}
    if odd := sorted(expected ^ set(tensors)):
        problem = "is missing" if odd[0] in expected else "is not one of a recording"
        raise UnreadableError(f"{folder / DIGESTS}: tensor {shortened(odd[0])} {problem}")
    generations = tuple(
        _generation(folder, index, prompt, tensors, contents, stages)
        for index, prompt in enumerate(manifest["prompts"])
    )
    return Recording(
        **{name: manifest[name] for name in _KEPT},
        stages=stages,
        generations=generations,
        words={int(token): word for token, word in manifest["words"].items()},
        folder=str(folder),
    )


def size(folder: Path | str) -> int:
    """Return the bytes of a recording's files."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())


def _manifest(recording: Recording) -> dict[str, Any]:
    named = next((one.states for one in recording.generations), {})
    return {
        "schema": SCHEMA,
        "kit": str(recording.environment.get("kit")),
        **{name: getattr(recording, name) for name in _KEPT},
        "states": _states_kept(set(named)),
        "stages": stage_rows(recording.stages),
        "words": {str(token): word for token, word in recording.words.items()},
        "prompts": [{"kind": one.kind, "text": one.text, "ids": list(one.ids)} for one in recording.generations],
    }


def _states_kept(names: set[str]) -> str:
    if not names:
        return "none"
    if names == {"post_norm"}:
        return "norm"
    return "all" if "logits" in names else "blocks"


def _files(recording: Recording) -> Iterator[tuple[str, bytes, Mapping[str, Tensor]]]:
    """Yield each file's name, content, and the tensors in it."""
    numbers = {stage.name: number for number, stage in enumerate(recording.stages)}
    digests: dict[str, Tensor] = {}
    for index, one in enumerate(recording.generations):
        if one.states:
            named = {f"s{numbers[name]:05d}": tensor.contiguous() for name, tensor in one.states.items()}
            yield f"states-p{index:03d}.safetensors", save(named), named
        for step, log in one.operations.items():
            yield f"operations-p{index:03d}-s{step}.json", (json.dumps(log.to_plain(), indent=0) + "\n").encode(), {}
        for part in _OF_PROMPT:
            value = getattr(one, part)
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
            digests[f"p{index:03d}.{part}"] = tensor.contiguous()
    yield DIGESTS, save(digests), digests


def _generation(
    folder: Path,
    index: int,
    prompt: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    contents: Mapping[str, bytes],
    stages: Sequence[Stage],
) -> Generation:
    key = f"p{index:03d}"
    parts = {part: tensors[f"{key}.{part}"] for part in _OF_PROMPT}
    _check_shapes(folder / DIGESTS, key, parts, len(stages))
    arrays: dict[str, Any] = {name: one if name == "top_logits" else one.numpy() for name, one in parts.items()}
    return Generation(
        kind=prompt["kind"],
        text=prompt["text"],
        ids=tuple(prompt["ids"]),
        states=dict(_states(folder / f"states-{key}.safetensors", contents, stages, len(parts["tokens"]))),
        operations=dict(_operations(folder, key, contents)),
        **arrays,
    )


def _states(
    path: Path, contents: Mapping[str, bytes], stages: Sequence[Stage], steps: int
) -> Iterator[tuple[str, Tensor]]:
    if path.name not in contents:
        return
    for name, tensor in _tensors(path, contents[path.name]).items():
        number = int(name[1:]) if re.fullmatch(r"s[0-9]{5}", name) else len(stages)
        if number >= len(stages) or tensor.ndim != 2 or len(tensor) != steps or tensor.dtype not in FORMATS:
            raise UnreadableError(f"{path}: tensor {name!a} is not (steps, width) of one of the stages")
        yield stages[number].name, tensor


def _operations(folder: Path, key: str, contents: Mapping[str, bytes]) -> Iterator[tuple[int, OperationLog]]:
    from stabilitykit.traces.operations import OperationLog

    for name in sorted(contents):
        if name.startswith(f"operations-{key}-s"):
            path = folder / name
            try:
                data = json.loads(contents[name])
            except (ValueError, RecursionError) as error:
                raise UnreadableError(f"{path} cannot be read: {error}") from None
            yield int(name.rsplit("-s", 1)[1].removesuffix(".json")), OperationLog.from_plain(data, str(path))


def _check_shapes(path: Path, key: str, parts: Mapping[str, Tensor], stages: int) -> None:
    steps, top = len(parts["tokens"]) if parts["tokens"].ndim else -1, parts["top_ids"].shape[-1:]
    integers, logits = torch.int64, parts["top_logits"].dtype
    expected = {
        "tokens": ((steps,), integers),
        "predicted": ((steps,), integers),
        "top_ids": ((steps, *top), integers),
        "top_logits": ((steps, *top), logits if logits in FORMATS else torch.float32),
        "normaliser": ((steps,), torch.float64),
        "digests": ((steps, stages, SHORT), torch.uint8),
    }
    for part, (shape, dtype) in expected.items():
        found = parts[part]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise UnreadableError(
                f"{path}: tensor {key}.{part} is {name_of(found.dtype)} {list(found.shape)}, "
                f"not {name_of(dtype)} {list(shape)}"
            )
    for part in ("tokens", "predicted", "top_ids"):
        if bool((parts[part] < 0).any()):
            raise UnreadableError(f"{path}: tensor {key}.{part} holds a negative token id")
    if not bool(parts["top_logits"].isfinite().all() and parts["normaliser"].isfinite().all()):
        raise UnreadableError(f"{path}: tensor {key}.top_logits or {key}.normaliser holds a value that is not finite")


def _bytes(path: Path, about: Mapping[str, Any]) -> bytes:
    """Return a file's content, if it is the one that the manifest names; nothing is allocated for another size."""
    try:
        if path.is_symlink() or not path.is_file():
            raise UnreadableError(f"{path} is missing; the recording is not whole")
        if path.stat().st_size != about["bytes"]:
            raise UnreadableError(f"{path} has {path.stat().st_size} bytes, the manifest says {about['bytes']}")
        content = path.read_bytes()
    except UnreadableError:
        raise
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise UnreadableError(f"{path} is damaged: {_damage(path, content, about['tensors'])}")
    return content


def _damage(path: Path, content: bytes, tensors: Mapping[str, str]) -> str:
    """Return which tensor is not the one that was recorded, where that can still be said."""
    try:
        found = _tensors(path, content) if tensors else {}
    except UnreadableError:
        return "its header cannot be read"
    wrong = sorted(name for name, value in tensors.items() if name not in found or digest(found[name]) != value)
    return f"tensor {wrong[0]} is not what was recorded" if wrong else "its sha256 is not that of the manifest"


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    check_header(content, path)
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path} cannot be read: {first_line(error)}") from None


def _ours(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("states-p*.safetensors")} | {
        path.name for path in folder.glob("operations-p*-s*.json")
    }


def _refuse_foreign(folder: Path) -> None:
    """UsageError for a folder in which something else than a recording lies: nothing of the user's is overwritten."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the recording")
    ours = _ours(folder) | {NAME, DIGESTS} if folder.is_dir() else set()
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # What a killed process left of its writing is nobody's.
    foreign = [name for name in names if name not in ours and not name.endswith(TEMPORARY)]
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]!a}, which is no part of a recording; name another folder")
