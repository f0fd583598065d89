"""The weights of a model that need not run: from a folder of safetensors or in memory, one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from stabilitykit.errors import UnreadableError, first_line
from stabilitykit.numerics.bits import FORMATS, name_of
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.checkpoint import quiet, refuse_code
from stabilitykit.subjects.headers import check_header, header_of
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.weights import named_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from stabilitykit.subjects.models import LoadedModel

INDEX = "model.safetensors.index.json"
# The names of the format for what the kit computes with; others are kept under their own names.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATING = {name_of(dtype) for dtype in FORMATS}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a tensor before it is read."""

    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether it holds numbers that the kit computes with: float16, bfloat16, float32 or float64."""
        return self.dtype in _FLOATING


class Checkpoint(Measurable):
    """The weights in a folder of safetensors: one file, or shards with or without their index; no model is built.

    `entries` maps each tensor's name to its dtype and shape, read from the headers; `checkpoint[name]` reads one
    tensor, in its own dtype, and keeps nothing. `Checkpoint.of(loaded)` is the same of a model in memory. Weights that
    share memory stand once. UnreadableError for a damaged file, for shards that hold a name twice, and for an index
    that names what is not there, leaves something out, or points out of the folder. No pickle is read.
    """

    made_by: ClassVar[str] = 'Checkpoint("folder") or Checkpoint.of(loaded)'

    def __init__(self, folder: str | Path) -> None:
        self.folder: Path | None = Path(folder).expanduser().resolve()
        self.loaded: LoadedModel | None = None
        self.name = self.folder.name
        self.entries: Mapping[str, Entry] = _entries(self.folder)
        self._read: Callable[[str], Tensor] = self._from_file

    @classmethod
    def of(cls, loaded: LoadedModel) -> Checkpoint:
        """Return the weights of a model in memory, under the names that a saved folder has for them."""
        first = {id(tensor): name for name, tensor in reversed(loaded.model.state_dict(keep_vars=True).items())}
        found = {first.get(id(tensor), name): tensor.detach() for name, tensor in named_weights(loaded.model).items()}
        self = cls.__new__(cls)
        self.folder, self.loaded, self.name = None, loaded, loaded.spec
        self.entries = {name: Entry(name_of(t.dtype), tuple(t.shape)) for name, t in sorted(found.items())}
        self._read = found.__getitem__
        return self

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor on the CPU; KeyError for a name that is not there. Cost: its bytes."""
        if name not in self.entries:
            raise KeyError(name)
        return self._read(name).cpu()

    def describe(self) -> dict[str, Any]:
        """Return what identifies the weights; the first call on a folder reads all of them for their digest."""
        parameters = Counter[str]()
        for entry in self.entries.values():
            parameters[entry.dtype] += entry.size
        counted = {"tensors": len(self.entries), "parameters": parameters.total()}
        if self.loaded is not None:
            return {**self.loaded.describe(), **counted}
        return {
            "name": self.name,
            "model": self.name,
            "model_digest": self.digest,
            "dtype": parameters.most_common(1)[0][0],
            **counted,
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the name and digest of each tensor, 64 hexadecimal digits. Cost: every byte is read once."""
        lines = (f"{name} {digest(self[name])}\n" for name in self.entries)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration of the language model; UnreadableError where the folder has none that is known."""
        if self.loaded is not None:
            return self.loaded.model.config.get_text_config()
        folder = cast("Path", self.folder)
        refuse_code(folder)
        try:
            with quiet():
                config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # each way a configuration can be wrong has its own class
            raise UnreadableError(f"cannot read the configuration in {folder} ({first_line(error)})") from error
        return config.get_text_config()

    def _from_file(self, name: str) -> Tensor:
        """Read through a handle of its own: pages of a file that stays open would count as memory in use."""
        path = cast("Path", self.entries[name].file)
        try:
            with safe_open(path, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UnreadableError(f"{path} cannot be read: {first_line(error)}") from error
        return tensor


def _entries(folder: Path) -> dict[str, Entry]:
    if not folder.is_dir():
        raise UnreadableError(f"{folder} is not a folder; name one that holds .safetensors files")
    index = _index(folder)
    files = sorted({folder / name for name in index.values()} if index else folder.glob("*.safetensors"))
    if not files:
        raise UnreadableError(f"{folder} holds no .safetensors weights; save them with model.save_pretrained(folder)")
    found: dict[str, Entry] = {}
    for file in files:
        for name, entry in _header(file):
            if name in found:
                raise UnreadableError(f"{file} holds {name!a}, and so does {found[name].file}; remove one of them")
            if index and index.get(name) != file.name:
                raise UnreadableError(f"{file} holds {name!a}, which {INDEX} does not place there; get the model again")
            found[name] = entry
    if missing := sorted(set(index) - set(found)):
        raise UnreadableError(f"{folder / INDEX} names {missing[0]!a}, which no file holds; get the model again")
    if not found:
        raise UnreadableError(f"the files in {folder} hold no tensors")
    return dict(sorted(found.items()))


def _index(folder: Path) -> dict[str, str]:
    """Return the file of each tensor as the folder's index has it; empty without an index."""
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        placed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = set(placed.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"cannot read {path} ({first_line(error)}); get the model again") from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise UnreadableError(f"{path} names the file {file!a}, which is not a .safetensors file beside it")
        if not (folder / file).is_file():
            raise UnreadableError(f"{path} names {file!a}, which is missing; get the model again")
    return dict(placed)


def _header(file: Path) -> list[tuple[str, Entry]]:
    try:
        check_header(header_of(file), file)
        with safe_open(file, framework="pt") as opened:
            slices = [(name, opened.get_slice(name)) for name in opened.keys()]  # noqa: SIM118 - no mapping
            return [(n, Entry(_named(s.get_dtype()), tuple(s.get_shape()), file)) for n, s in slices]
    except (OSError, SafetensorError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{file} cannot be read: {first_line(error)}") from error


def _named(dtype: str) -> str:
    return _DTYPES.get(dtype, dtype.lower())
