"""How many bytes a device has free, the refusal of work that would take more, and how one hears that none are left."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch

from stabilitykit.errors import UnsupportedError

_LINUX = Path("/proc/meminfo")


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that can be taken on a device, those the system would free for it included; None if unknown."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if _LINUX.exists():
        stated = dict(line.split(":", 1) for line in _LINUX.read_text().splitlines())
        return 1024 * int(stated["MemAvailable"].split()[0])
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def require(needed: int, what: str, instead: str) -> None:
    """UnsupportedError with both counts, and what to do `instead`, if so many bytes are not free on the CPU."""
    free = free_bytes()
    if free is not None and needed > free:
        raise UnsupportedError(f"{what} takes {needed:,} bytes and {free:,} are free; {instead}")


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
