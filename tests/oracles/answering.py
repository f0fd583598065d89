"""A module that answers a request by what it says: with its process, by dying, or late."""

import os
import signal
import sys
import time
from pathlib import Path

from stabilitykit.errors import InvalidError
from stabilitykit.subjects import launch


def main(folder):
    place = Path(folder)
    asked = launch.request_of(place)["ask"]
    if asked == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if asked == "raise":
        raise InvalidError("nan at 3")
    if asked == "sleep":
        time.sleep(60)
    print("a line of its own")
    launch.answered(place, {"process": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")})


if __name__ == "__main__":
    main(sys.argv[1])
