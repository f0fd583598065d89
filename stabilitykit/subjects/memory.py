"""What memory a device has left, and how one hears that there is none."""

from __future__ import annotations

import gc
import os

import torch


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device, None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on any device."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory")
    )


def release() -> None:
    """Give back what is not used any more, so that a smaller batch finds it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
