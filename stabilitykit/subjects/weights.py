"""What the weights are: their digest, their finiteness, and the addresses they lie at."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.numerics.digest import digest

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ALIGNMENT = 64  # bytes: what torch itself gives on the CPU
GRAIN = 32768  # elements that torch reduces in one thread: no barrier that waits for a busy core
THREADS = 4  # hashing releases the interpreter lock


def dtype_named(name: str) -> torch.dtype:
    """The dtype a model can be loaded in; UsageError lists the legal names."""
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r} is not one of {', '.join(DTYPES)}; choose one of these")
    return DTYPES[name]


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and persistent buffers in sorted order of their names; a shared one under its first name.

    Any shapes and dtypes. UsageError names the first tensor on the meta device, which holds no numbers. O(tensors).
    """
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_meta:
            raise UsageError(
                f"weight {name!r} is on the meta device and holds no numbers; load the model with all its weights on "
                "devices that compute, without offloading to disk or CPU"
            )
        if (place := _place(tensor)) not in seen:
            seen.add(place)
            found[name] = tensor
    return found


def weight_digest(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of `named_weights`: it identifies the weights themselves.

    Each tensor is hashed by itself, several at a time, and the list of names and hashes once more. With `dtype`,
    the digest the model would have after a cast of its floating weights. 64 hexadecimal digits; O(bytes), about
    0.2 s for 540 MB on two cores. UsageError as `named_weights`.
    """
    named = named_weights(model)

    def line(item: tuple[str, Tensor]) -> str:
        name, tensor = item
        cast = tensor.detach().to(dtype) if dtype and tensor.is_floating_point() else tensor
        return f"{name} {digest(cast)}\n"

    with ThreadPoolExecutor(THREADS) as pool:
        return hashlib.sha256("".join(pool.map(line, named.items())).encode()).hexdigest()


def check_finite(model: nn.Module) -> None:
    """InvalidError for a NaN or infinity in any weight: names the first tensor, flat index and count. One pass."""
    broken = [(name, tensor) for name, tensor in named_weights(model).items() if not _finite(tensor)]
    if not broken:
        return
    name, tensor = broken[0]
    places = (~torch.isfinite(tensor.detach().reshape(-1))).nonzero()
    more = f", and {len(broken) - 1} more tensors are damaged" if len(broken) > 1 else ""
    raise InvalidError(
        f"weight {name!r} holds {len(places)} non-finite values, the first at flat index {int(places[0])}{more}; "
        "nothing can be measured on it: get the weights again"
    )


def cast_weights(model: nn.Module, dtype: torch.dtype) -> list[str]:
    """Cast, in place, every floating parameter that is not of `dtype` yet; returns their names. O(bytes cast)."""
    others = [(n, p) for n, p in model.named_parameters() if p.is_floating_point() and p.dtype != dtype]
    for _, parameter in others:
        parameter.data = parameter.data.to(dtype)
    return [name for name, _ in others]


def canonical_weights(model: nn.Module) -> int:
    """Move, in place, each parameter and buffer whose address is not divisible by 64 to memory of its own that is.

    The address of a memory-mapped weight depends on the length of its file's header, and a matrix product may pick
    another kernel for another address: the same weights, other bits. Shared tensors stay shared. Returns how many
    tensors were moved; the cost is one copy of each. UsageError as `named_weights`.
    """
    named_weights(model)
    moved: dict[object, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            place = _place(tensor)
            if place not in moved:
                moved[place] = tensor.detach().clone(memory_format=torch.contiguous_format)
            tensor.data = moved[place]
    return len(moved)


def alignment(model: nn.Module) -> dict[str, int]:
    """How many parameters lie at each address modulo 64, such as {"0": 272}; empty tensors are left out. O(tensors)."""
    classes = Counter(p.data_ptr() % ALIGNMENT for p in model.parameters() if p.numel() and not p.is_meta)
    return {str(rest): count for rest, count in sorted(classes.items())}


def _place(tensor: Tensor) -> object:
    """Equal for two tensors that are the same memory seen the same way; an empty tensor is only like itself."""
    if not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: minima and maxima carry either, at a third of the cost of a mask."""
    values = tensor.detach()
    if not values.numel() or not (values.is_floating_point() or values.is_complex()):
        return True
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.element_size() == 1:  # float8 knows no arithmetic
        values = values.float()
    grain = GRAIN if values.device.type == "cpu" else values.numel()
    cuts = list(range(grain, values.numel(), grain))
    extremes = [bound for piece in values.reshape(-1).tensor_split(cuts) for bound in torch.aminmax(piece)]
    return bool(torch.isfinite(torch.stack(extremes)).all())
