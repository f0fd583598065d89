"""T15: a small file system is full after some number of bytes; the old files stay.

The file system is a tmpfs of 64 MB in a mount name space of the trial's own. Where that is not permitted the process
gets a limit of the size of a file instead.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable

from oracles import filled_disk
from oracles.forge import environment
from torture.campaign import Campaign, Trial, scratch

OFFSETS = 20


@functools.cache
def small_disks() -> bool:
    """Whether this user may mount a tmpfs in a name space of its own."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(scratch("disk"))]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


def full(number: int, defect: str = "") -> str | None:
    """Write baseline, recording, report and journal once; again when few bytes are left."""
    place = scratch("disk")
    left = 200 + filled_disk.NEEDED // OFFSETS * (number * 7 % OFFSETS)
    command = [
        sys.executable,
        filled_disk.__file__,
        str(place),
        str(left),
        "disk" if small_disks() else "limit",
        defect,
    ]
    if small_disks():
        mount = f'mount -t tmpfs -o size=64m tmpfs "{place}" && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", *command]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip().splitlines() or ["nothing said"]
    return f"{left} bytes left: {said[-1]}"


def _planted(defect: Callable) -> Trial:
    return lambda number: full(number, defect.__name__)


CAMPAIGNS = [
    Campaign(
        "T15",
        "the disk is full at one of 20 bytes while journal, baseline, recording and report are written: the old ones "
        "stay, and the error names path and bytes",
        "offsets",
        full=OFFSETS,
        ci=1,
        trial=full,
        planted={"files are rewritten where they lie": _planted(filled_disk.in_place)},
        note="a tmpfs of 64 MB in a mount name space of its own, or a limit of file sizes where none is permitted",
    )
]
