"""The manifest of a recording: every field checked when it is read, with file, field and reason in the error."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stabilitykit.errors import IncomparableError, UnreadableError, first_line
from stabilitykit.traces import LEVELS, STATES

SCHEMA = 1
"""Version of the folder's layout; a newer one is refused, with the version of the kit that wrote it."""

NAME = "manifest.json"
LARGEST = 64 << 20
"""Bytes of a manifest that are read; one of 10,000 stages has about two million."""

_SHA = re.compile(r"[0-9a-f]{64}\Z")
_FILE = re.compile(r"(digests|states-p\d{3,6})\.safetensors\Z|operations-p\d{3,6}-s\d{1,7}\.json\Z")
_NAME = re.compile(r"[\w.:\-]{1,300}\Z", re.ASCII)
_DTYPES = ("float64", "float32", "bfloat16", "float16")

Check = Callable[[Any], bool]


def sealed(data: Mapping[str, Any]) -> str:
    """Return the text of a manifest with a digest over itself, in the one form that is read back."""
    plain = {**data, "seal": _seal(data)}
    return _text(plain)


def parsed(path: Path) -> dict[str, Any]:
    """Return the manifest of a recording, checked field by field.

    UnreadableError says which file, field and why; IncomparableError for one that a newer version wrote.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UnreadableError(f"{path} has more than {LARGEST >> 20} MiB; no manifest of a recording is so large")
        text = path.read_bytes().decode("utf-8")
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except FileNotFoundError:
        raise UnreadableError(f"{path.parent} holds no {NAME}; name a folder that a recording was written to") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} cannot be read: {first_line(error) if str(error) else 'too deep'}") from None
    if not isinstance(data, dict):
        raise UnreadableError(f"{path} is not a manifest: it holds no fields")
    _check_version(data, path)
    _check_fields(data, _FIELDS, path, "")
    if text != _text(data):
        raise UnreadableError(f"{path} is not as it was written (other spacing or spelling); copy the folder again")
    own = data["model"]["dtype"]
    if own not in data["model"]["digests"]:
        raise UnreadableError(f"{path}: field model.digests has none for the model's own dtype, {own}")
    if data["seal"] != _seal({name: value for name, value in data.items() if name != "seal"}):
        raise UnreadableError(f"{path}: field seal is not the digest of the other fields; the file was changed")
    return data


def _check_version(data: Mapping[str, Any], path: Path) -> None:
    schema = data.get("schema")
    if not _whole(schema):
        raise UnreadableError(f"{path}: field schema is {shortened(schema)}, not a whole number; this is no recording")
    if int(schema or 0) > SCHEMA:
        raise IncomparableError(
            f"{path}: field schema is {schema}, this version reads up to {SCHEMA}; it was written by stabilitykit "
            f"{shortened(data.get('kit'))}: update this one"
        )


def _check_fields(data: Mapping[str, Any], fields: Mapping[str, Any], path: Path, where: str) -> None:
    """Check one object: the fields are all there, no others are, and each has its form."""
    for name in fields:
        if name not in data:
            raise UnreadableError(f"{path}: field {where}{name} is missing")
    for name in data:
        if name not in fields:
            raise UnreadableError(f"{path}: field {where}{shortened(name)} is not one of a recording")
    for name, form in fields.items():
        _check_value(data[name], form, path, f"{where}{name}")


def _check_value(value: Any, form: Any, path: Path, where: str) -> None:
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise UnreadableError(f"{path}: field {where} is {shortened(value)}, not an object")
        _check_fields(value, form, path, f"{where}.")
    elif isinstance(form, list):
        if not isinstance(value, list) or not value:
            raise UnreadableError(f"{path}: field {where} is {shortened(value)}, not a list of something")
        for index, one in enumerate(value):
            _check_value(one, form[0], path, f"{where}[{index}]")
    else:
        reason, check = form
        if not check(value):
            raise UnreadableError(f"{path}: field {where} is {shortened(value)}, not {reason}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and "digests.safetensors" in value and all(map(_is_file, value.items()))


def _is_file(item: tuple[str, Any]) -> bool:
    name, about = item
    if not _FILE.match(name) or not isinstance(about, dict) or sorted(about) != ["bytes", "sha256", "tensors"]:
        return False
    tensors = about["tensors"]
    return (
        _whole(about["bytes"])
        and _is_hash(about["sha256"])
        and isinstance(tensors, dict)
        and all(bool(_NAME.match(tensor)) and _is_hash(one) for tensor, one in tensors.items())
    )


def _is_words(value: Any) -> bool:
    return isinstance(value, dict) and all(
        re.fullmatch(r"0|[1-9]\d{0,9}", token) and isinstance(word, str) for token, word in value.items()
    )


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA.match(value))


def _is_digests(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(name in _DTYPES and _is_hash(one) for name, one in value.items())
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str | int | float | None) for one in value.values())


def _matching(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and bool(pattern.match(value))


def _one_of(*values: str) -> Any:
    return (f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


_TEXT = ("a text", _is_text)
_COUNT = ("a whole number", _whole)
_HASH = ("64 hexadecimal digits", _is_hash)
_SECONDS = ("a number of seconds", lambda value: isinstance(value, float) and value >= 0)
_FIELDS: dict[str, Any] = {
    "schema": _COUNT,
    "kit": _TEXT,
    "model": {
        "spec": _TEXT,
        "architecture": _TEXT,
        "dtype": _one_of(*_DTYPES),
        "digests": ("an object of digests by dtype", _is_digests),
        "config": _HASH,
        "tokenizer": ("64 hexadecimal digits or null", lambda value: value is None or _is_hash(value)),
    },
    "device": _TEXT,
    "environment": ("an object of plain values", _is_plain),
    "probe": _TEXT,
    "mode": _one_of("free", "forced"),
    "level": _one_of(*LEVELS),
    "states": _one_of(*STATES),
    "observer": {"steps": _COUNT},
    "seconds": {"plain": _SECONDS, "recorded": _SECONDS},
    "stages": [
        {
            "name": ("the name of a stage", _matching(_NAME)),
            "module": ("the name of a module", lambda value: value == "" or _matching(_NAME)(value)),
            "before": ("true or false", lambda value: isinstance(value, bool)),
            "block": ("a whole number or null", lambda value: value is None or _whole(value)),
            "part": ("the name of a part", _matching(_NAME)),
        }
    ],
    "prompts": [
        {
            "kind": _TEXT,
            "text": ("a text or null", lambda value: value is None or isinstance(value, str)),
            "ids": [("a token id", _whole)],
        }
    ],
    "words": ("an object of texts by token id", _is_words),
    "files": ("an object of files with bytes, sha256 and tensors, digests.safetensors among them", _is_files),
    "seal": _HASH,
}


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(data).encode()).hexdigest()


def _text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, allow_nan=False, sort_keys=True, indent=1) + "\n"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} stands twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def shortened(value: Any) -> str:
    """Return any value from a file, made harmless, as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
