"""Devices by name: whether there is one, how many are visible, and which are of one kind."""

from __future__ import annotations

import torch
from torch import nn

from stabilitykit.errors import UsageError

ONE_OF_A_KIND = ("cpu", "mps")
"""Types of which a machine has one: the type says which kind it is."""


def device_named(name: str) -> torch.device:
    """Return a device that this process can compute on; UsageError for a name that is none, or of none here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0].strip().rstrip(".")
        raise UsageError(f"device {name!r} is not one ({reason}); write cpu, cuda or cuda:1") from None
    if device.type == "meta":
        raise UsageError("device 'meta' holds no numbers; write cpu, cuda or cuda:1")
    if device.type != "cpu" and not torch.get_device_module(device).is_available():
        raise UsageError(f"device {name!r} is not available to this torch ({torch.__version__}); use device='cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} does not exist: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def visible(kind: str) -> tuple[str, ...]:
    """Return every device of a type, such as cuda, that the caller lets this process see, in the caller's order.

    Indices count in that list (CUDA_VISIBLE_DEVICES), not in the machine. UsageError where there is none.
    """
    device_named(kind)
    if kind in ONE_OF_A_KIND:
        return (kind,)
    return tuple(f"{kind}:{index}" for index in range(torch.get_device_module(kind).device_count()))


def kind_of(name: str) -> str:
    """Return what a device is: its type, or the card's name; two of one kind promise the same bits."""
    device = device_named(name)
    if device.type in ONE_OF_A_KIND:
        return device.type
    return str(torch.get_device_module(device).get_device_name(device))


def devices_of(model: nn.Module) -> list[torch.device]:
    """Return the devices that the weights lie on, in the order of the weights; more than one under a `device_map`."""
    return list(dict.fromkeys(weight.device for weight in model.parameters()))


def device_map_of(model: nn.Module) -> dict[str, str]:
    """Return which part of the model is where, as its loader was told or has decided; empty where it is in one place.

    Kept by transformers and accelerate as `hf_device_map`: names of modules to devices.
    """
    return {name: _spelled(place) for name, place in (getattr(model, "hf_device_map", None) or {}).items()}


def _spelled(place: object) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def make_current(name: str) -> None:
    """Let this process's own choices, such as a kernel that asks for `cuda`, fall on a device that it measures on."""
    if torch.device(name).index is not None and torch.get_device_module(name).is_available():
        torch.get_device_module(name).set_device(name)
