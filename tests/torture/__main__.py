"""`python tests/torture`: see `runner.py`; `python tests/torture mutants`: see `mutants/command.py`."""

import os
import sys
from pathlib import Path

# This folder's own modules are `torture.x`, never `x`.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE)]
# Before torch is imported: a trial is one thread, and nothing is fetched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if __name__ == "__main__":
    if "mutants" in sys.argv[1:]:
        from torture.mutants.command import main as mutants

        sys.exit(mutants([word for word in sys.argv[1:] if word != "mutants"]))
    from torture.runner import main

    sys.exit(main())
