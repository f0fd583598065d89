"""From a word to a model that is ready to be measured: resolved, read, checked, and named by its weights' digest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, StrictDataclassError

from stabilitykit.errors import UnreadableError, UsageError, first_line
from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects import smollm2, weights
from stabilitykit.subjects.checkpoint import read_model, read_tokenizer
from stabilitykit.subjects.hardware import device_named, devices_of
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.tiny import FAMILIES, byte_tokenizer, tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WAYS = (
    f"name one of: smollm2 (after `{smollm2.INSTALL}`), a Hugging Face id such as org/name or org/name@revision, "
    "a local folder of safetensors, a .gguf file, or tiny"
)
IN_MEMORY = "an object in memory"
"""The source of a model that came from no file."""
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
HUB_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"]
HUB_FILES += ["*token*.json", "vocab*", "merges.txt", "*.model", "*.jinja"]
IMPLEMENTATIONS = {"attn_implementation": "attention", "experts_implementation": "experts"}
MISTAKES = (TypeError, ValueError, ImportError, StrictDataclassError)  # what a wrong option makes transformers raise
# Arguments of `from_pretrained` that load_args may not set, and why.
RESERVED = {
    "dtype": "use dtype=",
    "torch_dtype": "use dtype=",
    "attn_implementation": "use attention=",
    "experts_implementation": "use experts=",
    "revision": "write org/name@revision",
    "trust_remote_code": "a model's own code is never run",
    "use_safetensors": "other formats are never read",
    "weights_only": "other formats are never read",
}


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel(Measurable):
    """A model in evaluation mode with frozen, finite weights; `digest` identifies them, whatever the name.

    `tokenizer` is None where there is none: prompts are then token ids. `spec` is the word it was asked for by,
    `source` where the weights came from, `notes` what was done to them, a sentence each.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    digest: str
    spec: str
    source: str
    notes: tuple[str, ...] = ()

    made_by: ClassVar[str] = "load(...) or adopt(model, tokenizer)"

    def __repr__(self) -> str:
        """Return what it is, without its modules."""
        return f"LoadedModel({self.spec}, {name_of(self.model.dtype)}, {self.digest[:12]})"

    @property
    def loaded(self) -> LoadedModel:
        """The model that the environment of a result is read from."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what identifies the weights and how they are held."""
        return {
            "name": self.spec,
            "model": self.spec,
            "model_digest": self.digest,
            "architecture": type(self.model).__name__,
            "dtype": name_of(self.model.dtype),
            "device": " ".join(map(str, devices_of(self.model))),
        }


def load(
    spec: str = "smollm2",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str | None = None,
    experts: str | None = None,
    load_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load `smollm2`, `tiny` or `tiny:FAMILY`, a local folder, a .gguf file, or a hub id `org/name[@revision]`.

    `dtype` (float32, float64, bfloat16, float16) becomes that of every floating parameter. `attention` and `experts`
    name the implementations of those layers. `load_args` goes to `from_pretrained`, or to the configuration of a tiny
    model, but for `canonical=False`: leave CPU weights at the addresses they were read to (see `canonical_weights`).
    Its `device_map` spreads the weights over devices, all of them in memory; `device` is then left out.
    Only safetensors and GGUF are read, and no code of the model's own is run. The hub is asked only for what its
    cache lacks, and not at all offline.

    UsageError: arguments that cannot be meant. UnreadableError: no such model, or a damaged one. InvalidError: a NaN
    or infinite weight. Cost: weights are read, copied and hashed once; about 0.6 s for SmolLM2 after its conversion.
    """
    kind, place = weights.dtype_named(dtype), device_named(device)
    given, canonical = _split(load_args or {})
    if "device_map" in given and place.type != "cpu":
        raise UsageError(f"device {device!r} and load argument device_map both say where weights go; leave device out")
    chosen = {"attn_implementation": attention, "experts_implementation": experts}
    options = given | {key: value for key, value in chosen.items() if value is not None}
    with _blamed_on(spec, options):
        model, tokenizer, source, notes = _read(spec, kind, options)
    if cast := weights.cast_weights(model, kind):
        notes += [f"{len(cast)} weights were cast to {dtype} as well, the first {cast[0]}"]
    if "device_map" not in given:
        model.to(place)
    loaded = adopt(model, tokenizer, spec=spec, source=source, canonical=canonical, notes=tuple(notes))
    if spec == "smollm2" and not given:
        smollm2.verify_weights(Path(source), dtype, loaded.digest)
    return loaded


def adopt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    spec: str = "given",
    source: str = IN_MEMORY,
    canonical: bool = True,
    notes: tuple[str, ...] = (),
) -> LoadedModel:
    """Check a model object and name it by its weights, for those who load or build their own.

    It is changed in place: evaluation mode, no gradients, and with `canonical` its CPU weights are moved to aligned
    addresses. UsageError for weights on the meta device, InvalidError for a NaN or infinite one. O(weights).
    """
    model.eval()
    model.requires_grad_(False)
    if canonical and all(p.device.type == "cpu" for p in model.parameters()):
        moved = weights.canonical_weights(model)
        notes += (f"every weight's address is divisible by 64; {moved} tensors were moved for that",)
    weights.check_finite(model)
    return LoadedModel(model, tokenizer, weights.weight_digest(model), spec, source, notes)


def available() -> list[dict[str, str]]:
    """What `load` can open without a network: rows of name, where and state. Reads no weights."""
    return [_smollm2_row(), *_hub_rows(), *_tiny_rows()]


def _read(spec: str, kind: torch.dtype, options: dict[str, Any]) -> tuple[Any, Any, str, list[str]]:
    """Model, tokenizer, source and notes of a spec."""
    nickname, _, family = spec.partition(":")
    if nickname == "tiny":
        if "device_map" in options:
            raise UsageError("a tiny model is built in one place; device_map needs a model that is loaded")
        config = {IMPLEMENTATIONS.get(key, key): value for key, value in options.items()}
        model = tiny(family or "llama", dtype=name_of(kind), **config)
        return model, byte_tokenizer(), "built from its configuration", []
    place = _resolve(spec)
    model = read_model(place, kind, **options)
    tokenizer, problem = read_tokenizer(place)
    notes = [problem] if problem else []
    if place.is_file():
        notes.append("the quantised weights were dequantised")
    return model, tokenizer, str(place), notes


def _resolve(spec: str) -> Path:
    """The folder or GGUF file a spec means; fetched or converted first if need be."""
    if spec == "smollm2":
        return smollm2.fetch()
    path = Path(spec).expanduser()
    if (spec and path.is_dir()) or (path.is_file() and path.suffix == ".gguf"):
        return path.resolve()
    if (spec and path.exists()) or path.suffix == ".gguf":
        problem = "is neither a folder nor a .gguf file" if path.exists() else "does not exist"
        raise UnreadableError(f"{spec!r} {problem}; {WAYS}")
    if match := HUB_ID.fullmatch(spec):
        return _hub_folder(match[1], match[2])
    raise UnreadableError(f"no model {spec!r}; {WAYS}")


def _hub_folder(name: str, revision: str | None) -> Path:
    wanted: dict[str, Any] = {"repo_id": name, "revision": revision, "allow_patterns": HUB_FILES}
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        if constants.HF_HUB_OFFLINE or _is_complete(folder):
            return folder
    except (OSError, ValueError) as error:
        if constants.HF_HUB_OFFLINE:
            raise UnreadableError(
                f"{name!r} is neither a folder nor in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it; "
                f"fetch it once online, or {WAYS}"
            ) from error
    try:
        return Path(snapshot_download(**wanted))
    except Exception as error:  # each way a network can fail has its own class
        raise UnreadableError(f"cannot fetch {name!r} from the hub ({first_line(error)}); {WAYS}") from error


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot has a configuration and every file of weights that it names."""
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / file).is_file() for file in {"config.json", *files})


def _split(load_args: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """What goes to `from_pretrained`, and whether weights are moved to canonical addresses."""
    given = dict(load_args)
    canonical = given.pop("canonical", True)
    if not isinstance(canonical, bool):
        raise UsageError(f"load argument canonical={canonical!r} must be True or False")
    if taken := [key for key in given if key in RESERVED]:
        raise UsageError(f"load argument {taken[0]!r} cannot be given: {RESERVED[taken[0]]}")
    return given, canonical


@contextmanager
def _blamed_on(spec: str, options: Mapping[str, Any]) -> Iterator[None]:
    """UsageError instead of what an option that this model does not know, or cannot have, makes transformers raise."""
    try:
        yield
    except (UnreadableError, *MISTAKES) as error:
        cause = error.__cause__ if isinstance(error, UnreadableError) else error
        if not options or isinstance(cause, UsageError) or not isinstance(cause, MISTAKES):
            raise
        asked = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise UsageError(
            f"{spec} cannot be loaded with {asked} ({first_line(cause)}); leave it out or correct it"
        ) from error


def _smollm2_row() -> dict[str, str]:
    folder, package = smollm2.converted_folder(), smollm2.packaged_file()
    if folder.exists():
        return {"name": "smollm2", "where": str(folder), "state": "ready"}
    if package:
        return {"name": "smollm2", "where": str(package), "state": "needs conversion (once, about 30 s, at first load)"}
    return {"name": "smollm2", "where": "", "state": f"missing: {smollm2.INSTALL}"}


def _hub_rows() -> Iterator[dict[str, str]]:
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions if repo.repo_type == "model" else ():
            if _is_complete(revision.snapshot_path):
                name = f"{repo.repo_id}@{revision.commit_hash[:12]}"
                yield {"name": name, "where": str(revision.snapshot_path), "state": "ready"}


def _tiny_rows() -> Iterator[dict[str, str]]:
    for family in FAMILIES:
        yield {"name": f"tiny:{family}", "where": "built from its configuration", "state": "ready"}
