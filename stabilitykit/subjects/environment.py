"""What a measurement ran on, field by field, and a short key over the fields that decide its bits.

Nothing here names a person or a host: environment variables are read from a list of allowed names only.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from stabilitykit.numerics.bits import name_of
from stabilitykit.subjects.hardware import device_map_of, devices_of
from stabilitykit.subjects.weights import alignment

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

Plain = str | int | float | bool | None
Kind = Literal["identity", "context", "noise"]

CBWR_BRANCH = 1  # mkl_cbwr_get(MKL_CBWR_BRANCH): 1 off, 2 auto, 3 compatible, 4.. one instruction set each
# Whatever these set can be read back, and the effect is a field of its own.
VARIABLES_WITH_EFFECT = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
VARIABLES_THAT_DECIDE = (
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
# What belongs to a model and its device.
_OF_MODEL = ("device", "dtype", "attention", "experts", "weight_alignment", "cuda", "cudnn", "gpu")
VARIABLES_ASIDE = ("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "HF_HUB_OFFLINE", "PYTHONHASHSEED")


def environment(model: LoadedModel | None = None) -> dict[str, Plain]:
    """Every field of `KINDS`, JSON-plain; what cannot be read here is None, what fails is the text of its error.

    Without a model its fields are None, and CUDA fields describe the current device; with one on the CPU they are None.
    Never raises. Cost: milliseconds, and one pass over the list of parameters.
    """
    return {name: _guarded(read, model) for name, (_, read) in _FIELDS.items()}


def numeric_key(record: Mapping[str, Any]) -> str:
    """12 hexadecimal digits over the identity fields: equal keys promise equal bits of equal weights on equal inputs.

    The weights' digest is not among them: the same weights on two machines are a comparison, not a mistake. A field
    that the record lacks counts as None.
    """
    identity = {name: record.get(name) for name in identity_fields()}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def changes(ours: Mapping[str, Any], theirs: Mapping[str, Any], kinds: Sequence[Kind]) -> list[tuple[str, Any, Any]]:
    """Return the fields of these kinds that two records do not share, with both values, in the order of `KINDS`."""
    pairs = [(name, ours.get(name), theirs.get(name)) for name, kind in KINDS.items() if kind in kinds]
    return [(name, left, right) for name, left, right in pairs if left != right]


def identity_fields(*, of_models: bool = True) -> list[str]:
    """Return the fields that decide bits; without `of_models` only the machine's, which all its models share."""
    names = [name for name, kind in KINDS.items() if kind == "identity"]
    return names if of_models else [name for name in names if not name.startswith(_OF_MODEL)]


def _guarded(read: Callable[[LoadedModel | None], Plain], model: LoadedModel | None) -> Plain:
    try:
        return read(model)
    except Exception as error:  # provenance must never stop a measurement
        return f"error: {type(error).__name__}: {error}"


def _of_machine(read: Callable[[], Plain]) -> Callable[[LoadedModel | None], Plain]:
    return lambda _model: read()


def _of_model(read: Callable[[LoadedModel], Plain]) -> Callable[[LoadedModel | None], Plain]:
    return lambda model: None if model is None else read(model)


def _of_gpu(read: Callable[[int], Plain]) -> Callable[[LoadedModel | None], Plain]:
    """Of the model's CUDA device, or without a model of the current one; None on the CPU.

    Of a model that lies on several cards, what differs between them in a list.
    """

    def of(model: LoadedModel | None) -> Plain:
        if not torch.cuda.is_available():
            return None
        everywhere = [torch.device("cuda")] if model is None else devices_of(model.model)
        cards = [one for one in everywhere if one.type == "cuda"]
        if not cards:
            return None
        found = dict.fromkeys(read(torch.cuda.current_device() if one.index is None else one.index) for one in cards)
        return next(iter(found)) if len(found) == 1 else ", ".join(map(str, found))

    return of


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _built_with(pattern: str) -> str | None:
    found = re.search(pattern, torch.__config__.show())
    return found[1] if found else None


@cache
def _cpu() -> str:
    """Name and family numbers where Linux tells them: the name alone may be as vague as the maker's."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    keys = ("model name", "vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    found = [re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE) for key in keys]
    return ", ".join(match[1] for match in found if match) or platform.processor() or platform.machine()


def _instruction_sets() -> str | None:
    read = getattr(torch.cpu, "get_capabilities", None)
    return None if read is None else " ".join(sorted(name for name, has in read().items() if has is True))


def _mkl_branch() -> int | None:
    """The code path MKL really takes, whatever MKL_CBWR asks for; None where torch has no MKL of its own."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return None
    read = getattr(ctypes.CDLL(str(library)), "mkl_serv_cbwr_get", None)
    return None if read is None else int(read(CBWR_BRANCH))


def _flushes_denormals() -> bool:
    """Whether the smallest positive float32 times 1 is zero in this thread."""
    smallest = torch.tensor([1], dtype=torch.int32).view(torch.float32)
    return (smallest * 1.0).view(torch.int32).item() == 0


def _sdpa_kernels() -> str:
    switches = {
        name: getattr(torch.backends.cuda, f"{name}_sdp_enabled") for name in ("flash", "mem_efficient", "math")
    }
    return " ".join(name for name, enabled in switches.items() if enabled())


def _driver(_index: int) -> str | None:
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+[\d.]*)\s", path.read_text(encoding="utf-8")) if path.exists() else None
    return found[1] if found else None


def _capability(index: int) -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability(index))


def _device_types(model: LoadedModel) -> str:
    return " ".join(dict.fromkeys(one.type for one in devices_of(model.model)))


def _ranks(model: LoadedModel) -> int | None:
    """Of how many processes each holds a share of the matrices; None for a model that is held whole."""
    meshes = (getattr(weight, "device_mesh", None) for weight in model.model.parameters())
    return next((int(mesh.size()) for mesh in meshes if mesh is not None), None)


def _device_map(model: LoadedModel) -> str | None:
    parts: dict[str, list[str]] = {}
    for name, device in device_map_of(model.model).items():
        parts.setdefault(device, []).append(name or "all")
    return "; ".join(f"{device}: {' '.join(names)}" for device, names in parts.items()) or None


def _dtypes(model: LoadedModel) -> str:
    return " ".join(sorted({name_of(p.dtype) for p in model.model.parameters()}))


def _alignment_classes(model: LoadedModel) -> str:
    return " ".join(alignment(model.model))


def _alignment_counts(model: LoadedModel) -> str:
    return " ".join(f"{rest}:{count}" for rest, count in alignment(model.model).items())


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


_Field = tuple[Kind, Callable[["LoadedModel | None"], Plain]]
_FIELDS: dict[str, _Field] = {
    "torch": ("identity", _of_machine(lambda: str(torch.__version__))),
    "transformers": ("identity", _of_machine(lambda: _version("transformers"))),
    "cpu": ("identity", _of_machine(_cpu)),
    "cpu_instruction_sets": ("identity", _of_machine(_instruction_sets)),
    "cpu_capability": ("identity", _of_machine(torch.backends.cpu.get_cpu_capability)),
    "threads": ("identity", _of_machine(torch.get_num_threads)),
    "mkl": ("identity", _of_machine(lambda: _built_with(r"Math Kernel Library Version (\S+)"))),
    "mkl_cbwr": ("identity", _of_machine(_mkl_branch)),
    "onednn": ("identity", _of_machine(lambda: _built_with(r"MKL-DNN v(\S+)"))),
    "onednn_enabled": ("identity", _of_machine(lambda: bool(torch.backends.mkldnn.enabled))),
    "flush_denormal": ("identity", _of_machine(_flushes_denormals)),
    "deterministic": ("identity", _of_machine(torch.are_deterministic_algorithms_enabled)),
    "matmul_precision": ("identity", _of_machine(torch.get_float32_matmul_precision)),
    "tf32_matmul": ("identity", _of_machine(lambda: torch.backends.cuda.matmul.allow_tf32)),
    "tf32_cudnn": ("identity", _of_machine(lambda: torch.backends.cudnn.allow_tf32)),
    "cudnn_benchmark": ("identity", _of_machine(lambda: torch.backends.cudnn.benchmark)),
    "sdpa_kernels": ("identity", _of_machine(_sdpa_kernels)),
    "cuda": ("identity", _of_gpu(lambda _: torch.version.cuda)),
    "cudnn": ("identity", _of_gpu(lambda _: torch.backends.cudnn.version())),  # type: ignore[no-untyped-call]
    "gpu": ("identity", _of_gpu(torch.cuda.get_device_name)),
    "gpu_capability": ("identity", _of_gpu(_capability)),
    "gpu_processors": ("identity", _of_gpu(lambda i: torch.cuda.get_device_properties(i).multi_processor_count)),
    "gpu_driver": ("context", _of_gpu(_driver)),
    "gpu_uuid": ("noise", _of_gpu(lambda i: str(torch.cuda.get_device_properties(i).uuid))),
    "device": ("identity", _of_model(_device_types)),
    "tensor_parallel": ("identity", _of_model(_ranks)),
    "device_map": ("context", _of_model(_device_map)),
    "dtype": ("identity", _of_model(_dtypes)),
    "attention": ("identity", _of_model(lambda model: model.model.config._attn_implementation)),
    "experts": ("identity", _of_model(lambda model: model.model.config._experts_implementation)),
    "weight_alignment": ("identity", _of_model(_alignment_classes)),
    "weight_alignment_counts": ("context", _of_model(_alignment_counts)),
    "weight_digest": ("context", _of_model(lambda model: model.digest)),
    "kit": ("context", _of_machine(lambda: _version("stabilitykit"))),
    "numpy": ("context", _of_machine(lambda: _version("numpy"))),
    "safetensors": ("context", _of_machine(lambda: _version("safetensors"))),
    "python": ("context", _of_machine(platform.python_version)),
    "platform": ("context", _of_machine(platform.platform)),
    "cores": ("context", _of_machine(os.cpu_count)),
    "interop_threads": ("context", _of_machine(torch.get_num_interop_threads)),
    "load_average": ("noise", _of_machine(_load_average)),
    "time_utc": ("noise", _of_machine(lambda: datetime.now(UTC).isoformat(timespec="seconds"))),
}


def _variables(names: tuple[str, ...], kind: Kind) -> dict[str, _Field]:
    return {f"env.{name}": (kind, _of_machine(partial(os.environ.get, name))) for name in names}


_FIELDS |= _variables(VARIABLES_THAT_DECIDE, "identity")
_FIELDS |= _variables(VARIABLES_WITH_EFFECT, "context")
_FIELDS |= _variables(VARIABLES_ASIDE, "noise")

KINDS: dict[str, Kind] = {name: kind for name, (kind, _) in _FIELDS.items()}
"""Identity decides bits, context explains them, noise changes from run to run."""
