"""Reading a model folder or a GGUF file: safetensors only, no code from the folder, nothing filled in silently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from stabilitykit.errors import UnreadableError, first_line
from stabilitykit.subjects.headers import check_header, header_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Read by transformers as if the user had typed them; up to 5.2 they could fetch and run code (CVE-2026-4372).
FORBIDDEN_KEYS = ("_attn_implementation", "_experts_implementation")

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


def read_model(place: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model in a folder of safetensors, or in a GGUF file, dequantised to dense weights.

    `options` go to `from_pretrained`. UnreadableError for a folder that needs code of its own, for a damaged file, and
    for a checkpoint that lacks a weight (which would be random). Cost: the file is read, or mapped, once.
    """
    if place.is_dir():
        refuse_code(place)
        _require_safetensors(place)
        where: dict[str, Any] = {"pretrained_model_name_or_path": place, "use_safetensors": True}
    else:
        where = {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name, **_dequantised()}
    safe = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    with quiet(), _readable(place):
        model, report = AutoModelForCausalLM.from_pretrained(**where, **safe, dtype=dtype, **options)
    if missing := sorted(report["missing_keys"]):
        raise UnreadableError(
            f"{place} lacks {len(missing)} weights of {type(model).__name__}, the first {missing[0]!r}; "
            "get the whole model again"
        )
    return model


def _dequantised() -> dict[str, Any]:
    """Ask for dense weights; transformers without the setting has no packed ones to choose."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def read_tokenizer(place: Path) -> tuple[PreTrainedTokenizerBase | None, str]:
    """The tokenizer beside the weights and "", or None and the reason why prompts can only be token ids."""
    where: dict[str, Any] = {"pretrained_model_name_or_path": place}
    if place.is_dir() and not any(found for pattern in VOCABULARIES for found in place.glob(pattern)):
        return None, f"no tokenizer in {place}: prompts are token ids"  # transformers would make up an empty one
    if place.is_file():
        where = {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(**where, local_files_only=True, trust_remote_code=False), ""
    except Exception as error:  # tokenizers raises bare Exception, and a model without text is still a model
        return None, f"no tokenizer ({first_line(error)}): prompts are token ids"


def refuse_code(folder: Path) -> None:
    """UnreadableError unless the folder's configuration is one that transformers itself implements. O(config.json)."""
    config = read_config(folder)
    family = config.get("model_type")
    if "auto_map" in config and family not in CONFIG_MAPPING:
        raise UnreadableError(
            f"{folder} has model type {family!r} and an auto_map: it runs Python code of its own, which is never done; "
            "convert it to an architecture that transformers implements"
        )
    if forbidden := sorted(set(_forbidden_keys(config))):
        raise UnreadableError(
            f"{folder / 'config.json'} sets {forbidden[0]!r}, which can name code to run; "
            "delete the key, and choose with attention= or experts="
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json as a mapping; UnreadableError if it is missing or is not one."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnreadableError(f"{folder} is not a model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot read {path} ({first_line(error)}); get the model again") from error
    if not isinstance(config, dict):
        raise UnreadableError(f"{path} is not a mapping; get the model again")
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside; the user's choice is restored."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a damaged file makes transformers, safetensors or gguf raise
        raise UnreadableError(f"cannot load {place} ({type(error).__name__}: {first_line(error)})") from error


def _require_safetensors(folder: Path) -> None:
    """UnreadableError without a file of weights, or for a header that is not read; see `headers.check_header`."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        check_header(header_of(file), file)
    if not files:
        raise UnreadableError(
            f"{folder} holds no .safetensors weights; other formats can run code when read: "
            "convert with model.save_pretrained(folder)"
        )


def _forbidden_keys(config: dict[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key.startswith(FORBIDDEN_KEYS):
            yield key
        if isinstance(value, dict):
            yield from _forbidden_keys(value)
